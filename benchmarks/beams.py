"""Beam search beside Transformers: a batch is answered by an encoder-decoder of 6 + 6 layers, with 4 beams.

    python benchmarks/beams.py
    python benchmarks/beams.py --runs 5 --json rows.json
    python benchmarks/beams.py --vocab 58101

Same weights, opened from the same files, same sources, same answers of 64 new tokens, batch 4, width 512, float32, both
with their caches of keys and values. Needs `pip install torch transformers`.
"""

import argparse
import tempfile
import time

import numpy as np
from measure import Row, median, print_table, write_json

import numtx
from numtx.models import BartConfig, BartForConditionalGeneration

THREADS = 2
BATCH, SOURCE, BEAMS, NEW = 4, 32, 4, 64
VOCAB = 32_000
LIMIT = 1.0  # the ratio of times that is promised
NAME, AGAINST = "beams", "Transformers"


def models(vocab_size):
    """Return ours and theirs, opened from one folder."""
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sizes = {"d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "max_position_embeddings": 128}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_attention_heads": 8, f"{side}_ffn_dim": 2048}
    drawn = BartForConditionalGeneration(BartConfig(vocab_size=vocab_size, init_std=0.05, **sizes), rng=0)
    with tempfile.TemporaryDirectory() as folder:
        drawn.save_pretrained(folder)
        theirs = transformers.BartForConditionalGeneration.from_pretrained(folder).eval()
        ours = BartForConditionalGeneration.from_pretrained(folder)
    return ours, theirs


def writers(vocab_size):
    """Return two functions of source ids (B, T): their answers, and the scores."""
    import torch

    ours, theirs = models(vocab_size)
    settings = {"num_beams": BEAMS, "max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    settings |= {"return_dict_in_generate": True, "output_scores": True, "forced_eos_token_id": None}

    def write(ids):
        answer = ours.generate(ids, **settings)
        return answer.sequences, answer.sequences_scores

    def they_write(ids):
        inputs = torch.from_numpy(ids)
        with torch.inference_mode():
            answer = theirs.generate(inputs, attention_mask=torch.ones_like(inputs), **settings)
        return answer.sequences.numpy(), answer.sequences_scores.numpy()

    return write, they_write


def seconds(write, ids):
    began = time.perf_counter()
    write(ids)
    return time.perf_counter() - began


def run(runs=3, turns=2, vocab_size=VOCAB):
    """Return the row of the time a token, of `BATCH` times `NEW` tokens."""
    numtx.set_num_threads(THREADS)
    write, they_write = writers(vocab_size)
    ids = np.random.default_rng(0).integers(4, vocab_size, size=(BATCH, SOURCE))
    (answer, scores), (their_answer, their_scores) = write(ids), they_write(ids)
    if not np.allclose(scores, their_scores, rtol=0, atol=1e-3) or np.mean(answer == their_answer) < 0.9:
        raise SystemExit("beams: expected the same answers from both, got others: not the same model")
    ratios, our_times, their_times = [], [], []
    for _ in range(runs):
        pairs = [(seconds(write, ids), seconds(they_write, ids)) for _ in range(turns)]
        ratios.append(median([a / b for a, b in pairs]))
        our_times += [a for a, _ in pairs]
        their_times += [b for _, b in pairs]
    tokens = BATCH * NEW
    a, b = (median(times) / tokens * 1e3 for times in (our_times, their_times))
    return [Row(NAME, "time", AGAINST, median(ratios), a, b, "ms/token", LIMIT, (min(ratios), max(ratios)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=VOCAB, help=f"size of the vocabulary (default: {VOCAB})")
    parser.add_argument("--json", help="write the rows to this file")
    arguments = parser.parse_args()
    rows = run(arguments.runs, vocab_size=arguments.vocab)
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
