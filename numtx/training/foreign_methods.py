"""Methods of Transformers' Trainer that numtx's has no use for, and what stands in their place."""

from __future__ import annotations

_LOSS = "a loss comes with its gradient, in the model's loss_and_grads"
_BATCHES = "data_collator makes batches, and training_order says of which rows"
_EVALUATION = "evaluate and predict may be overridden, and preprocess_logits_for_metrics makes less of the scores"
_RATE = "optimizers=(None, rate) gives a function from a step to its learning rate"
_HUB = "save_model writes a folder that can be uploaded"

INSTEAD: dict[str, str] = {
    **dict.fromkeys(("compute_loss", "compute_loss_context_manager", "training_step", "_inner_training_loop"), _LOSS),
    **dict.fromkeys(("get_train_dataloader", "get_eval_dataloader", "get_test_dataloader"), _BATCHES),
    **dict.fromkeys(("_get_train_sampler", "_get_eval_sampler", "_get_dataloader", "get_batch_samples"), _BATCHES),
    **dict.fromkeys(("prediction_step", "evaluation_loop", "prediction_loop"), _EVALUATION),
    "create_optimizer_and_scheduler": "create_optimizer may be overridden",
    **dict.fromkeys(("create_scheduler", "get_scheduler"), _RATE),
    "get_optimizer_cls_and_kwargs": "create_optimizer may be overridden",
    **dict.fromkeys(
        ("_save_checkpoint", "_maybe_log_save_evaluate", "_save"), "callbacks hear on_save and on_evaluate"
    ),
    **dict.fromkeys(("push_to_hub", "init_hf_repo", "create_model_card"), _HUB),
    "hyperparameter_search": "a loop over TrainingArguments does it",
    "accelerator": "numtx runs on processors, over threads (threads, shards)",
}


def refuse_overridden(owner: str, cls: type) -> None:
    """Refuse a trainer's class with a method that would never be called.

    Raises
    ------
    ValueError
        With what stands in its place.
    """
    for name, instead in INSTEAD.items():
        if hasattr(cls, name):
            raise ValueError(f"{owner}: expected a class without {name}, which is never called, got one: {instead}")
