"""What every pretrained family shares: opened from files, saved to files, weights drawn as its authors drew them."""

import warnings
from collections import ChainMap
from collections.abc import Container
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from numtx import nn
from numtx.checkpoints import NameTable
from numtx.checkpoints.adapter_folder import is_adapter
from numtx.checkpoints.names import listed
from numtx.models.adapted import Adapted
from numtx.models.batch import known_arguments
from numtx.models.config import PretrainedConfig
from numtx.models.files import open_model, save_folder
from numtx.models.opening import GivenOut, cast, check_bounds, open_pretrained, working_dtype
from numtx.nn.module import copy_into


class PretrainedModel(Adapted):
    """The base of the models that come with weights.

    A subclass names its settings (`config_class`), what a batch may hold besides labels (`arguments`), and makes its
    table of names.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    arguments: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "position_ids")
    new_parts: ClassVar[tuple[str, ...]] = ()  # what a file may lack, each as a whole: a new head on a pretrained body
    config: Any

    @classmethod
    def names(cls, config) -> NameTable:
        """Return the table of the names and layouts that Transformers gives the weights."""
        raise TypeError(f"{cls.__name__} has no table of names")

    def __call__(self, *inputs, **settings):
        known_arguments(type(self).__name__, type(self).forward, inputs, settings)
        return self.forward(*inputs, keep=None, **settings)[0]

    def draw(self, rng, std: float | None = None) -> None:
        """Draw the weights: matrices from N(0, std²), biases zero, the weights of norms one.

        `std` is `initializer_range` if None. Inside `nn.init.undrawn` nothing happens.
        """
        if not nn.init.draws():
            return
        std = self.config.initializer_range if std is None else std
        for name, array in self.named_parameters():  # buffers are what they are
            array[...] = _drawn(name, array, std, rng)

    @classmethod
    def from_pretrained(cls, name_or_folder, *, config=None, dtype=np.float32, rng=0, **settings) -> Self:
        """Open a model: a folder with `config.json` and weights, a GGUF file, a name on the hub, or an adapter.

        The weights are the file's own memory where its numbers are of `dtype`; nothing is copied then, and nothing read
        before it is used, but a table that the file holds twice. A head that the file lacks is drawn, with a warning.

        Of an adapter's folder the base that it names is opened (a path or a name as it was when the adapter was saved;
        a relative one from where this runs), and the adapter put into it. A classifier has as many classes as the
        adapter's head; what they are called no adapter says: pass `id2label`.

        Parameters
        ----------
        name_or_folder : str or path
        config : PretrainedConfig or None
            Instead of the file's.
        dtype : np.float32 or np.float64
        rng : int or np.random.Generator
            For a head that the file lacks.
        **settings
            `revision`, `token`, `cache_dir`, `local_files_only`, as in `numtx.checkpoints.resolve`; or settings of the
            config that are to be other than the file says: `num_labels`, `id2label`, `problem_type`, a dropout rate.

        Raises
        ------
        ValueError
            If there is nothing, it is broken, of another family, or does not fit its config; or a setting is unknown.
        """
        return open_pretrained(lambda _: cls, cls.__name__, name_or_folder, config, settings, dtype=dtype, rng=rng)

    @classmethod
    def from_arrays(
        cls, config, arrays, *, dtype=np.float32, rng=0, where="the checkpoint", filled_later: Container[str] = ()
    ) -> Self:
        """Make a model of its settings and a checkpoint's arrays, which become its weights.

        No two weights share memory afterwards: what the arrays hold twice is copied. Of a new head's arrays that are
        `filled_later`, by their names in a checkpoint, there is no warning.

        Notes
        -----
        Where `config.tie_word_embeddings` is true and the arrays hold another table for the head, with other numbers,
        the head keeps its own, the config of the model says so, and there is a warning. So does Transformers 5;
        Transformers 4 dropped the head's table without a word, and computes other numbers from the same file.
        """
        owner = cls.__name__
        dtype = working_dtype(owner, dtype)
        model, found = cls.fitted(config, arrays, dtype=dtype, where=where)
        own, table, given = model.state_dict(), cls.names(model.config), GivenOut()
        for name in list(found):
            array = cast(owner, table.checkpoint_name(name), found.pop(name), dtype)
            model.set_parameter(name, given.alone(array))
            own.pop(name)
        if own:
            drawn = [theirs for name in own if (theirs := table.checkpoint_name(name)) not in filled_later]
            if drawn:
                warnings.warn(f"{owner}: {where} has no {listed(drawn)}; drawn anew: train it", stacklevel=4)
            rng = np.random.default_rng(rng)
            for name, array in own.items():
                array[...] = _drawn(name, array, model.config.initializer_range, rng)
        model.filled()
        return model

    @classmethod
    def fitted(cls, config, arrays, *, dtype=np.float32, where="the checkpoint") -> tuple[Self, dict[str, np.ndarray]]:
        """Return a model of its settings, whose weights are not filled, and a checkpoint's arrays by the model's names.

        Raises
        ------
        ValueError
            If they do not fit each other; every array that does not is named.
        """
        owner, config = cls.__name__, cls.settled(config, arrays)
        check_bounds(owner, config, arrays, where)
        table = cls.names(config)
        if apart := table.differing(arrays):
            config = cls.parted(config, apart, where)
            written_out = {name: np.array(arrays[first]) for name, first in table.unwritten(arrays).items()}
            arrays, table = ChainMap(written_out, arrays), cls.names(config)
        arrays = ChainMap(cls.unsaid(config, arrays), arrays)
        try:
            with nn.init.undrawn():
                model = cls(config, dtype=dtype)  # type: ignore[call-arg]
        except MemoryError:
            raise ValueError(f"{owner}: expected a model that fits into memory, got the sizes of {where}") from None
        own = model.state_dict()
        return model, table.from_checkpoint(arrays, own, where=where, may_lack=cls.new_parts, owner=owner)

    @classmethod
    def settled(cls, config, arrays):
        """Return the settings of the model that these arrays make, where they say more than the config."""
        return config

    def filled(self) -> None:
        """Do what there is to do once the weights are those of a file."""

    @classmethod
    def unsaid(cls, config, arrays) -> dict[str, np.ndarray]:
        """Return what a file means and does not hold, by the file's names."""
        return {}

    @classmethod
    def parted(cls, config, apart, where):
        """Return the settings of a model that keeps both of each pair of tables, which should be one and are not.

        `apart` are the pairs of names in the file.
        """
        said = listed(f"{first} and {other}" for first, other in apart)
        if not config.tie_word_embeddings:
            raise ValueError(
                f"{cls.__name__}: expected the same numbers under two names in {where}, got others: {said}"
            )
        warnings.warn(
            f"{cls.__name__}: {where} holds different numbers as {said}, though its config says tie_word_embeddings; "
            "each is kept, as in Transformers 5 (Transformers 4 drops the second)",
            stacklevel=6,
        )
        return replace(config, tie_word_embeddings=False)

    def opened(self, files) -> None:
        """Take what else lies beside the files that the weights came from."""

    def save_pretrained(self, folder) -> None:
        """Write `config.json` and `model.safetensors`, which Transformers opens too.

        Of a model with an adapter the adapter alone, in two files that PEFT opens; see `save_adapter`.
        """
        if self.adapter is not None:
            self.save_adapter(folder)
            return
        self.check_saved()
        config = replace(self.config, architectures=[type(self).__name__])
        save_folder(folder, config.to_dict() | {"dtype": str(self.dtype)}, self.to_checkpoint())

    def load_saved(self, folder) -> None:
        """Copy what `save_pretrained` of such a model wrote into the live arrays: the weights, or those of the adapter.

        Raises
        ------
        ValueError
            If the folder holds something else, or arrays of other names or shapes. Nothing is changed then.
        """
        owner = type(self).__name__
        if is_adapter(folder) != (self.adapter is not None):
            kinds = ("an adapter", "a whole model")
            expected, got = kinds if self.adapter is not None else reversed(kinds)
            raise ValueError(f"{owner}: expected {expected} in '{folder}', got {got}")
        if self.adapter is not None:
            self.load_adapter(folder)
            return
        checkpoint, where = open_model(folder)
        own = self.state_dict()
        arrays = ChainMap(self.unsaid(self.config, checkpoint.arrays), checkpoint.arrays)
        found = type(self).names(self.config).from_checkpoint(arrays, own, where=where, owner=owner)
        copy_into(owner, own, found)

    def to_checkpoint(self, tree: dict | None = None) -> dict[str, np.ndarray]:
        """Return the weights, or a tree shaped like them (gradients, say), as Transformers names and lays them out.

        Layouts differ by views: nothing is copied. What belongs to an adapter is not the checkpoint's: see
        `adapter_arrays`.
        """
        flat = self.state_dict() if tree is None else nn.flatten(tree)
        return type(self).names(self.config).to_checkpoint(flat)


def _drawn(name, array, std, rng):
    """What a new array of that name and shape starts from."""
    if array.ndim > 1:
        return rng.standard_normal(array.shape) * std
    return 1 if name.rpartition(".")[2] == "weight" else 0
