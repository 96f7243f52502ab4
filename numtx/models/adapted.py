"""Adapters of pretrained models: added, trained, saved alone and merged, under Transformers' names of the methods."""

import re
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from numtx import nn
from numtx.checkpoints.names import listed
from numtx.models.adapter_files import read_adapter, write_adapter
from numtx.models.lora_config import LoraConfig
from numtx.models.tasks import (
    CausalLM,
    MaskedLM,
    QuestionAnswering,
    Seq2SeqLM,
    SequenceClassification,
    TokenClassification,
)
from numtx.nn.adapting import PACKED, lora_layers, lora_targets, matching_modules, matrix_of, put_lora, remove_lora
from numtx.nn.lora import UPDATE
from numtx.nn.module import copy_into

# What PEFT takes where nothing is said; DistilBERT and Marian, for which it takes nothing, as their next of kin.
TARGETS = {
    "bart": ["q_proj", "v_proj"],
    "bert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "gpt2": ["c_attn"],
    "llama": ["q_proj", "v_proj"],
    "marian": ["q_proj", "v_proj"],
    "roberta": ["query", "value"],
    "t5": ["q", "v"],
}
ALL = "all-linear"
PACKED_IN_FILES = ("gpt2",)  # families whose matrices are (in, out) in files too
# PEFT's name of a task, the first that fits; of some, the head is new and is trained in full.
TASKS: tuple[tuple[type, str | None], ...] = (
    (SequenceClassification, "SEQ_CLS"),
    (QuestionAnswering, "QUESTION_ANS"),
    (CausalLM, "CAUSAL_LM"),
    (Seq2SeqLM, "SEQ_2_SEQ_LM"),
    (MaskedLM, None),
    (TokenClassification, "TOKEN_CLS"),
)
WITH_NEW_HEADS = ("SEQ_CLS", "QUESTION_ANS", "TOKEN_CLS")
NEW = (True, False, "gaussian")  # how an adapter may start here


