"""Write down what Transformers 4.57 answers to questions and writes, with small models that both sides make of seeds.

    python tests/golden/make_golden_written.py
    python tests/golden/make_golden_written.py --compare 300 [TASK ...]

needs an environment of its own, ``pip install 'transformers==4.57.*' torch tokenizers sentencepiece`` and numtx: of
these tasks Transformers 5 has only text-generation. The questions stand in `written_questions`;
``pipelines/written.json.gz`` holds one answer to each, and the versions that gave them. With ``--compare N``, N texts a
task instead are asked of both, nothing is written, and what differs is printed.
"""

import argparse
import gzip
import json
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline_questions import answer, differences
from written_questions import TASKS, make_folders, questions

import numtx

FILE = Path(__file__).parent / "pipelines" / "written.json.gz"


def theirs(task, folder, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.pipeline(task, str(folder), **settings)


def compare(folders, number, tasks):
    differ = asked = 0
    for task, model, settings, inputs, options in questions(number, tasks):
        before = time.perf_counter()
        try:
            expected = answer(theirs(task, folders[model], **settings), inputs, options)
        except Exception as error:
            print("THEIRS", task, model, settings, options, error)
            continue
        between = time.perf_counter()
        ours = answer(numtx.pipeline(task, folders[model], **settings), inputs, options)
        found = list(differences(ours, expected))
        asked, differ = asked + 1, differ + bool(found)
        print(model, options, round(between - before, 2), round(time.perf_counter() - between, 2), flush=True)
        for line in found[:5]:
            print(task, model, settings, options, line)
    print(f"{asked} questions of {number} texts, {differ} answered otherwise")


def write(folders):
    answers = []
    for task, model, settings, inputs, options in questions():
        answers.append(answer(theirs(task, folders[model], **settings), inputs, options))
    versions = {package: version(package) for package in ("transformers", "tokenizers", "torch")}
    text = json.dumps({"versions": versions, "answers": answers}, ensure_ascii=True, separators=(",", ":"))
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(gzip.compress(text.encode("ascii"), mtime=0))
    print(f"{len(answers)} answers, {FILE.stat().st_size} bytes")


def main():
    if not transformers.__version__.startswith("4.57"):
        raise SystemExit(f"expected transformers 4.57, whose pipelines are meant, got {transformers.__version__}")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--compare", type=int, metavar="N", help="texts a task, asked of both")
    parser.add_argument("tasks", nargs="*", default=TASKS, metavar="TASK", help="for --compare; default all")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity(50)
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_folders(Path(scratch))
        if arguments.compare:
            compare(folders, arguments.compare, arguments.tasks)
        else:
            write(folders)


if __name__ == "__main__":
    main()
