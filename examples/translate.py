"""Encoder-decoder: English to Spanish, on the messages of a program and what its translators made of them.

    pip install -e '.[examples]' && pip install --no-deps --no-compile -r requirements/real-data.txt
    python examples/translate.py --torch

The data are the translations in the package `homeassistant` (Apache-2.0), read as JSON; none of its code is run.
"""

import argparse
import json
import re
import time
from collections import Counter

import numpy as np
from real_data import PaddedBatches, folder_of, is_held_out, padded
from sacrebleu.metrics import CHRF
from side_by_side import train
from subwords import END, PAD, START, Subwords

from numtx.models import EncoderDecoderTransformer
from numtx.training import TrainingConfig, Workers

LONGEST = 40  # characters of a message
LONGEST_TARGET = 32  # pieces that are written at most


def message_pairs(language, longest=LONGEST):
    """Return [(English, translation)], sorted: short messages without placeholders or links, each once.

    A message that stands untranslated is left out: it would be right by copying. Of several translations of one
    message the most frequent one is kept.
    """
    found = {}
    for path in sorted(folder_of("homeassistant").glob("components/*/translations/en.json")):
        translated = path.with_name(f"{language}.json")
        if not translated.exists():
            continue
        english, other = (dict(leaves(json.loads(file.read_text("utf-8")))) for file in (path, translated))
        for key in english.keys() & other.keys():
            source, target = (" ".join(texts[key].split()) for texts in (english, other))
            short = 0 < len(source) <= longest and 0 < len(target) <= longest
            if short and source != target and not re.search(r"[{\[<%`]|http", source + target):
                found.setdefault(source, Counter())[target] += 1
    return [(source, min(found[source], key=lambda t: (-found[source][t], t))) for source in sorted(found)]


def leaves(tree, path=()):
    """Yield (path, text) of nested dicts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def batches_of(pairs, subwords, batch, seed=0):
    sources = [subwords.encode(source) for source, _ in pairs]
    targets = [[*subwords.encode(target), END] for _, target in pairs]
    return PaddedBatches(sources, targets, batch, seed)


def translations(model, sources, subwords, batch=128):
    """Return what the model writes for each source, the likeliest token at each step."""
    written = []
    for start in range(0, len(sources), batch):
        ids = padded([subwords.encode(source) for source in sources[start : start + batch]])
        written += [subwords.decode(row) for row in model.generate(ids, max_new_tokens=LONGEST_TARGET)]
    return written


def scores(hypotheses, references):
    """Return the share of exact matches in percent, and chrF."""
    exact = np.mean([a == b for a, b in zip(hypotheses, references, strict=True)])
    return 100 * exact, CHRF().corpus_score(hypotheses, [references]).score


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--language", default="es", help="de, es, fr, nl and others that the package has")
    parser.add_argument("--torch", action="store_true", help="train the same model in PyTorch too")
    arguments = parser.parse_args()

    pairs = message_pairs(arguments.language)
    known = [pair for pair in pairs if not is_held_out(pair[0])]
    held_out = [pair for pair in pairs if is_held_out(pair[0])]
    subwords = Subwords([text for pair in known for text in pair], merges=1000)
    print(f"data    {len(pairs):,} messages in English and '{arguments.language}', {len(held_out):,} held out")
    print(f"pieces  {len(subwords):,}, learned from the others")

    model = EncoderDecoderTransformer(
        src_vocab_size=len(subwords),
        d_model=128,
        nhead=4,
        dim_feedforward=512,
        num_encoder_layers=2,
        num_decoder_layers=2,
        dropout=0.2,
        norm_first=True,
        pad_token_id=PAD,
        decoder_start_token_id=START,
        eos_token_id=END,
        rng=arguments.seed,
    )
    steps = arguments.steps
    config = TrainingConfig(
        steps=steps,
        batch=32,
        lr=3e-3,
        min_lr=1e-5,
        warmup=min(100, steps // 10),
        betas=(0.9, 0.98),
        weight_decay=0.01,
        seed=arguments.seed,
        eval_every=-(-steps // 6),
    )
    print(f"model   {sum(array.size for _, array in model.named_parameters()):,} parameters, {steps} steps of 32 pairs")
    known_batches = batches_of(known, subwords, config.batch, config.seed)
    learned = train(model, known_batches, batches_of(held_out, subwords, 128).in_order(), config, arguments.torch)

    sources, references = map(list, zip(*held_out, strict=True))
    print(f"\n{'held out':<16}{'exact match':>12}{'chrF':>7}{'loss':>8}{'training':>10}{'writing':>9}")
    exact, chrf = scores(sources, references)
    print(f"{'copy the source':<16}{exact:>10.1f} %{chrf:>7.1f}")
    written = {}
    for name, trained, loss, seconds in learned:
        began = time.perf_counter()
        with Workers(1):
            written[name] = translations(trained, sources, subwords)
        exact, chrf = scores(written[name], references)
        writing = time.perf_counter() - began
        print(f"{name:<16}{exact:>10.1f} %{chrf:>7.1f}{loss:>8.3f}{seconds:>8.1f} s{writing:>7.1f} s")
    print("\nthe first of every 100 held-out messages, what numtx wrote, and what the translators wrote")
    for source, got, reference in list(zip(sources, written["numtx"], references, strict=True))[::100]:
        print(f"  {source}\n    {got}\n    {reference}")


if __name__ == "__main__":
    main()
