"""Methods of Transformers' Trainer that numtx's has no use for, and what stands in their place."""

from __future__ import annotations

import inspect

_LOSS = "a loss comes with its gradient, in the model's loss_and_grads"
_BATCHES = "data_collator makes batches, and training_order says of which rows"
_EVALUATION = "evaluate and predict may be overridden, and preprocess_logits_for_metrics makes less of the scores"
_RATE = "optimizers=(None, rate) gives a function from a step to its learning rate"
_SAVES = "checkpoints call save_model, which may be overridden, and callbacks hear on_save"
_COLUMNS = "remove_unused_columns=False keeps all columns, and data_collator makes of them what the model takes"
_BEST = "metric_for_best_model and greater_is_better decide, and evaluate may be overridden"
_RESUMES = "put_weights of numtx.training.resume reads a checkpoint, and the model's from_pretrained opens it"
_FLOPS = "numtx counts no operations while it trains"
_HUB = "save_model writes a folder that can be uploaded"

INSTEAD: dict[str, str] = {
    **dict.fromkeys(("compute_loss", "compute_loss_context_manager", "training_step", "_inner_training_loop"), _LOSS),
    **dict.fromkeys(("get_train_dataloader", "get_eval_dataloader", "get_test_dataloader"), _BATCHES),
    **dict.fromkeys(("_get_train_sampler", "_get_eval_sampler", "_get_dataloader", "get_batch_samples"), _BATCHES),
    **dict.fromkeys(("prediction_step", "evaluation_loop", "prediction_loop"), _EVALUATION),
    "create_optimizer_and_scheduler": "create_optimizer may be overridden",
    **dict.fromkeys(("create_scheduler", "get_scheduler"), _RATE),
    "get_optimizer_cls_and_kwargs": "create_optimizer may be overridden",
    **dict.fromkeys(("_save_checkpoint", "_save", "_save_optimizer_and_scheduler"), _SAVES),
    "_rotate_checkpoints": "save_total_limit says how many checkpoints stay",
    **dict.fromkeys(("_maybe_log_save_evaluate", "_evaluate"), "callbacks hear on_log, on_save and on_evaluate"),
    **dict.fromkeys(("_remove_unused_columns", "_prepare_inputs", "_prepare_input"), _COLUMNS),
    "_determine_best_metric": _BEST,
    **dict.fromkeys(("_load_best_model", "_load_from_checkpoint"), _RESUMES),
    "_nested_gather": "predictions of all processes come together of themselves",
    **dict.fromkeys(("floating_point_ops", "store_flos"), _FLOPS),
    "get_learning_rates": _RATE,
    **dict.fromkeys(("push_to_hub", "init_hf_repo", "create_model_card"), _HUB),
    "hyperparameter_search": "a loop over TrainingArguments does it",
    "accelerator": "numtx runs on processors, over threads (threads, shards)",
}

# Attributes to be read, which a class may have of its own.
NOT_HERE: dict[str, str] = {
    "tokenizer": "processing_class is its name",
    "callback_handler": "add_callback, pop_callback and remove_callback change what is called",
    "model_wrapped": "model is all there is",
    "get_num_trainable_parameters": "model.num_parameters(only_trainable=True) counts them",
    "get_optimizer_group": "optimizer.flat.groups are all there are",
    "num_examples": "len() of the dataset counts its rows",
    "num_tokens": "lengths of input_ids add up to them",
    "is_in_train": "callbacks hear on_train_begin and on_train_end",
}


def refuse_overridden(owner: str, cls: type) -> None:
    """Refuse a trainer's class with a method that would never be called, or not as it wants to be.

    Raises
    ------
    ValueError
        With what stands in its place.
    """
    for name, instead in INSTEAD.items():
        if hasattr(cls, name):
            raise ValueError(f"{owner}: expected a class without {name}, which is never called, got one: {instead}")
    saves = inspect.signature(cls.save_model)  # type: ignore[attr-defined]
    try:
        saves.bind(None, "folder", _internal_call=True)
    except TypeError:
        raise ValueError(
            f"{owner}: expected save_model(self, output_dir=None, _internal_call=False), as checkpoints call it, "
            f"got save_model{saves}"
        ) from None
