"""Decoding beside Transformers: a model of GPT-2's smallest shape writes on after a prompt, one token at a time.

    python benchmarks/decode.py
    python benchmarks/decode.py --runs 5 --json rows.json
    python benchmarks/decode.py --memory-cache

Same weights, same prompt, greedy, batch 1, both with their caches of keys and values. Needs `pip install torch
transformers`; the last line does not. It says what it gains that an encoder-decoder projects what its decoder looks at
once, and not at every step, alone and with four beams.
"""

import argparse
import time

import numpy as np
from measure import Row, matvec_rate, median, peak_megabytes, peak_of, print_table, reset_peak, write_json

import numtx
from numtx import nn
from numtx.functional.threads import one_blas_thread
from numtx.models import EncoderDecoderTransformer, GPT2Config, GPT2LMHeadModel

THREADS = 2
PROMPT = 32
LIMIT = 1 / 1.9  # the ratio of times that is promised
NAME, AGAINST = "decode", "Transformers"
SOURCE, BEAMS = 128, 4


def model():
    return GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0), rng=0)


def opponent(ours):
    import torch
    from transformers import GPT2Config as TheirConfig
    from transformers import GPT2LMHeadModel as TheirModel

    torch.set_num_threads(THREADS)
    theirs = TheirModel(TheirConfig()).eval()
    arrays = {name: torch.from_numpy(array) for name, array in ours.to_checkpoint().items()}
    missing, unexpected = theirs.load_state_dict(arrays, strict=False)
    assert not unexpected
    assert missing in ([], ["lm_head.weight"])
    theirs.tie_weights()

    def write(ids, new):
        inputs = torch.from_numpy(ids)
        with torch.inference_mode():
            settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
            return theirs.generate(inputs, attention_mask=torch.ones_like(inputs), **settings).numpy()

    return write


def bytes_of_a_token(ours):
    """Return what must be read for a token: every weight but the positions, of which one row is."""
    return sum(array.nbytes for name, array in ours.named_parameters() if not name.startswith("body.positions."))


def seconds_a_token(write, ids, new):
    """Return the time of a token: that of `new` of them after the first, whose time is the prompt's."""
    began = time.perf_counter()
    write(ids, 1)
    first = time.perf_counter()
    write(ids, new + 1)
    return (time.perf_counter() - first - (first - began)) / new


def run(runs=3, new=40, turns=3):
    """Return the rows: time a token, share of the bandwidth of matrix-vector products, memory."""
    numtx.set_num_threads(THREADS)
    ours = model()
    theirs = opponent(ours)
    ids = np.random.default_rng(0).integers(ours.config.vocab_size, size=(1, PROMPT))

    def write(ids, new):
        return ours.generate(ids, max_new_tokens=new)

    if not np.array_equal(write(ids, 8), theirs(ids, 8)):
        raise SystemExit("decode: expected the same tokens from both, got others: not the same model")
    ratios, our_times, their_times, rates = [], [], [], []
    for _ in range(runs):
        with one_blas_thread():
            rates.append(matvec_rate(THREADS))
        pairs = [(seconds_a_token(write, ids, new), seconds_a_token(theirs, ids, new)) for _ in range(turns)]
        ratios.append(median([a / b for a, b in pairs]))
        our_times += [a for a, _ in pairs]
        their_times += [b for _, b in pairs]
    a, b, rate = median(our_times), median(their_times), max(rates)
    achieved = bytes_of_a_token(ours) / a / 1e9
    memory = [peak_of(__file__, "--memory", which) for which in ("ours", "theirs")]
    spread = (min(ratios), max(ratios))
    return [
        Row(NAME, "time", AGAINST, median(ratios), a * 1e3, b * 1e3, "ms/token", LIMIT, spread),
        Row(NAME, "share of a limit", "float32 matrix-vector", rate / achieved, achieved, rate, "GB/s", 1 / 0.8),
        Row(NAME, "memory", AGAINST, memory[0] / memory[1], *memory, "MB"),
    ]


def run_memory_cache(runs=3, new=40):
    """Return the rows: time a step of a decoder of the paper's size, over a source of 128 tokens."""
    numtx.set_num_threads(THREADS)
    sizes = {"d_model": 512, "nhead": 8, "dim_feedforward": 2048, "num_encoder_layers": 1, "num_decoder_layers": 6}
    ours = EncoderDecoderTransformer(src_vocab_size=8000, max_length=256, **sizes, rng=0)
    memory = ours.encode(np.random.default_rng(0).integers(1, 8000, size=(1, SOURCE)))

    def seconds_a_step(make, beams, memory):
        caches = make()
        ids = np.ones((1, 1), int)
        ours.decode(ids, memory if len(memory) == 1 else memory[:1], kv_cache=caches)
        for cache in caches:
            cache.reorder(np.zeros(beams, int))
        began = time.perf_counter()
        for _ in range(new):
            ours.decode(np.repeat(ids, beams, axis=0), memory, kv_cache=caches)
        return (time.perf_counter() - began) / new

    def each_step():
        return [nn.KVCache() for _ in range(sizes["num_decoder_layers"])]

    rows = []
    for beams in (1, BEAMS):
        copies = np.repeat(memory, beams, axis=0)
        kinds = (ours.new_cache, memory), (each_step, copies)
        pairs = [[seconds_a_step(make, beams, given) for make, given in kinds] for _ in range(runs)]
        ratios = [a / b for a, b in pairs]
        a, b = (median(times) * 1e3 for times in zip(*pairs, strict=True))
        spread = (min(ratios), max(ratios))
        rows.append(
            Row(f"{beams} beam(s)", "time", "projected each step", median(ratios), a, b, "ms/step", spread=spread)
        )
    return rows


def memory_of(which):
    """Return how much a few tokens raise the peak memory of this process over its imports' and the weights', in MB."""
    ours = model()
    write = opponent(ours) if which == "theirs" else (lambda ids, new: ours.generate(ids, max_new_tokens=new))
    before = reset_peak()
    write(np.ones((1, PROMPT), np.int64), 20)
    return peak_megabytes() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--memory", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--memory-cache", action="store_true", help="a decoder over a memory, in place of GPT-2")
    arguments = parser.parse_args()
    if arguments.memory:
        print(memory_of(arguments.memory))
        return
    rows = run_memory_cache(arguments.runs) if arguments.memory_cache else run(arguments.runs)
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