class Adapted(nn.Module):
    """What a pretrained model has for LoRA. Modules go by their names in Transformers, as in PEFT."""

    adapter: LoraConfig | None = None
    name_or_path: str | None = None  # what the model was opened from
    trained_in_full: tuple[str, ...] = ()  # parameters that belong to the adapter beside its updates
    table: ClassVar[str | None]
    names: ClassVar[Any]
    config: Any

    def add_adapter(self, config: LoraConfig | None = None, *, rng=None) -> Self:
        """Put LoRA into the model, freeze all else, and return the model.

        It computes what it did until it is trained: the update starts at zero. `save_pretrained` saves the adapter
        alone from now on; `merge_and_unload` makes the model a plain one again.

        Parameters
        ----------
        config : LoraConfig or None
            None: its defaults.
        rng : int or np.random.Generator
            Draws the update.

        Raises
        ------
        ValueError
            If a target does not exist: those that do are named. Or there is an adapter already.
        """
        config, name = LoraConfig() if config is None else config, type(self).__name__
        if not isinstance(config, LoraConfig) or config.init_lora_weights not in NEW:
            got = getattr(config, "init_lora_weights", type(config).__name__)
            raise ValueError(f"{name}: expected a LoraConfig that starts by True, False or 'gaussian', got {got!r}")
        if self.adapter is not None:
            raise ValueError(f"{name}: expected a model without an adapter; merge_and_unload or unload it first")
        task = self._task() if config.task_type is None else config.task_type
        saved = self._saved(config.modules_to_save, task)
        trained = self._inside(saved)
        targets = {module: ours for module, ours in self._targets().items() if matrix_of(ours) not in trained}
        wanted = TARGETS[self.config.model_type] if config.target_modules is None else config.target_modules
        found = list(targets) if wanted == ALL else matching_modules(name, "target_modules", targets, wanted)
        if config.exclude_modules is not None:
            out = matching_modules(name, "exclude_modules", targets, config.exclude_modules)
            found = [module for module in found if module not in out]
        if not found:
            raise ValueError(f"{name}: expected a target module, got none that is not excluded")
        config.check_patterns(name, found)
        rng = np.random.default_rng(rng)
        self._put(config, {module: targets[module] for module in found}, trained, rng)
        if config.init_lora_weights is not True:
            for layer in lora_layers(self).values():
                _start(layer, config.init_lora_weights, rng)
        # "all-linear" would mean others to a model with another head.
        said: dict[str, Any] = {"target_modules": found if wanted == ALL else wanted, "modules_to_save": saved or None}
        self.adapter = replace(config, task_type=task, **said)
        return self

    def load_adapter(self, folder) -> Self:
        """Put an adapter that PEFT or `save_pretrained` saved into the model, and return the model.

        Where the model has an adapter of the same settings and arrays, their numbers are taken over in place.

        Raises
        ------
        ValueError
            If the files are broken, the adapter is of another kind, or does not fit the model.
        """
        config, arrays = read_adapter(folder)
        self._check_task(config, folder)
        updates = [array for array in arrays if array.endswith(tuple(f".{part}.weight" for part in UPDATE))]
        modules = list(dict.fromkeys(array.removesuffix(".weight").rpartition(".")[0] for array in updates))
        own = {theirs: ours for ours, theirs in self._own_names().items()}
        trained = [own[array] for array in arrays if array in own]
        self._check_fit(config, arrays, modules, (*updates, *own), folder)
        frozen = [name for name, _ in self.frozen_parameters()]
        fresh, merged = self.adapter is None, [layer for layer in lora_layers(self).values() if layer.is_merged]
        if fresh:
            targets = self._targets()
            self._put(config, {module: targets[module] for module in modules}, trained, None)
        else:
            self._check_same(config, modules, folder)
        try:
            self._take(arrays, folder)
        except ValueError:
            if fresh:  # as it was
                self.unload()
                for name in frozen:
                    nn.freeze(self, name)
            raise
        for layer in merged:  # with the new numbers
            layer.merge()
        return self

    def merge_and_unload(self) -> Self:
        """Merge the adapter into the weights, take it out, and return the model: plain, and all of it trainable."""
        return self._without_adapter(merge=True)

    def unload(self) -> Self:
        """Take the adapter out and return the model. Parts that were trained in full stay as they are."""
        return self._without_adapter(merge=False)

    def save_adapter(self, folder) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`, which PEFT opens over Transformers' model.

        Raises
        ------
        ValueError
            If what is trained is not all in these files, or the folder holds a whole model.
        """
        config = self._known_adapter()
        self.check_saved()
        base = config.base_model_name_or_path or self.name_or_path
        packed = self.config.model_type in PACKED_IN_FILES
        write_adapter(folder, config, self.adapter_arrays(), base_model_name_or_path=base, fan_in_fan_out=packed)

    def adapter_names(self) -> tuple[str, ...]:
        """Return the names of the parameters that belong to the adapter: its updates, and what is trained in full."""
        self._known_adapter()
        return (*self._update_names(), *self.trained_in_full)

    def check_saved(self) -> None:
        """Refuse what `save_pretrained` could not write, or would lose; a Trainer that is to save asks it first.

        Raises
        ------
        ValueError
            In one line, with what to do.
        """
        name, updated = type(self).__name__, bool(lora_layers(self))
        if self.adapter is None:
            if updated:
                raise ValueError(
                    f"{name}: expected LoRA from add_adapter, which is saved, got it from nn.add_lora; "
                    "nn.remove_lora merges it"
                )
            return
        if not updated:
            raise ValueError(
                f"{name}: expected the updates of its adapter, got none; merge_and_unload and unload take them out, "
                "nn.remove_lora leaves the adapter's settings behind"
            )
        kept = self.adapter_names()
        if lost := [name for name, _ in self.trainable_parameters() if name not in kept]:
            raise ValueError(
                f"{name}: expected only the adapter to be trained, got {', '.join(lost[:3])} unfrozen, "
                "which its files do not hold; name such parts in modules_to_save"
            )

    def adapter_arrays(self, tree: dict | None = None) -> dict[str, np.ndarray]:
        """Return the adapter, or a tree shaped like it (gradients, say), by PEFT's names without their prefix.

        A is (r, in) and B (out, r), as PEFT has them: views.
        """
        low, kept = self._update_names(), self.adapter_names()
        flat = {n: a for n, a in self.named_parameters() if n in kept} if tree is None else nn.flatten(tree)
        arrays = {low[name]: array.T for name, array in flat.items() if name in low}
        rest = {name: array for name, array in flat.items() if name not in low}
        return arrays | type(self).names(self.config).to_checkpoint(rest)

    def _check_same(self, config, modules, folder):
        """Require that the model's own updates weigh and drop out as those of a file do."""
        layers, targets = lora_layers(self), self._targets()
        for module in modules:
            layer = layers.get(targets[module].removesuffix(".in_proj"))
            wanted = (config.rank(module), config.alpha(module), config.use_rslora, config.lora_dropout)
            own = wanted if layer is None else (layer.lora_r, layer.lora_alpha, layer.lora_rs, layer.lora_dropout)
            if own != wanted:
                raise ValueError(
                    f"{type(self).__name__}: expected an adapter of the model's rank, alpha, rslora and dropout, "
                    f"{own}, for {module} in '{folder}', got {wanted}; unload the model's own first"
                )

    def _put(self, config, modules, trained, rng):
        """Put updates beside modules, given as {their name: ours}."""
        settings = {"dropout": config.lora_dropout, "rs": config.use_rslora}
        updates = {
            ours: {"r": config.rank(theirs), "alpha": config.alpha(theirs), **settings}
            for theirs, ours in modules.items()
        }
        put_lora(self, updates, trained, rng=rng)
        self.adapter, self.trained_in_full = config, tuple(trained)

    def _take(self, arrays, folder):
        """Copy the arrays of a file into the live ones."""
        name, where = type(self).__name__, f"'{folder}'"
        state, table = dict(self.named_parameters()), type(self).names(self.config)
        low = {theirs: ours for ours, theirs in self._update_names().items()}
        given = {low[array]: arrays[array].T for array in arrays if array in low}
        rest = {array: arrays[array] for array in arrays if array not in low}
        expected = {ours: state[ours] for ours in self.trained_in_full}
        given |= table.from_checkpoint(rest, expected, where=where, owner=name)
        copy_into(name, {ours: state[ours] for ours in (*low.values(), *expected)}, given)

    def _check_fit(self, config, arrays, modules, known, folder):
        """Refuse an adapter of modules that the model has not, or not of all that its settings name."""
        name, targets = type(self).__name__, self._targets()
        strange = [array for array in arrays if array not in known]
        strange += [module for module in modules if module not in targets]
        if strange or not modules:
            got = listed(strange) or "no update"
            raise ValueError(f"{name}: expected an adapter of the modules that this model has in '{folder}', got {got}")
        whole = [f"{module}.{part}.weight" for module in modules for part in UPDATE]
        lacking = [array for array in whole if array not in arrays]
        if lacking:
            raise ValueError(f"{name}: expected A and B of each module in '{folder}', got no {listed(lacking)}")
        for module in modules:
            rank = len(arrays[f"{module}.lora_A.weight"])
            if rank != config.rank(module):
                raise ValueError(f"{name}: expected rank {config.rank(module)} of {module} in '{folder}', got {rank}")

    def _without_adapter(self, merge):
        self._known_adapter()
        remove_lora(self, merge=merge)
        self.adapter, self.trained_in_full = None, ()
        return self

    def _known_adapter(self) -> LoraConfig:
        if self.adapter is None:
            raise ValueError(f"{type(self).__name__}: expected a model with an adapter, got one without")
        return self.adapter

    def _targets(self) -> dict[str, str]:
        """What an update can be put beside: the module's name in Transformers, and ours."""
        table = type(self).names(self.config)
        return {table.checkpoint_name(matrix_of(ours)).removesuffix(".weight"): ours for ours in lora_targets(self)}

    def _update_names(self) -> dict[str, str]:
        """PEFT's names of A and B by ours."""
        theirs = {ours.removesuffix(f".{PACKED}"): module for module, ours in self._targets().items()}
        theirs |= {ours: module for module, ours in self._targets().items() if not ours.endswith(PACKED)}
        return {f"{ours}.{part}": f"{theirs[ours]}.{part}.weight" for ours in lora_layers(self) for part in UPDATE}

    def _own_names(self) -> dict[str, str]:
        """Transformers' names of all parameters but A and B, by ours."""
        table = type(self).names(self.config)
        names = [name for name, _ in self.named_parameters() if name.rpartition(".")[2] not in UPDATE]
        return {name: table.checkpoint_name(name) for name in names}

    def _task(self) -> str | None:
        return next((task for kind, task in TASKS if isinstance(self, kind)), None)

    def _check_task(self, config, folder):
        """Warn of an adapter that says it was trained for another task, though its arrays may fit."""
        kinds = [kind for kind, task in TASKS if task == config.task_type and task is not None]
        if kinds and not isinstance(self, kinds[0]):
            warnings.warn(
                f"{type(self).__name__}: expected an adapter of this model's task, {self._task() or 'none'}, in "
                f"'{folder}', got one of {config.task_type}; its numbers were trained for that",
                stacklevel=3,
            )

    def _saved(self, said: Iterable[str] | None, task: str | None) -> list[str]:
        """The modules that are trained in full: those that were asked for, and a new head."""
        own, saved = self._own_names(), list(said or ())
        for module in saved:
            if not any(_is_inside(theirs, module) for theirs in own.values()):
                there = list(dict.fromkeys(theirs.split(".")[-2] for theirs in own.values() if "." in theirs))
                raise ValueError(
                    f"{type(self).__name__}: expected modules_to_save among {listed(there)}, got {module!r}"
                )
        if task in WITH_NEW_HEADS:
            heads = (theirs.split(".")[0] for ours, theirs in own.items() if ours.startswith("head."))
            saved += [head for head in dict.fromkeys(heads) if head not in saved]
        return saved

    def _inside(self, modules: Iterable[str]) -> list[str]:
        """Our names of the parameters of modules."""
        modules = list(modules)
        found = [ours for ours, theirs in self._own_names().items() if any(_is_inside(theirs, one) for one in modules)]
        tied = f"body.{getattr(self, 'table', None)}"
        if tied in found and self.config.tie_word_embeddings:
            raise ValueError(
                f"{type(self).__name__}: expected modules_to_save without the table that embedding and head share, "
                f"got {listed(modules)}"
            )
        return found


def _is_inside(parameter: str, module: str) -> bool:
    """Whether a parameter belongs to a module of that name, or to a part of it."""
    return re.match(rf"(.*\.)?{re.escape(module)}\.", parameter) is not None


def _start(layer, how, rng):
    """Draw an update as PEFT does: A from N(0, 1/r²); or B too, by the rule of A."""
    if how == "gaussian":
        layer.lora_A[...] = rng.standard_normal(layer.lora_A.shape) / layer.lora_r
    else:
        bound = 1 / np.sqrt(layer.lora_r)
        layer.lora_B[...] = rng.uniform(-bound, bound, layer.lora_B.shape)
