"""What the ready-made transformers share: their settings, their loss, their files, and what they ask of ids."""

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from numtx import nn
from numtx.functional.door import count, positive, rate
from numtx.models import batch as door
from numtx.models.files import open_folder, save_folder
from numtx.models.loss import count_labels, label_loss, label_loss_backward
from numtx.models.output import LogProbsOutput
from numtx.models.token_embedding import POSITIONS, TokenEmbedding
from numtx.nn.feed_forward import ACTIVATIONS


@dataclass(kw_only=True)
class TransformerConfig:
    """The settings that all ready-made transformers have.

    Attributes
    ----------
    d_model, nhead, dim_feedforward : int
        The width C, the heads, which must divide it, and the width of the feed-forward networks.
    max_length : int
        The longest sequence that is taken.
    dropout : float
        Everywhere: on embeddings, attention probabilities, after activations and sublayers, before the head.
    activation : "relu", "gelu", "gelu_tanh" or "silu"
    layer_norm_eps : float
    norm_first : bool
        The norm before each sublayer instead of after the residual.
    positions : "sinusoidal" or "learned"
    scale_embedding : bool
        Embeddings are multiplied by √C; see `TokenEmbedding`.
    """

    model_type: ClassVar[str]
    sizes: ClassVar[tuple[str, ...]]  # the settings that count something
    special_ids: ClassVar[tuple[str, ...]] = ()  # the settings that name a token, or None
    vocabulary: ClassVar[str] = "vocab_size"  # the setting that those must be under

    d_model: int = 128
    nhead: int = 4
    dim_feedforward: int = 512
    max_length: int = 256
    dropout: float = 0.1
    activation: str = "relu"
    layer_norm_eps: float = 1e-5
    norm_first: bool = False
    positions: str = "sinusoidal"
    scale_embedding: bool = True

    def __post_init__(self):
        name = type(self).__name__
        counted = ("d_model", "nhead", "dim_feedforward", "max_length", *self.sizes)
        count(name, 1, **{size: getattr(self, size) for size in counted})
        rate(name, "dropout", self.dropout)
        positive(name, layer_norm_eps=self.layer_norm_eps)
        if self.d_model % self.nhead:
            raise ValueError(f"{name}: expected heads that divide the width {self.d_model}, got nhead {self.nhead}")
        one_of(name, activation=(self.activation, ACTIVATIONS), positions=(self.positions, POSITIONS))
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"{name}: expected an even d_model for sinusoidal positions, got {self.d_model}")
        self._check_ids(name, getattr(self, self.vocabulary))

    def _check_ids(self, name, vocab_size):
        given = {token: getattr(self, token) for token in self.special_ids}
        given = {token: number for token, number in given.items() if number is not None}
        count(name, 0, **given)
        if wrong := {token: number for token, number in given.items() if number >= vocab_size}:
            got = ", ".join(f"{token} {number}" for token, number in wrong.items())
            raise ValueError(f"{name}: expected ids under {self.vocabulary} = {vocab_size}, got {got}")

    @property
    def context(self) -> int:
        """The longest sequence that a model takes."""
        return self.max_length

    def to_dict(self) -> dict[str, Any]:
        """Return the entries of a `config.json`."""
        return {"model_type": self.model_type, **asdict(self)}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]):
        """Read the entries of a `config.json`, which nobody but numtx writes: none may be unknown."""
        if entries.get("model_type") != cls.model_type:
            raise ValueError(
                f"{cls.__name__}: expected model_type {cls.model_type!r}, got {entries.get('model_type')!r}"
            )
        return cls.from_settings(cls.__name__, {k: v for k, v in entries.items() if k != "model_type"})

    @classmethod
    def from_settings(cls, owner: str, settings: dict[str, Any]):
        """Make a config of settings that came by keyword to `owner`, or refuse what is unknown or missing."""
        known = {field.name for field in fields(cls)}
        required = {field.name for field in fields(cls) if field.default is MISSING}
        if wrong := sorted(set(settings) - known) + [f"no {name}" for name in sorted(required - set(settings))]:
            raise ValueError(f"{owner}: expected the settings {', '.join(sorted(known))}, got {', '.join(wrong)}")
        return cls(**settings)

    def layer(self) -> dict[str, Any]:
        """Return the arguments of a layer, by PyTorch's names."""
        names = ("d_model", "nhead", "dim_feedforward", "dropout", "activation", "layer_norm_eps", "norm_first")
        return {name: getattr(self, name) for name in names}

    def embedding(self, vocab_size, rng, dtype) -> TokenEmbedding:
        """Make what turns ids into the input of the first layer."""
        return TokenEmbedding(
            vocab_size,
            self.d_model,
            self.max_length,
            positions=self.positions,
            scale=self.scale_embedding,
            dropout=self.dropout,
            rng=rng,
            dtype=dtype,
        )


