"""What the ranks of a job in test_mpi.py do: python mpi_program.py CASE FOLDER THREADS."""

import os
import sys
import time

import numpy as np

from numtx.models.gpt2 import GPT2Config, GPT2LMHeadModel
from numtx.training import Callback, RunFolder, TrainingConfig, TrainingLoop
from numtx.training.mpi import RankError, found_ranks

TOKENS = np.random.default_rng(0).integers(11, size=900)


class Fails(Callback):
    def on_step(self, loop, report):
        if report.step == 3:
            raise LookupError("a callback failed")


class Changes(Callback):
    def on_step(self, loop, report):
        loop.optimizer.flat.buffer[0] += 1


class Batches:
    """Batches of which the fourth, in the second update, does something on rank 1."""

    def __init__(self, how, rank):
        self.how, self.rank = how, rank
        self.loop = None

    def at(self, step):
        if step == 3 and self.rank == 1:
            if self.how == "stop":
                self.loop.stop()
                return self.at(2)
            if self.how == "exit":
                os._exit(7)
            if self.how == "interrupt":
                raise KeyboardInterrupt
            raise ValueError("the data of this rank ends here")
        rng = np.random.default_rng(step)
        rows = rng.integers(11, size=(5, 9))
        return rows[:, :-1], rows[:, 1:]


def settings(case, threads):
    return TrainingConfig(
        steps=8,
        batch=5,
        context=8,
        lr=float("1e30") if case == "nonfinite" else 1e-2,
        warmup=0,
        schedule="constant",
        clip=None if case == "nonfinite" else 1.0,
        accumulation=2,
        shards=3,
        threads=threads,
        eval_every=1 if case == "float64" else 4,
        seed=3,
    )


def make(case, folder, threads):
    ranks = found_ranks()
    shape = {"vocab_size": 11, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1)
    seed = ranks.rank if case == "weights" else 5
    dtype = np.float64 if case == "float64" else np.float32
    model = GPT2LMHeadModel(GPT2Config(**shape, **drop), rng=seed, dtype=dtype)
    train = TOKENS + 0
    if case == "data" and ranks.rank == 1:
        train[7] = (train[7] + 1) % 11
    if case in ("raise", "caught", "exit", "interrupt", "stop"):
        train = Batches(case, ranks.rank)
    callbacks = {"callback": [Fails()], "drift": [Changes()]}.get(case, [])
    loop = TrainingLoop(model, train, TOKENS[:700], settings(case, threads), folder, callbacks=callbacks)
    if isinstance(train, Batches):
        train.loop = loop
    return loop


def main(case, folder, threads):
    loop = make(case, folder, int(threads))
    if case == "uncaught" and loop.ranks.rank == 1:
        time.sleep(0.2)
        raise LookupError("before the training")
    if case == "save":

        def save(*_, **__):
            raise ValueError("the disk is full")

        RunFolder.save_checkpoint = save
    try:
        result = loop.train(resume=case == "resume")
    except (ValueError, RankError) as error:
        if case != "caught":
            raise
        print(f"rank {loop.ranks.rank} caught {type(error).__name__}: {error};", flush=True)
        return
    print(f"rank {loop.ranks.rank} of {loop.ranks.size}: {result.step}, {result.best_value!r}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
