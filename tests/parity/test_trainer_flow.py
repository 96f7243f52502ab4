"""What a Trainer does when, beside Transformers': drawn arguments and flags, every event, log and checkpoint."""

import random
import shutil
import warnings

import numpy as np
import pytest

import numtx
from numtx.models import BertConfig, BertForSequenceClassification
from numtx.training import PrinterCallback, TrainingArguments, get_scheduler
from numtx.training.foreign_arguments import REFUSED, WITHOUT_EFFECT

pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
pytest.importorskip("accelerate", reason="Transformers' Trainer needs it: pip install 'numtx[parity]'")
import dataclasses

import torch
import transformers
from their_version import OLD

SIZES = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
EVENTS = (
    "on_train_begin", "on_epoch_begin", "on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end",
    "on_log", "on_evaluate", "on_save", "on_epoch_end", "on_train_end",
)  # fmt: skip
LOGGED = ("loss", "learning_rate", "grad_norm", "eval_loss", "eval_accuracy", "epoch", "step", "train_loss")


def drawn(seed):
    """Arguments that both have, how many rows, and which flags a callback sets at which event.

    Batches are all of one size, and an evaluation is one batch: then means of means are means. A flag to stop comes
    when a step was made: before it, they leave an update out in the middle.
    """
    r = random.Random(seed)
    batch = r.randint(1, 6)
    args = {
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": 7,
        "gradient_accumulation_steps": r.randint(1, 4),
        "learning_rate": r.choice([1e-2, 1e-3]),
        "weight_decay": r.choice([0.0, 0.1]),
        "max_grad_norm": r.choice([5.0, 1.0, 0.1]),
        "label_smoothing_factor": r.choice([0.0, 0.0, 0.1]),
        "logging_strategy": r.choice(["steps", "epoch", "no"]),
        "logging_steps": r.choice([1, 2, 3, 0.2, 0.5]),
        "logging_first_step": r.random() < 0.3,
        "eval_strategy": r.choice(["steps", "epoch", "no"]),
        "eval_steps": r.choice([1, 2, 3]),
        "eval_delay": r.choice([0, 0, 2, 0.5]),
        "save_strategy": r.choice(["steps", "epoch"]),
        "save_steps": r.choice([2, 3, 4]),
        "lr_scheduler_type": r.choice(["linear", "cosine", "constant", "constant_with_warmup"]),
        "warmup_steps": r.choice([0, 0, 2]),
    }
    args |= {"max_steps": r.randint(1, 12)} if r.random() < 0.5 else {"num_train_epochs": r.choice([1, 2, 0.5, 1.7])}
    if args["eval_strategy"] == args["save_strategy"] and r.random() < 0.7:
        args |= {"metric_for_best_model": r.choice(["loss", "accuracy"]), "load_best_model_at_end": True}
        args["save_steps"] = args["eval_steps"]
    if r.random() < 0.3:
        args["save_total_limit"] = r.randint(1, 3)
    flags = [
        (r.choice(["on_step_end", "on_evaluate", "on_log"]), r.randint(1, 6), f"should_{what}")
        for what in r.choices(["log", "evaluate", "training_stop"], k=r.choice([0, 0, 1, 2]))
    ]
    return args, batch * r.randint(1, 12), flags


def recorder(base, flags):
    """A callback of either library that keeps what it hears."""
    seen = []

    def heard(event):
        def hear(self, args, state, control, logs=None, **kwargs):
            known = tuple(sorted(set(logs or ()) & set(LOGGED)))
            if (event, state.global_step) != ("on_save", seen[-1][1] if seen else None) or event not in [
                one[0] for one in seen if one[1] == state.global_step
            ]:  # they save twice at a step that ends an epoch
                seen.append((event, state.global_step, round(state.epoch or 0, 6), known))
            for name, step, flag in flags:
                if (name, step) == (event, state.global_step):
                    setattr(control, flag, True)

        return hear

    return type("Recorder", (base,), {event: heard(event) for event in EVENTS})(), seen


def accuracy(given):
    scores, labels = given
    return {"accuracy": float((np.asarray(scores).argmax(-1) == labels).mean())}


class InOrder(numtx.Trainer):
    """Takes rows as they stand."""

    def training_order(self, dataset):
        base = super().training_order(dataset)

        class Order:
            def __len__(self):
                return len(base)

            def at(self, number):
                start = number % len(base) * base.batch_size
                return np.arange(start, min(start + base.batch_size, len(dataset)))

        return Order()


class EvaluatesAtTheEnd(numtx.TrainerCallback):
    """What Transformers 5 does: also the last step is evaluated where steps say when."""

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        if step >= state.max_steps and state.eval_steps and step % state.eval_steps and args.eval_delay <= step:
            control.should_evaluate = True


class TheirsInOrder(transformers.Trainer):
    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


