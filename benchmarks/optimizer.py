"""An AdamW step over 62 million parameters beside torch.optim.AdamW, as it comes (foreach) and fused.

    python benchmarks/optimizer.py
    python benchmarks/optimizer.py --runs 5 --json rows.json

Same parameters, same gradients, the decay on matrices alone, in turn. The step of numtx is the trainer's own: each of
its processes updates a slice of the flat buffers. A last row has two threads share the update instead. Needs `pip
install torch`.
"""

import time

import numpy as np
from measure import Row, command, median, peak_megabytes, peak_of, reset_peak

from numtx.models import GPT2Config, GPT2LMHeadModel
from numtx.training import AdamW, ShardedGradients, Workers

THREADS = 2
LR, BETAS, EPS, DECAY = 1e-3, (0.9, 0.95), 1e-8, 0.1
LIMITS = {"foreach": 1.0, "fused": 2.0}  # the ratios of times that are promised
GAP = 1e-5  # between the parameters after some steps
NAME = "optimizer"


def optimizer():
    config = GPT2Config(vocab_size=4800, n_positions=64, n_embd=640, n_layer=12, n_head=10)  # 62.2 million parameters
    return AdamW(GPT2LMHeadModel(config, rng=0), LR, BETAS, EPS, DECAY)


def opponent(ours, gradients, kind):
    """Return torch's parameters by name, and its step."""
    import torch

    torch.set_num_threads(THREADS)
    parameters = {name: torch.nn.Parameter(torch.tensor(view)) for name, view in ours.flat.views.items()}
    for name, parameter in parameters.items():
        parameter.grad = torch.tensor(gradients.views[name])
    decayed = [p for name, p in parameters.items() if p.ndim >= 2]
    others = [p for name, p in parameters.items() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, LR, BETAS, EPS, **{kind: True})
    return parameters, theirs.step


def seconds(step):
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def run(runs=3, turns=5, warm_up=2):
    """Return the rows: time against both, and that of threads; memory against both."""
    ours, beside = optimizer(), optimizer()
    rng = np.random.default_rng(0)
    with (
        Workers(THREADS) as workers,
        ShardedGradients(ours, THREADS, workers=workers) as sharded,
    ):  # forks its processes
        sharded.gradients.buffer[:] = rng.standard_normal(ours.flat.size, dtype=np.float32)
        sharded.gradients.buffer *= 1e-3
        kinds = {kind: opponent(ours, sharded.gradients, kind) for kind in LIMITS}
        steps = {
            "ours": lambda: sharded.update(LR),
            "threads": lambda: beside.step(sharded.gradients.buffer, LR, workers=workers),
            **{kind: step for kind, (_, step) in kinds.items()},
        }
        times = {name: [] for name in steps}
        ratios = {(name, kind): [] for name in ("ours", "threads") for kind in kinds}
        for _ in range(runs):
            now = {name: [seconds(step) for _ in range(warm_up + turns)][warm_up:] for name, step in steps.items()}
            for name, found in now.items():
                times[name] += found
            for name, kind in ratios:
                ratios[name, kind].append(median(now[name]) / median(now[kind]))
        for kind, (parameters, _) in kinds.items():
            check(kind, ours, {name: parameter.detach().numpy() for name, parameter in parameters.items()})
        check("threads", ours, beside.flat.views)
    memory = {which: peak_of(__file__, "--memory", which) for which in ("ours", *kinds)}
    rows = []
    for name, kind in ratios:
        found, a, b = ratios[name, kind], median(times[name]) * 1e3, median(times[kind]) * 1e3
        against, limit = f"AdamW({kind}=True)", LIMITS[kind] if name == "ours" else None
        label = NAME if name == "ours" else "  threads"
        rows.append(Row(label, "time", against, median(found), a, b, "ms", limit, (min(found), max(found))))
    for kind in kinds:
        a, b = memory["ours"], memory[kind]
        rows.append(Row(NAME, "memory", f"AdamW({kind}=True)", a / b, a, b, "MB"))
    return rows


def check(kind, ours, theirs):
    gap = max(float(np.abs(view - theirs[name]).max()) for name, view in ours.flat.views.items())
    print(f"{NAME}: the parameters stay within {gap:.1e} of those of {kind}", flush=True)
    if not gap <= GAP:
        raise SystemExit(f"{NAME}: expected parameters within {GAP} of those of {kind}, got {gap}: not the same step")


def memory_of(which):
    """Return how much the moments and a step raise the peak memory of a process that holds parameters and gradients."""
    if which == "ours":
        ours = optimizer()
        gradients = ours.flat.gradients()
        gradients.buffer[:] = 1e-3
        ours.flat.buffer += 0  # all pages in place
        before = reset_peak()
        with Workers(THREADS) as workers:
            ours.step(gradients, LR, workers=workers)
        return peak_megabytes() - before
    ours = optimizer()
    gradients = ours.flat.gradients()
    gradients.buffer[:] = 1e-3
    _, step = opponent(ours, gradients, which)
    before = reset_peak()
    step()
    return peak_megabytes() - before


if __name__ == "__main__":
    command(__doc__, run, memory_of, sides=("ours", *LIMITS))