class ReadyMade(nn.Module):
    """The base of the ready-made transformers, which take ids and give log-probabilities.

    A subclass names its settings (`config_class`) and what a batch may hold besides labels (`arguments`), and makes its
    parts in `_build`. Settings are given as a config, or by keyword.
    """

    config_class: ClassVar[type[TransformerConfig]]
    arguments: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "position_ids")
    embedding: TokenEmbedding
    stack: nn.Stack
    head: nn.ClassifierHead

    def __init__(self, config=None, *, rng=None, dtype=np.float32, **settings):
        name = type(self).__name__
        if config is not None and (settings or not isinstance(config, self.config_class)):
            got = ", ".join([type(config).__name__, *settings])
            raise ValueError(f"{name}: expected one {self.config_class.__name__}, or settings by keyword, got {got}")
        self.config = self.config_class.from_settings(name, settings) if config is None else config
        self._build(np.random.default_rng(rng), dtype)

    def _build(self, rng, dtype):
        raise TypeError(f"{type(self).__name__} has no parts of its own")

    def __call__(self, *inputs, **settings):
        return self.forward(*inputs, keep=None, **settings)[0]

    # --- the loss ----------------------------------------------------------------------------------------------------

    def loss(self, batch, num_items=None):
        """Return the loss alone, without dropout. The arguments are those of `loss_and_grads`."""
        inputs, labels = self._inputs_and_labels(batch)
        return label_loss(self(**inputs).log_probs, labels, num_items)[0]

    def loss_and_grads(self, batch, rng=None, num_items=None, keep="all"):
        """Return the mean negative log-likelihood of the labels, in nats, and the gradients of the parameters.

        Parameters
        ----------
        batch : dict
            The arguments of the call, and `labels`, of which -100 is ignored. `shift_labels` are asked for where they
            stand; `labels` too, except in a decoder-only model, which shifts them.
        rng : np.random.Generator or None
            For dropout.
        num_items : int or None
            What the sum is divided by: the real labels of the batch if None. Those who split a batch pass the count of
            the whole, and add.
        keep : "all" or "inputs"
        """
        inputs, labels = self._inputs_and_labels(batch)
        outputs, cache = self.forward(**inputs, rng=rng, keep=keep)
        loss, loss_cache = label_loss(outputs.log_probs, labels, num_items)
        return loss, self.backward({"log_probs": label_loss_backward(1.0, loss_cache)}, cache)[1]

    def count_labels(self, batch) -> int:
        """Return how many labels of a batch are predicted."""
        return count_labels(shift_labels=self._inputs_and_labels(batch)[1])

    def _inputs_and_labels(self, batch):
        """Split a batch into the arguments of the call and the labels, each where it is asked for."""
        inputs, labels = door.split_batch(type(self).__name__, batch, self.arguments)
        ((name, array),) = labels.items()
        return inputs, self._asked(name, array, np.shape(inputs["input_ids"]))

    def _asked(self, name, labels, shape):
        """Return what each place is asked for, checked, out of the labels of that name for ids of that shape."""
        raise TypeError(f"{type(self).__name__} does not say what it is asked for")

    # --- backward of the models of one stack -------------------------------------------------------------------------

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict with the gradient of "log_probs"; absent means zero."""
        dlog_probs, (embedded, stack, head) = self._incoming(doutputs, cache)
        dx, g_head = self.head.backward(dlog_probs, head)
        (dx, _, _), g_stack = self.stack.backward(dx, stack)
        _, g_embedding = nn.backward_below(self.embedding, dx, embedded)
        return None, {"embedding": g_embedding, "stack": g_stack, "head": g_head}

    def _incoming(self, doutputs, cache):
        """Return the gradient of the log-probabilities, and what the parts kept; or refuse them."""
        name = type(self).__name__
        if cache is None:
            raise ValueError(f"{name}: backward after a forward with keep=None or a kv_cache")
        shape, parts = cache
        return door.incoming_fields(name, doutputs, {"log_probs": (shape, self.dtype)})["log_probs"], parts

    def _outputs(self, log_probs, parts, keep):
        """Return what forward returns."""
        return LogProbsOutput(log_probs), None if keep is None else (log_probs.shape, parts)

    # --- the door ----------------------------------------------------------------------------------------------------

    def _ids(self, name, ids, vocab_size, old=0):
        context = ("max_length", self.config.max_length)
        return door.known_ids(type(self).__name__, name, ids, vocab_size, context=context, old=old)

    def _mask(self, name, attention_mask, shape):
        return door.padding(type(self).__name__, name, attention_mask, shape)

    # --- files -------------------------------------------------------------------------------------------------------

    def check_saved(self) -> None:
        """Refuse what `save_pretrained` could not write; a Trainer that is to save asks it first."""
        if nn.lora_layers(self):
            raise ValueError(
                f"{type(self).__name__}: expected no LoRA in what is saved, got some; nn.remove_lora merges it"
            )

    def save_pretrained(self, folder) -> None:
        """Write `config.json` and `model.safetensors`, which holds the weights under numtx's names."""
        self.check_saved()
        save_folder(folder, self.config.to_dict(), self.state_dict())

    @classmethod
    def from_pretrained(cls, folder, *, dtype=np.float32):
        """Open a folder that `save_pretrained` wrote."""
        config, arrays = open_folder(folder, cls.config_class)
        model = cls(config, rng=0, dtype=dtype)
        model.load_state_dict(arrays)
        return model


def one_of(name, **settings):
    """Require each setting, given with what it may be, to be one of those."""
    for setting, (value, known) in settings.items():
        if value not in known:
            raise ValueError(f"{name}: expected {setting} of {', '.join(map(str, known))}, got {value!r}")
