"""What a Trainer is made of besides training: evaluations and predictions, its callbacks, and its log."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from numtx.generation import GenerationConfig
from numtx.text import BatchOrder
from numtx.training.arguments import TrainingArguments
from numtx.training.epochs import OWNER, Batches, Epochs, chosen_collator, known_dataset, used_columns
from numtx.training.fine_tuning import FineTuning
from numtx.training.foreign_methods import INSTEAD, NOT_HERE, refuse_overridden
from numtx.training.mpi import Alone, found_ranks
from numtx.training.optimizers import Optimizer
from numtx.training.prediction import Prediction, Predictor, joined, mean_loss, plain, predict, prefixed, row_losses
from numtx.training.threads import Workers
from numtx.training.trainer_callbacks import CallbackHandler, TrainerCallback, default_callbacks
from numtx.training.trainer_logs import TrainerLogs
from numtx.training.trainer_state import EvalPrediction, PredictionOutput, TrainerControl, TrainerState


class Evaluates:
    """The part of a `Trainer` that evaluates, predicts, tells and logs."""

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[..., dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[[], Any] | None = None,
        compute_loss_func: None = None,
        compute_metrics: Callable[[EvalPrediction], Mapping[str, Any]] | None = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Optimizer | None, Callable[[int], float] | None] = (None, None),
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        *,
        tokenizer: Any = None,
    ):
        refuse_overridden(OWNER, type(self))
        if compute_loss_func is not None:
            raise ValueError(
                f"{OWNER}: expected compute_loss_func None, got one: a loss comes with its gradient, in the model's "
                "loss_and_grads"
            )
        if (model is None) == (model_init is None):
            raise ValueError(
                f"{OWNER}: expected either a model or model_init, got {'neither' if model is None else 'both'}"
            )
        if processing_class is not None and tokenizer is not None:
            raise ValueError(f"{OWNER}: expected processing_class or tokenizer, got both")
        check_functions(
            model_init=model_init,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self.model = checked_model(model_init() if model_init is not None else model)
        self.args = TrainingArguments() if args is None else args
        if not isinstance(self.args, TrainingArguments):
            raise ValueError(f"{OWNER}: expected args to be TrainingArguments, got {type(self.args).__name__}")
        self.processing_class = processing_class if processing_class is not None else tokenizer
        self.data_collator = chosen_collator(data_collator, self.processing_class)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.compute_metrics, self.preprocess_logits_for_metrics = compute_metrics, preprocess_logits_for_metrics
        self.optimizer, self.lr_scheduler = given_optimizers(optimizers)
        self._given_optimizer = self.optimizer
        if self.optimizer is not None:
            check_optimizer(self.optimizer, self.model)
        names = self.args.label_names or getattr(self.model, "label_names", None) or ("labels",)
        self.label_names = tuple(names)
        self.state, self.control = TrainerState(), TrainerControl()
        self.logs = TrainerLogs(self.args)
        if isinstance(callbacks, (TrainerCallback, type)):
            raise ValueError(f"{OWNER}: expected callbacks, a list, got {callbacks!r}")
        self.handler = CallbackHandler([*default_callbacks(self.args), *(callbacks or ())])
        self._loop: FineTuning | None = None
        self._epochs: Epochs | None = None
        self._predicting: Batches | None = None
        self._ignored_keys: Sequence[str] | None = None  # of evaluations while training
        self._known: dict[int, tuple[Any, Any]] = {}
        self.tell("on_init_end")

    if not TYPE_CHECKING:  # where it would stand for every name

        def __getattr__(self, name: str) -> Any:
            said = INSTEAD.get(name) or NOT_HERE.get(name)
            instead = f", as Transformers' has: {said}" if said else ""
            raise AttributeError(f"{OWNER} has no {name}{instead}")

    # --- evaluation and prediction

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Sequence[str] | None = None,
        metric_key_prefix: str = "eval",
        **generate: Any,
    ) -> dict[str, Any]:
        """Return the measures of a dataset, default that of the constructor.

        Parameters
        ----------
        eval_dataset : as in the constructor, optional
            Of a dict of several, each gives its own measures, such as eval_NAME_loss; the name of one of the
            constructor's is that one.
        ignore_keys : list of str, optional
            Outputs that are not wanted.
        metric_key_prefix : str
        **generate
            Settings of `model.generate`, with `predict_with_generate`.
        """
        source = self.eval_dataset if eval_dataset is None else eval_dataset
        if source is None:
            raise ValueError(f"{OWNER}: expected an eval_dataset, got None")
        if isinstance(source, str) and is_several(self.eval_dataset) and source in self.eval_dataset:
            source = self.eval_dataset[source]
        if is_several(source):
            found: dict[str, Any] = {}
            for name, one in source.items():
                found |= self.evaluate(one, ignore_keys, f"{metric_key_prefix}_{name}", **generate)
            return found
        began = time.perf_counter()
        scores = self.compute_metrics is not None and not self.args.prediction_loss_only
        _, metrics, rows = self._predict(source, "eval_dataset", ignore_keys, metric_key_prefix, scores, generate)
        metrics |= self._speed(metric_key_prefix, began, rows, math.ceil(rows / self.args.eval_batch_size))
        self.log(metrics)
        self._event("on_evaluate", metrics=dict(metrics))
        return {**metrics, "epoch": self.state.epoch}

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: Sequence[str] | None = None,
        metric_key_prefix: str = "test",
        **generate: Any,
    ) -> PredictionOutput:
        """Return the predictions for a dataset, its labels and, where it has some, its measures."""
        began = time.perf_counter()
        source = ("test_dataset", ignore_keys, metric_key_prefix, not self.args.prediction_loss_only, generate)
        made, metrics, rows = self._predict(test_dataset, *source)
        metrics |= self._speed(metric_key_prefix, began, rows, math.ceil(rows / self.args.eval_batch_size))
        self._event("on_predict", metrics=dict(metrics))
        labels = joined([one.labels for one in made])
        return PredictionOutput(joined([one.scores for one in made]), labels, metrics)

    def evaluation_batches(self) -> Iterator[dict[str, Any]]:
        """Yield the batches that an evaluation walks over."""
        for dataset in self.evaluation_datasets().values():
            batches = self._in_order(dataset)
            yield from (batches.at(number) for number in range(len(batches)))

    def evaluation_datasets(self) -> dict[str, Any]:
        """Return what an evaluation walks over, by name; a single dataset has none."""
        sources = self.eval_dataset if is_several(self.eval_dataset) else {"": self.eval_dataset}
        return {name: self._dataset(one, f"eval_dataset {name}".rstrip()) for name, one in sources.items()}

    def _predict(
        self,
        source: Any,
        what: str,
        ignore_keys: Sequence[str] | None,
        prefix: str,
        scores: bool,
        generate: Mapping[str, Any],
    ) -> tuple[list[Prediction], dict[str, Any], int]:
        args, loop = self.args, self._loop
        batches = self._predicting = self._in_order(self._dataset(source, what))
        smoothing = args.label_smoothing_factor
        predictor = Predictor(
            self.model,
            self.label_names,
            {"label_smoothing": smoothing} if smoothing else {},
            scores=scores,
            keep_inputs="inputs" in args.include_for_metrics and scores,
            ignore_keys=tuple(ignore_keys or ()),
            preprocess=self.preprocess_logits_for_metrics,
            generate=self._generating(generate) if args.predict_with_generate else None,
        )
        if generate and not args.predict_with_generate:
            raise ValueError(f"{OWNER}: expected predict_with_generate=True with {', '.join(generate)}, got False")
        ranks = loop.ranks if loop is not None else self._ranks()
        with ExitStack() as held:
            workers = loop.workers if loop is not None else held.enter_context(Workers(args.worker_threads))
            made = predict(predictor, batches, workers=workers, ranks=ranks, after=self._predicted)
        metrics: dict[str, Any] = {}
        has_labels = made[0].labels is not None
        if scores and has_labels and self.compute_metrics is not None:
            given = EvalPrediction(
                joined([one.scores for one in made]),
                joined([one.labels for one in made]),
                joined([one.inputs for one in made]) if "inputs" in args.include_for_metrics else None,
                row_losses(made) if "loss" in args.include_for_metrics else None,
            )
            measured = self.compute_metrics(given)
            if not isinstance(measured, Mapping):
                got = type(measured).__name__
                raise ValueError(f"{OWNER}: expected compute_metrics to return a dict of measures, got {got}")
            metrics = plain(measured)
        loss = mean_loss(made)
        if loss is not None:
            metrics = {f"{prefix}_loss": loss, **metrics}
        return made, prefixed(metrics, prefix), len(batches.dataset)

    def _generating(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of `generate`: what the call asks, then the arguments, then the model's own."""
        args = self.args
        if not hasattr(self.model, "generate"):
            got = type(self.model).__name__
            raise ValueError(f"{OWNER}: expected a model that writes with predict_with_generate, got {got}")
        settings = {"max_length": args.generation_max_length, "num_beams": args.generation_num_beams}
        config = args.generation_config
        if isinstance(config, (str, os.PathLike)):
            config = GenerationConfig.from_pretrained(config)
        settings["generation_config"] = config
        if "max_new_tokens" in asked:
            del settings["max_length"]
        return {name: value for name, value in {**settings, **asked}.items() if value is not None}

    def _in_order(self, dataset: Any) -> Batches:
        order = BatchOrder(len(dataset), self.args.eval_batch_size, shuffle=False)
        return Batches(dataset, order, self.data_collator, self.args.seed)

    def _dataset(self, source: Any, what: str, *, whole: bool = False) -> Any:
        """Return a dataset, without columns that the model does not take unless it is wanted whole."""
        known = self._known.get(id(source))
        if known is None or known[0] is not source:
            known = self._known[id(source)] = (source, known_dataset(source, what))
        if whole or not self.args.remove_unused_columns:
            return known[1]
        return used_columns(known[1], self.model, self.label_names, what)

    def _predicted(self, done: int, total: int) -> None:
        if self.is_world_process_zero():
            self.tell("on_prediction_step", done=done, total=total)

    # --- what is told and logged

    def tell(self, event: str, **given: Any) -> None:
        """Call an event of all callbacks."""
        more = {
            "model": self.model,
            "processing_class": self.processing_class,
            "optimizer": self.optimizer,
            "lr_scheduler": self._loop.plan.learning_rate if self._loop is not None else self.lr_scheduler,
            "train_dataloader": self._epochs,
            "eval_dataloader": self._predicting,
        }
        self.control = self.handler.call(event, self.args, self.state, self.control, **more, **given)

    def _event(self, event: str, **given: Any) -> None:
        if self._loop is not None:
            self._loop.event(event, **given)
        elif self.is_world_process_zero():
            self.tell(event, **given)

    def log(self, logs: Mapping[str, Any], start_time: float | None = None) -> None:
        """Log something: into the state's history, the log files, and to the callbacks."""
        row = {**logs, "epoch": self.state.epoch}
        self.state.log_history.append({**row, "step": self.state.global_step})
        self._ranks().at_first("log", lambda: self.logs.write(self.state.log_history[-1], self._loop))
        self._event("on_log", logs=row)

    def _speed(self, prefix: str, began: float, rows: float, steps: int) -> dict[str, float]:
        seconds = time.perf_counter() - began
        return {
            f"{prefix}_runtime": round(seconds, 4),
            f"{prefix}_samples_per_second": round(rows / seconds, 3),
            f"{prefix}_steps_per_second": round(steps / seconds, 3),
        }

    def add_callback(self, callback: Any) -> None:
        """Add a callback, or a class of one."""
        self.handler.add(callback)

    def pop_callback(self, callback: Any) -> TrainerCallback | None:
        """Take out and return a callback, or the first of a class."""
        return self.handler.pop(callback)

    def remove_callback(self, callback: Any) -> None:
        """Take out a callback, or the first of a class."""
        self.handler.pop(callback)

    def is_world_process_zero(self) -> bool:
        """Say whether this is the process that logs and saves."""
        return self._ranks().first

    def is_local_process_zero(self) -> bool:
        """As `is_world_process_zero`."""
        return self.is_world_process_zero()

    def _ranks(self) -> Alone:
        return self._loop.ranks if self._loop is not None else found_ranks()


