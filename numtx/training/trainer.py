"""Fine-tuning with the constructor and methods of Transformers' Trainer, over numtx's training loop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numtx.checkpoints import write_json
from numtx.training.epochs import OWNER, Batches, Epochs, training_order
from numtx.training.evaluates import Evaluates, check_optimizer, is_several
from numtx.training.feature_checks import check_features, check_first_batch
from numtx.training.fine_tuning import ArgumentsPlan, FineTuning, check_best
from numtx.training.flat import rates_by_pattern
from numtx.training.optimizers import SGD, AdamW, Optimizer
from numtx.training.resume import put_weights
from numtx.training.run_folder import SETTINGS, holds_run
from numtx.training.trainer_callbacks import best_measure
from numtx.training.trainer_state import TrainerControl, TrainerState, TrainOutput
from numtx.training.weight_groups import get_decay_parameter_names


class Trainer(Evaluates):
    """Trains a model on a dataset, evaluates it, and keeps checkpoints that a run goes on from.

    Parameters
    ----------
    model : a pretrained family with a head, or any module with `loss_and_grads`, `loss` and `count_labels`
        Updated in place. Freeze what is to stay before (`numtx.nn.freeze`).
    args : TrainingArguments
    data_collator : callable, optional
        Default: `DataCollatorWithPadding` where the tokenizer can pad, else `default_data_collator`.
    train_dataset, eval_dataset : list of dicts, Dataset, dict of columns, path, or `datasets.Dataset`
        Rows as a tokenizer made them, and labels. `eval_dataset` may be a dict of several.
    processing_class : tokenizer, optional
        For padding; saved beside the model. `tokenizer` is its older name.
    model_init : callable, optional
        Makes the model, instead of `model`.
    compute_metrics : callable, optional
        Takes an `EvalPrediction`, which unpacks as (predictions, labels), and returns a dict of measures.
    callbacks : list of TrainerCallback, optional
    optimizers : (Optimizer, callable), optional
        An optimizer of `numtx.training` made over the model, and a function from a step to its learning rate; None of
        either stands for that of the arguments.
    preprocess_logits_for_metrics : callable (logits, labels) -> logits, optional
        To keep less of the scores of each batch.

    Attributes
    ----------
    state : TrainerState
    control : TrainerControl
    optimizer : Optimizer or None, of the last training

    Notes
    -----
    The loss of an update is the mean over the real labels of all its micro-batches, and `eval_loss` the mean over the
    real labels of all rows, whatever the batch size. Transformers averages the means of batches where a model's forward
    takes no `num_items_in_batch`, and of a causal language model counts the first label of each row too, which is never
    predicted. A batch depends on the seed and the step alone, in an order of its own (not that of PyTorch), so a
    training that goes on gives the bits of one that was never interrupted. So it ends at the step that it was asked for
    when it began: with another `num_train_epochs` or `max_steps` Transformers goes on, this is refused; a new training
    may begin with the model of a checkpoint. Places of answers (`start_positions`, `end_positions`) that their row does
    not have are refused, those in its padding (where the attention mask is 0) too, on which Transformers trains; from
    the model's context on they are left out of the loss, as in Transformers.

    Examples
    --------
    >>> from numtx.models import BertConfig, BertForSequenceClassification
    >>> from numtx.training import PrinterCallback, TrainingArguments
    >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> model = BertForSequenceClassification(BertConfig(vocab_size=9, **sizes), rng=0)
    >>> rows = [{"input_ids": [1, 2 + label, 3], "label": label} for label in (0, 1) * 8]
    >>> from tempfile import mkdtemp
    >>> args = TrainingArguments(mkdtemp(), max_steps=2, save_strategy="no", report_to="none")
    >>> trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows)
    >>> printer = trainer.pop_callback(PrinterCallback)
    >>> trainer.train().global_step, sorted(trainer.evaluate())[:2]
    (2, ['epoch', 'eval_loss'])
    """

    # --- training

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike[str] | bool | None = None,
        *,
        ignore_keys_for_eval: Sequence[str] | None = None,
    ) -> TrainOutput:
        """Train, from the first step or from a checkpoint.

        Parameters
        ----------
        resume_from_checkpoint : bool or path, optional
            True: the newest whole checkpoint of `output_dir`; a path: that one of it. Default: that of the arguments.
        ignore_keys_for_eval : list of str, optional
            The `ignore_keys` of the evaluations while training.

        Returns
        -------
        TrainOutput
            global_step, training_loss (the mean of the losses of all steps), metrics.

        Raises
        ------
        NonFiniteError
            If a loss or gradient is not finite; it names the component.
        ValueError
            Before the first step: data that are empty, lack a column or do not fit the model; a folder that holds
            another run, or a checkpoint of another model.
        """
        resume = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        args, began = self.args, time.perf_counter()
        self._check_folder(resume)
        epochs = self._epochs = self._training_data()
        self._check_evaluation()
        self._check_saves()
        steps = self._steps(epochs)
        self._ignored_keys = ignore_keys_for_eval
        plan = ArgumentsPlan(args, steps, self.lr_scheduler or args.scheduler(steps))
        self.optimizer = self._given_optimizer or self.create_optimizer()
        check_optimizer(self.optimizer, self.model)
        self._begin_state(epochs, steps)
        folder = None if args.save_strategy == "no" else os.fspath(args.output_dir or "")
        loop = self._loop = FineTuning(self, epochs, plan, folder, self.optimizer)
        try:
            loop.train_in_order(resume, replace=args.overwrite_output_dir)
            if args.load_best_model_at_end:
                self._load_best()
            metrics = self._speed(
                "train", began, (loop.step - loop.first_step) * self._rows_a_step(), loop.step - loop.first_step
            )
            metrics["train_loss"] = loop.mean_loss
            self.log(metrics)
            loop.event("on_train_end")
        finally:
            self.handler.close()
            self.logs.close()
            self._loop = None
        return TrainOutput(self.state.global_step, metrics["train_loss"], {**metrics, "epoch": self.state.epoch})

    def _check_folder(self, resume: Any) -> None:
        """Refuse a folder where this training can neither begin nor go on."""
        args, folder = self.args, Path(self.args.output_dir or "")
        if not isinstance(resume, (str, os.PathLike, bool, type(None))):
            raise ValueError(f"{OWNER}: expected resume_from_checkpoint, a path, True or False, got {resume!r}")
        if not resume:
            if not args.overwrite_output_dir and holds_run(folder):
                way = (
                    "choose another, or train with the run's save_strategy and resume_from_checkpoint=True"
                    if args.save_strategy == "no"
                    else "train(resume_from_checkpoint=True) goes on with it, overwrite_output_dir=True begins anew"
                )
                raise ValueError(f"{OWNER}: expected an output_dir without a run, got '{folder}' with one: {way}")
        elif args.save_strategy == "no":
            raise ValueError(f"{OWNER}: expected a save_strategy with resume_from_checkpoint, got 'no'")
        elif resume is not True and Path(resume).absolute().parent.resolve() != folder.resolve():
            raise ValueError(
                f"{OWNER}: expected resume_from_checkpoint, a checkpoint of the run in output_dir '{folder}', "
                f"got '{os.fspath(resume)}'"
            )
        elif (folder / SETTINGS).is_file() and not holds_run(folder):
            raise ValueError(
                f"{OWNER}: expected a checkpoint in '{folder}' to go on from, got a run that ended before its first "
                "save: train() begins anew there"
            )

    def check(self) -> int:
        """Refuse what `train` would refuse of its data before the first step, and return how many steps it makes.

        Raises
        ------
        ValueError
            As `train`.
        """
        steps = self._steps(self._training_data())
        self._check_evaluation()
        self._check_saves()
        return steps

    def _steps(self, epochs: Epochs) -> int:
        args = self.args
        return args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epochs.steps)

    def create_optimizer(self) -> Optimizer:
        """Return the optimizer of the arguments over the model; a subclass may make another."""
        args, names = self.args, frozenset(self.get_decay_parameter_names(self.model))
        settings: dict[str, Any] = {"weight_decay": args.weight_decay, "decay": lambda name, array: name in names}
        if args.learning_rate_groups:
            settings["rates"] = rates_by_pattern(self.model, args.learning_rate_groups)
        if args.optim == "sgd":
            return SGD(self.model, args.learning_rate, **settings)
        betas = (args.adam_beta1, args.adam_beta2)
        return AdamW(self.model, args.learning_rate, betas, args.adam_epsilon, **settings)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Return the names of the parameters that weight decay falls on; a subclass may name others."""
        return get_decay_parameter_names(model)

    def training_order(self, dataset: Any) -> Any:
        """Return the order of the training's rows, an object with len() and at(batch number); a subclass may differ."""
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        lengths = args.length_column_name if args.group_by_length else None
        return training_order(dataset, args.train_batch_size, seed, lengths, args.dataloader_drop_last)

    def _training_data(self) -> Epochs:
        if self.train_dataset is None:
            raise ValueError(f"{OWNER}: expected a train_dataset to train, got None")
        args = self.args
        dataset = self._dataset(self.train_dataset, "train_dataset")
        order = self.training_order(self._dataset(self.train_dataset, "train_dataset", whole=True))
        seed = args.seed if args.data_seed is None else args.data_seed
        batches = Batches(dataset, order, self.data_collator, seed)
        check_features(dataset, self.model, "train_dataset", self.data_collator)
        smoothing = args.label_smoothing_factor
        check_first_batch(batches, self.model, self.label_names, "train_dataset", smoothing)
        return Epochs(batches, args.gradient_accumulation_steps)

    def _check_saves(self) -> None:
        """Refuse a model whose checkpoints could not be written, or not be opened."""
        if self.args.save_strategy != "no" and hasattr(self.model, "check_saved"):
            self.model.check_saved()

    def _check_evaluation(self) -> None:
        """Refuse what an evaluation would stumble over, before the first step."""
        args, best = self.args, best_measure(self.args)
        if args.eval_strategy == "no" and not args.eval_on_start:
            return
        if self.eval_dataset is None:
            raise ValueError(f"{OWNER}: expected an eval_dataset with eval_strategy {args.eval_strategy!r}, got None")
        if args.predict_with_generate:
            self._generating({})
        for name, dataset in self.evaluation_datasets().items():
            what = f"eval_dataset {name}".rstrip()
            check_features(dataset, self.model, what, self.data_collator)
            check_first_batch(self._in_order(dataset), self.model, self.label_names, what)
        if best is not None and type(self).evaluate is Evaluates.evaluate:  # another may give measures of its own
            self._check_best_measure(best)

    def _check_best_measure(self, best: str) -> None:
        """Refuse a measure for the best weights that no evaluation can give."""
        args, several = self.args, is_several(self.eval_dataset)
        got = repr(args.metric_for_best_model)
        if self.compute_metrics is not None and not args.prediction_loss_only:
            if several and not best.startswith(tuple(f"eval_{name}_" for name in self.eval_dataset)):
                names = " or ".join(f"{name}_" for name in self.eval_dataset)
                raise ValueError(
                    f"{OWNER}: expected metric_for_best_model to begin with {names}, one of the several datasets, "
                    f"got {got}"
                )
            return
        if several and best not in [f"eval_{name}_loss" for name in self.eval_dataset]:
            losses = " or ".join(f"{name}_loss" for name in self.eval_dataset)
            raise ValueError(
                f"{OWNER}: expected metric_for_best_model {losses} with several datasets and no compute_metrics, "
                f"got {got}"
            )
        if not several and best != "eval_loss":
            raise ValueError(f"{OWNER}: expected compute_metrics, which gives metric_for_best_model {got}, got none")

    def _begin_state(self, epochs: Epochs, steps: int) -> None:
        args = self.args
        self.control = TrainerControl()
        self.state = TrainerState(
            max_steps=steps,
            num_train_epochs=math.ceil(steps / epochs.steps),
            logging_steps=args.interval("logging", steps) or 0,
            eval_steps=args.interval("eval", steps) or 0,
            save_steps=args.interval("save", steps) or 0,
            train_batch_size=args.train_batch_size,
            is_world_process_zero=self.is_world_process_zero(),
            is_local_process_zero=self.is_world_process_zero(),
        )

    def _rows_a_step(self) -> float:
        assert self._epochs is not None
        return len(self._epochs.batches.dataset) / self._epochs.steps

    def _load_best(self) -> None:
        """Put the weights of the best evaluation into the model."""
        state = self.state
        if self._loop is None or self._loop.folder is None or state.best_global_step in (None, state.global_step):
            return
        path = Path(self._loop.folder, f"checkpoint-{state.best_global_step}")
        check_best(path, f"the model has the weights of step {state.global_step}")
        put_weights(self.model, path)

    # --- what is saved

    def save_model(self, output_dir: str | os.PathLike[str] | None = None, _internal_call: bool = False) -> None:
        """Write the model, and the tokenizer where there is one; default into the arguments' `output_dir`.

        A subclass may write more. Each checkpoint calls this too, with `_internal_call`, for a folder that takes the
        checkpoint's name when all of it is written.
        """
        folder = Path(output_dir or self.args.output_dir or "")
        if not self.is_world_process_zero():
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        for name in ("save_pretrained", "save"):
            if hasattr(self.processing_class, name):
                getattr(self.processing_class, name)(folder)
                return

    def save_state(self) -> None:
        """Write the state as trainer_state.json into `output_dir`."""
        self._write_json("trainer_state.json", self.state.to_dict())

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Print measures, a line each."""
        if self.is_world_process_zero():
            print(f"***** {split} metrics *****")
            width = max(map(len, metrics), default=0)
            for name in sorted(metrics):
                value = metrics[name]
                print(f"  {name:<{width}} = {f'{value:.4g}' if isinstance(value, float) else value}")

    def save_metrics(self, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
        """Write measures as SPLIT_results.json, and with `combined` into all_results.json, into `output_dir`."""
        self._write_json(f"{split}_results.json", dict(metrics))
        if combined:
            self.logs.results |= metrics
            self._write_json("all_results.json", self.logs.results)

    def _write_json(self, name: str, content: Any) -> None:
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir or "")
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / name, content)


Seq2SeqTrainer = Trainer
