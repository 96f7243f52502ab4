"""Arguments of Transformers' TrainingArguments that numtx's has by another name, or has no use for, and why."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

from numtx.functional.door import nearest

_FLOAT = "numtx computes in float32 or float64: open the model with dtype"
_DEVICES = "numtx runs on processors, over threads (threads, shards)"
_HUB = "numtx uploads nothing: save_model writes a folder that can be uploaded"
_TORCH = "there is no PyTorch to set"
_MEMORY = "a batch is what it was asked to be"
_STATELESS = "a batch follows from its step alone: nothing is skipped, nothing is drawn elsewhere"

# name: (default, why anything else is refused)
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    **dict.fromkeys(("bf16", "fp16", "bf16_full_eval", "fp16_full_eval"), ((False,), _FLOAT)),
    "fp16_opt_level": (("O1",), _FLOAT),
    **dict.fromkeys(("half_precision_backend", "fp16_backend"), (("auto",), _FLOAT)),
    "tf32": ((None, False), _FLOAT),
    "use_mps_device": ((False,), _DEVICES),
    **dict.fromkeys(("tpu_num_cores", "ddp_backend", "ddp_find_unused_parameters"), ((None,), _DEVICES)),
    **dict.fromkeys(("ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"), ((None,), _DEVICES)),
    "tpu_metrics_debug": ((False,), _DEVICES),
    "local_rank": ((-1, 0), "ranks are started by mpiexec"),
    "mp_parameters": (("",), _DEVICES),
    **dict.fromkeys(("per_gpu_train_batch_size", "per_gpu_eval_batch_size"), ((None,), _DEVICES)),
    **dict.fromkeys(("fsdp", "fsdp_config"), ((None, "", []), _DEVICES)),
    "fsdp_min_num_params": ((0,), _DEVICES),
    "fsdp_transformer_layer_cls_to_wrap": ((None,), _DEVICES),
    **dict.fromkeys(("accelerator_config", "parallelism_config", "deepspeed"), ((None,), _DEVICES)),
    "debug": (("", []), "`numtx.trace` shows what is computed"),
    "jit_mode_eval": ((False,), _TORCH),
    **dict.fromkeys(("torch_compile",), ((False,), _TORCH)),
    **dict.fromkeys(("torch_compile_backend", "torch_compile_mode", "torchdynamo"), ((None,), _TORCH)),
    "use_liger_kernel": ((False,), _TORCH),
    "liger_kernel_config": ((None,), _TORCH),
    "past_index": ((-1,), "no model here has such memories"),
    "use_legacy_prediction_loop": ((False,), "there is one loop"),
    "use_cache": ((False, None), "training has no use for a cache"),
    "ignore_data_skip": ((False,), _STATELESS),
    "save_only_model": ((False,), "checkpoints hold what a resume needs; save_model writes the model alone"),
    "enable_jit_checkpoint": ((False,), "Ctrl-C and SIGTERM save anyway"),
    "adafactor": ((False,), "numtx has AdamW and SGD"),
    "optim_args": ((None,), "AdamW's settings are adam_beta1, adam_beta2, adam_epsilon"),
    "optim_target_modules": ((None,), "numtx has AdamW and SGD"),
    "neftune_noise_alpha": ((None,), "numtx adds no noise to embeddings"),
    "auto_find_batch_size": ((False,), _MEMORY),
    "batch_eval_metrics": ((False,), "metrics are computed over all predictions"),
    "eval_do_concat_batches": ((True,), "predictions come as one array"),
    "push_to_hub": ((False,), _HUB),
    **dict.fromkeys(("hub_model_id", "hub_token", "hub_private_repo", "hub_revision"), ((None,), _HUB)),
    **dict.fromkeys(("push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token"), ((None,), _HUB)),
    "hub_strategy": (("every_save",), _HUB),
    "hub_always_push": ((False,), _HUB),
    "sortish_sampler": ((False,), "group_by_length makes batches of rows of like length"),
    "save_safetensors": ((True,), "weights are written as safetensors, without pickle"),
    "gradient_checkpointing_kwargs": ((None,), _TORCH),
    "activation_checkpointing_kwargs": ((None,), _TORCH),
    "average_tokens_across_devices": ((True,), "the loss is a mean over all real labels"),
    "include_num_input_tokens_seen": ((False, "no"), "train_tokens_per_second is not counted so"),
    "include_tokens_per_second": ((False,), "labels a second stand in log.jsonl"),
    "restore_callback_states_from_checkpoint": ((False, True), ""),
}

# Taken, and without effect: what they set does not exist here, or is always so.
WITHOUT_EFFECT = (
    "ddp_timeout",
    "dataloader_in_order",
    "dataloader_multiprocessing_context",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "eval_accumulation_steps",
    "eval_use_gather_object",
    "full_determinism",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "logging_nan_inf_filter",
    "no_cuda",
    "project",
    "ray_scope",
    "save_on_each_node",
    "skip_memory_metrics",
    "torch_empty_cache_steps",
    "trackio_bucket_id",
    "trackio_space_id",
    "trackio_static_space_id",
    "use_cpu",
)

_SPELLINGS = {
    "evaluation_strategy": "eval_strategy",
    "activation_checkpointing": "gradient_checkpointing",
}


def known_by_name(cls: type) -> type:
    """Let a dataclass of arguments take other spellings, and refuse what it does not know by the nearest name."""
    init, names = cls.__init__, [one.name for one in fields(cls) if one.init]  # type: ignore[misc]

    @functools.wraps(init)
    def checked(self: Any, *values: Any, **settings: Any) -> None:
        settings = respelled(cls.__name__, settings)
        own = {name: value for name, value in settings.items() if name in names}
        for name in settings.keys() - own.keys():
            if not refuse_foreign(cls.__name__, name, settings[name]):
                known = [*names, *WITHOUT_EFFECT]
                raise ValueError(
                    f"{cls.__name__}: expected an argument that it has, got {name!r}{nearest(name, known)}"
                )
        init(self, *values, **own)

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def respelled(owner: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings under the names that numtx uses.

    Examples
    --------
    >>> respelled("TrainingArguments", {"evaluation_strategy": "epoch"})
    {'eval_strategy': 'epoch'}
    """
    found = dict(settings)
    for other, name in _SPELLINGS.items():
        if other in found:
            _once(owner, found, other, name)
            found[name] = found.pop(other)
    if "train_sampling_strategy" in found:
        _once(owner, found, "train_sampling_strategy", "group_by_length")
        kind = found.pop("train_sampling_strategy")
        if kind not in ("random", "group_by_length"):
            raise ValueError(f"{owner}: expected train_sampling_strategy random or group_by_length, got {kind!r}")
        found["group_by_length"] = kind == "group_by_length"
    if found.pop("include_inputs_for_metrics", False):
        found["include_for_metrics"] = [*found.get("include_for_metrics", []), "inputs"]
    if found.get("gradient_checkpointing", False) is None:
        found["gradient_checkpointing"] = False
    if found.get("overwrite_output_dir", False) is None:
        del found["overwrite_output_dir"]
    return found


def refuse_foreign(owner: str, name: str, value: Any) -> bool:
    """Return whether an argument is one of Transformers' that need not be heard; refuse one that would have to be."""
    if name in REFUSED:
        defaults, why = REFUSED[name]
        if value not in defaults:
            raise ValueError(f"{owner}: expected {name} at its default {defaults[0]!r}, got {value!r}: {why}")
        return True
    return name in WITHOUT_EFFECT


def _once(owner: str, settings: dict[str, Any], other: str, name: str) -> None:
    if name in settings:
        raise ValueError(f"{owner}: expected {name} once, got {other} too")
