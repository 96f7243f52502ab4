"""Write down what the pipelines of Transformers 4.57 answer, with small models that both sides make of seeds.

    python tests/golden/make_golden_pipelines.py
    python tests/golden/make_golden_pipelines.py --compare 300

needs an environment of its own, ``pip install 'transformers==4.57.*' 'torch' 'tokenizers'`` and numtx: Transformers 5
took some of these tasks away. The questions stand in `pipeline_questions`; ``pipelines/answers.json.gz`` holds one
answer to each, and the versions that gave them. With ``--compare N``, N texts a task instead are asked of both, nothing
is written, and what differs is printed.
"""

import argparse
import gzip
import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline_questions import answer, differences, make_folders, questions

import numtx

FILE = Path(__file__).parent / "pipelines" / "answers.json.gz"


def theirs(task, folder, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.pipeline(task, str(folder), **settings)


def compare(folders, number):
    differ = asked = 0
    for task, model, settings, inputs, options in questions(number):
        ours = answer(numtx.pipeline(task, folders[model], **settings), inputs, options)
        found = list(differences(ours, answer(theirs(task, folders[model], **settings), inputs, options)))
        asked, differ = asked + 1, differ + bool(found)
        for line in found[:5]:
            print(task, model, settings, options, line)
    print(f"{asked} questions of {number} texts, {differ} answered otherwise")


def write(folders):
    answers = []
    for task, model, settings, inputs, options in questions():
        answers.append(answer(theirs(task, folders[model], **settings), inputs, options))
        print(task, model, settings, options)
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
    arguments = parser.parse_args()
    transformers.logging.set_verbosity(50)
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_folders(Path(scratch))
        if arguments.compare:
            compare(folders, arguments.compare)
        else:
            write(folders)


if __name__ == "__main__":
    main()