@pytest.mark.parametrize("seed", range(8))
def test_events_logs_checkpoints_and_weights(seed, tmp_path):
    args, count, flags = drawn(seed)
    rng = np.random.default_rng(seed)
    rows = [{"input_ids": rng.integers(3, 9, 5).tolist(), "labels": int(rng.integers(2))} for _ in range(count)]
    held_out = (rows * 7)[:7]
    ours = BertForSequenceClassification(BertConfig(vocab_size=9, **SIZES), rng=seed, dtype=np.float64)
    ours.save_pretrained(tmp_path / "model")
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "model").double()

    callback, events = recorder(numtx.TrainerCallback, flags)
    settings = TrainingArguments(tmp_path / "ours", report_to="none", shards=1, **args)
    callbacks = [callback] if OLD else [EvaluatesAtTheEnd, callback]
    trainer = InOrder(ours, settings, None, rows, held_out, compute_metrics=accuracy, callbacks=callbacks)
    trainer.pop_callback(PrinterCallback)
    trainer.train()

    callback, their_events = recorder(transformers.TrainerCallback, flags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        their_settings = transformers.TrainingArguments(
            str(tmp_path / "theirs"), report_to="none", use_cpu=True, disable_tqdm=True, **args
        )
        reference = TheirsInOrder(
            theirs, their_settings, transformers.default_data_collator, rows, held_out, compute_metrics=accuracy,
            callbacks=[callback],
        )  # fmt: skip
        reference.pop_callback(transformers.PrinterCallback)
        reference.model_accepts_loss_kwargs = False  # 5 takes this model for one that divides by a step's labels
        reference.train()

    assert events == their_events
    for row, wanted in zip(trainer.state.log_history, reference.state.log_history, strict=True):
        for name in LOGGED:
            assert (name in row) == (name in wanted), (name, row, wanted)
            if name in row:  # they round losses
                assert row[name] == pytest.approx(wanted[name], rel=1e-6, abs=6e-5 if name == "loss" else 1e-7), name
    saved, their_saved = (
        sorted(path.name for path in (tmp_path / one).glob("checkpoint-*")) for one in ("ours", "theirs")
    )
    assert saved == their_saved
    assert trainer.state.best_global_step == reference.state.best_global_step
    weights = {name: array.numpy() for name, array in theirs.state_dict().items()}
    for name, array in ours.to_checkpoint().items():
        assert np.abs(array - weights[name]).max() < 1e-9, name
    shutil.rmtree(tmp_path / "theirs", ignore_errors=True)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("linear", {}),
        ("cosine", {}),
        ("cosine", {"num_cycles": 1.5}),
        ("cosine_with_restarts", {"num_cycles": 3}),
        ("polynomial", {"power": 2.0, "lr_end": 1e-4}),
        ("constant", {}),
        ("constant_with_warmup", {}),
        ("inverse_sqrt", {}),
        pytest.param("inverse_sqrt", {"timescale": 7}, marks=pytest.mark.skipif(OLD, reason="4.57 loses timescale")),
        ("cosine_with_min_lr", {"min_lr": 1e-4}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.2, "num_cycles": 1.0}),
        ("warmup_stable_decay", {"num_decay_steps": 6, "warmup_type": "cosine", "decay_type": "1-sqrt"}),
        ("warmup_stable_decay", {"num_decay_steps": 6, "warmup_type": "1-sqrt", "decay_type": "linear"}),
        ("warmup_stable_decay", {"num_decay_steps": 6, "num_stable_steps": 3, "min_lr_ratio": 0.1, "num_cycles": 0.75}),
    ],
)
@pytest.mark.parametrize(("warmup", "steps"), [(0, 17), (5, 17), (11, 17)])
@pytest.mark.filterwarnings("ignore:Both num_training_steps and num_stable_steps")
def test_learning_rates(name, settings, warmup, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.03)
    theirs = transformers.get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=settings)
    ours = get_scheduler(name, 0.03, warmup, steps, **settings)
    for step in range(steps + 3):
        assert ours(step) == theirs.get_last_lr()[0], step
        optimizer.step()
        theirs.step()


def test_arguments_have_their_names_and_defaults():
    ours = {one.name: one for one in dataclasses.fields(TrainingArguments)}
    other = {"output_dir", "optim", "train_sampling_strategy", "include_inputs_for_metrics", "report_to"}
    for theirs in dataclasses.fields(transformers.Seq2SeqTrainingArguments):
        default = theirs.default if theirs.default is not dataclasses.MISSING else theirs.default_factory()
        if not theirs.init or theirs.name in other:
            continue
        if theirs.name in ours:
            own = ours[theirs.name]
            own_default = own.default if own.default is not dataclasses.MISSING else own.default_factory()
            assert own_default == (False if own.type == "bool" and default is None else default), own
        elif theirs.name not in WITHOUT_EFFECT:
            TrainingArguments("run", **{theirs.name: default})  # refused where it is something else
            assert theirs.name in REFUSED or "activation_checkpointing" in theirs.name, theirs.name
