"""A small classifier, rows that it can learn, and a trainer of both."""

import numpy as np

from numtx.models import BertConfig, BertForSequenceClassification
from numtx.training import PrinterCallback, Trainer, TrainingArguments

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TIMES = ("runtime", "per_second")


def bert(dropout=0.1, dtype=np.float32, seed=0):
    config = BertConfig(vocab_size=20, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **SIZES)
    return BertForSequenceClassification(config, rng=seed, dtype=dtype)


def rows(count, seed=0):
    """The first token says the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=count)
    return [{"input_ids": [3 + int(label), *rng.integers(5, 20, 5).tolist()], "label": int(label)} for label in labels]


def accuracy(given):
    scores, labels = given
    return {"accuracy": float((scores.argmax(-1) == labels).mean())}


def trainer(
    folder, *, model=None, train=70, held_out=30, callbacks=(), metrics=accuracy, optimizers=(None, None), **given
):
    settings = {
        "learning_rate": 1e-2,
        "num_train_epochs": 3,
        "gradient_accumulation_steps": 2,
        "logging_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_steps": 5,
        "report_to": "none",
    }
    made = Trainer(
        bert() if model is None else model,
        TrainingArguments(folder, **{**settings, **given}),
        train_dataset=rows(train),
        eval_dataset=rows(held_out, seed=1),
        compute_metrics=metrics,
        callbacks=list(callbacks),
        optimizers=optimizers,
    )
    made.pop_callback(PrinterCallback)
    return made


def history(made):
    """What was logged, without times."""
    return [{name: value for name, value in row.items() if not name.endswith(TIMES)} for row in made.state.log_history]


def same_weights(a, b):
    arrays = dict(b.named_parameters())
    return all(np.array_equal(array, arrays[name]) for name, array in a.named_parameters())