def check_functions(**given: Any) -> None:
    """Refuse what is neither None nor can be called, by its name."""
    for name, one in given.items():
        if one is not None and not callable(one):
            raise ValueError(f"{OWNER}: expected {name} to be a function, got {type(one).__name__}")


def checked_model(model: Any) -> Any:
    """Return a model, if it is one that can be trained."""
    if isinstance(model, type):
        raise ValueError(f"{OWNER}: expected a model, got the class {model.__name__}: call it with a config")
    if lacking := [name for name in ("loss_and_grads", "loss", "count_labels") if not hasattr(model, name)]:
        got = type(model).__name__
        raise ValueError(f"{OWNER}: expected a model with {', '.join(lacking)} (a head), got {got}")
    return model


def given_optimizers(optimizers: Any) -> tuple[Optimizer | None, Callable[[int], float] | None]:
    """Return an optimizer and a function of the step, or None for either."""
    if not isinstance(optimizers, (tuple, list)) or len(optimizers) != 2:
        raise ValueError(
            f"{OWNER}: expected optimizers, a pair (optimizer, learning rate of a step), got {optimizers!r}"
        )
    optimizer, rate = optimizers
    if not isinstance(optimizer, (Optimizer, type(None))):
        got = type(optimizer).__name__
        raise ValueError(f"{OWNER}: expected an optimizer of numtx.training in optimizers, got {got}")
    if rate is not None and not callable(rate):
        got = type(rate).__name__
        raise ValueError(f"{OWNER}: expected a function from a step to its learning rate in optimizers, got {got}")
    return optimizer, rate


def check_optimizer(optimizer: Optimizer, model: Any) -> None:
    """Refuse an optimizer that would update another model, or other parameters than those that are trained.

    Raises
    ------
    ValueError
    """
    if optimizer.flat.model is not model:
        raise ValueError(f"{OWNER}: expected an optimizer made over the trainer's model, got one over another model")
    optimizer.flat.sync()  # refuses parameters that were frozen, unfrozen or added since it was made


def is_several(source: Any) -> bool:
    """Whether a source is a dict of datasets, not of columns."""
    if not isinstance(source, Mapping) or not source:
        return False
    first = next(iter(source.values()))
    if isinstance(first, (str, os.PathLike, Mapping)) or hasattr(first, "column_names"):
        return True
    return isinstance(first, Sequence) and len(first) > 0 and isinstance(first[0], Mapping)
