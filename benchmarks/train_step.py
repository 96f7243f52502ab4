"""A training step beside PyTorch's eager mode: same model, same weights, same batches, in turn in one process.

    python benchmarks/train_step.py                 # the shapes nano, small, baby and vocabulary, three runs each
    python benchmarks/train_step.py --only nano --json rows.json

The step of numtx is the loop's own, from drawing the batch to the updated weights; PyTorch makes its steps between
them. Needs `pip install torch`.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from measure import (
    Row,
    gemm_rate,
    median,
    peak_megabytes,
    peak_of,
    peak_of_children,
    print_table,
    reset_peak,
    write_json,
)

from numtx.models import GPT2Config, GPT2LMHeadModel
from numtx.training import Callback, TrainingConfig, TrainingLoop, Workers

THREADS = 2
LIMIT = 1.0  # the ratio of times that is promised
GAP = 1e-4  # between the losses of two right implementations in float32, after some dozen steps


@dataclass(frozen=True)
class Shape:
    vocabulary: int
    layers: int
    heads: int
    width: int
    context: int
    batch: int
    turn: int  # steps in a row before it is the other's turn
    turns: int

    @property
    def gflop(self):
        """Work of a step: each weight is used in three products; of attention the causal half counts."""
        tokens = self.batch * self.context
        weights = 12 * self.layers * self.width**2 + self.vocabulary * self.width
        attention = self.layers * self.context * self.width  # Q Kᵀ and P V of a token, which sees half of the keys
        return 6 * (weights + attention) * tokens / 1e9


SHAPES = {
    "nano": Shape(65, 4, 4, 128, 64, 12, turn=20, turns=5),
    "small": Shape(512, 4, 4, 256, 128, 16, turn=4, turns=5),
    "baby": Shape(65, 6, 6, 384, 256, 16, turn=2, turns=4),
    "vocabulary": Shape(50257, 4, 4, 256, 256, 8, turn=2, turns=4),
}


def training_loop(shape, steps, callbacks=()):
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.context,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    tokens = np.random.default_rng(0).integers(shape.vocabulary, size=100_000)
    settings = TrainingConfig(
        steps=steps, batch=shape.batch, context=shape.context, threads=THREADS, shards=THREADS, eval_every=steps
    )
    return TrainingLoop(GPT2LMHeadModel(config, rng=0), tokens, plan=settings, callbacks=callbacks)


def opponent(ours, shape):
    import torch
    from torch_gpt import TorchTraining

    torch.set_num_threads(THREADS)
    config = ours.plan
    return TorchTraining(shape, ours.model.to_checkpoint(), config.lr, config.betas, config.weight_decay, config.clip)


def pair(loop, step):
    """Return inputs and labels of a step of one batch."""
    (batch,) = loop.batches.at_step(step)
    return batch["input_ids"], batch["shift_labels"]


class InTurn(Callback):
    """After some steps of numtx, let PyTorch make the same ones, and keep the times of both.

    Several steps in a row, because right after a step of PyTorch its threads still spin on the cores for a while, and
    the caches are full of its data. The first turn of each is a warm-up.
    """

    def __init__(self, shape):
        self.shape = shape
        self.ours, self.theirs, self.loss_gap = [], [], 0.0
        self.reports = []

    @property
    def steps(self):
        return (self.shape.turns + 1) * self.shape.turn

    def on_start(self, loop):
        self.torch = opponent(loop, self.shape)
        self.began = time.perf_counter()

    def on_step(self, loop, report):
        self.reports.append(report)
        if len(self.reports) < self.shape.turn:
            return
        ours = time.perf_counter() - self.began
        batches = [(*pair(loop, each.step - 1), each.lr) for each in self.reports]
        began = time.perf_counter()
        losses = [self.torch.step(*batch) for batch in batches]
        theirs = time.perf_counter() - began
        gaps = [abs(loss - each.loss) for loss, each in zip(losses, self.reports, strict=True)]
        self.loss_gap = max(self.loss_gap, *gaps)
        if report.step > self.shape.turn:
            self.ours.append(ours / self.shape.turn)
            self.theirs.append(theirs / self.shape.turn)
        self.reports = []
        self.began = time.perf_counter()


def run(name, shape, runs):
    """Return the rows of a shape: time, share of the machine's GEMM rate, memory."""
    ratios, ours, theirs, rates, gap = [], [], [], [], 0.0
    for _ in range(runs):
        with Workers(THREADS):
            rates.append(gemm_rate(THREADS))
        turns = InTurn(shape)
        training_loop(shape, turns.steps, [turns]).train()
        ratios.append(median([a / b for a, b in zip(turns.ours, turns.theirs, strict=True)]))
        ours.append(median(turns.ours))
        theirs.append(median(turns.theirs))
        gap = max(gap, turns.loss_gap)
    print(f"{name}: the two losses stay within {gap:.1e} of each other", flush=True)
    if not gap <= GAP:
        raise SystemExit(f"{name}: expected losses within {GAP} of each other, got {gap}: not the same model")
    spread = (min(ratios), max(ratios))
    eager, milliseconds = "PyTorch eager", 1e3
    rate, achieved = max(rates), shape.gflop / median(ours)
    memory = [peak_of(__file__, "--memory", which, "--only", name) for which in ("ours", "theirs")]
    return [
        Row(
            name,
            "time",
            eager,
            median(ratios),
            median(ours) * milliseconds,
            median(theirs) * milliseconds,
            "ms",
            LIMIT,
            spread,
        ),
        Row(name, "share of a limit", "float32 GEMM", rate / achieved, achieved, rate, "GFLOP/s"),
        Row(name, "memory", eager, memory[0] / memory[1], *memory, "MB"),
    ]


def memory_of(which, shape):
    """Return how much a few steps raise the peak memory of this process and its children over its imports', in MB."""
    if which == "theirs":
        import torch_gpt  # noqa: F401
    ours = training_loop(shape, steps=3)
    before = reset_peak()
    if which == "ours":
        ours.train()
    else:
        theirs = opponent(ours, shape)
        for step in range(3):
            theirs.step(*pair(ours, step), ours.plan.lr)
    return peak_megabytes() - before + (THREADS - 1) * peak_of_children(before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=SHAPES, help="one shape instead of all")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--memory", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(SHAPES)
    if arguments.memory:
        print(memory_of(arguments.memory, SHAPES[names[0]]))
        return
    rows = [row for name in names for row in run(name, SHAPES[name], arguments.runs)]
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
