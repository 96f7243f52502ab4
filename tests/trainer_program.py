"""A fine-tuning as a user writes it, in a process of its own: OUT [STEPS [STOPPED]].

Goes on where OUT holds a checkpoint. After the step STOPPED its first process gets a SIGTERM.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from numtx import Trainer, TrainerCallback, TrainingArguments
from numtx.models import BertConfig, BertForSequenceClassification
from numtx.text import DataCollatorWithPadding
from numtx.training import EarlyStoppingCallback

STEPS = 60
ROWS = 41  # 11 batches of 4 and less, 6 updates an epoch, the last of a single batch


class Pads:
    """As much of a tokenizer as a collator needs."""

    def pad(self, rows, **settings):
        longest = max(len(row["input_ids"]) for row in rows)
        padded = [[*row["input_ids"], *[0] * (longest - len(row["input_ids"]))] for row in rows]
        mask = [[int(place < len(row["input_ids"])) for place in range(longest)] for row in rows]
        rest = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "input_ids"}
        return {"input_ids": np.array(padded), "attention_mask": np.array(mask), **rest}


class Begun(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if not getattr(self, "said", False):
            self.said = True
            print("begun", flush=True)


def rows(count, seed):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = rng.integers(3, 20, size=rng.integers(3, 12))
        made.append({"input_ids": ids.tolist(), "label": int(ids.sum() % 2)})
    return made


def trainer(out, callbacks=(), **settings):
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    asked = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 3e-3,
        "weight_decay": 0.1,
        "warmup_steps": 5,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "logging_steps": 3,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "group_by_length": True,
        "disable_tqdm": True,
        "report_to": "none",
        "threads": 2,
    }
    return Trainer(
        BertForSequenceClassification(config, rng=1),
        TrainingArguments(out, **(asked | settings)),
        data_collator=DataCollatorWithPadding(Pads()),
        train_dataset=rows(ROWS, 0),
        eval_dataset=rows(15, 1),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1000), *callbacks],
    )


class Terminates(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def main(out, steps=STEPS, stopped=0):
    made = trainer(out, callbacks=[Begun(), Terminates(int(stopped))], max_steps=int(steps))
    made.train(resume_from_checkpoint=any(out.glob("checkpoint-*")))
    made.save_model(out / "final")
    print("trained", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
