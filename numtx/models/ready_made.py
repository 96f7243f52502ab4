"""What the ready-made transformers share: their settings, their loss, their files, and what they ask of ids."""

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.checkpoints import load_arrays, read_json, save_arrays, write_json
from numtx.functional.door import count, integers, positive, rate
from numtx.models import targets
from numtx.models.output import LogProbsOutput
from numtx.models.token_embedding import TokenEmbedding


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
    optional_ids: ClassVar[tuple[str, ...]] = ()  # the settings that name a token, or None
    sizes: ClassVar[tuple[str, ...]]  # the settings that count something

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
        given = {token: getattr(self, token) for token in self.optional_ids}
        count(name, 0, **{token: number for token, number in given.items() if number is not None})
        rate(name, "dropout", self.dropout)
        positive(name, layer_norm_eps=self.layer_norm_eps)

    def to_dict(self) -> dict[str, Any]:
        """Return the entries of a `config.json`."""
        return {"model_type": self.model_type, **asdict(self)}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]):
        """Read the entries of a `config.json`, none of which may be unknown."""
        given = {name: value for name, value in entries.items() if name != "model_type"}
        known = {field.name for field in fields(cls)}
        required = {field.name for field in fields(cls) if field.default is MISSING}
        if entries.get("model_type") != cls.model_type:
            raise ValueError(
                f"{cls.__name__}: expected model_type {cls.model_type!r}, got {entries.get('model_type')!r}"
            )
        if wrong := sorted(set(given) - known) + sorted(f"no {name}" for name in required - set(given)):
            raise ValueError(f"{cls.__name__}: expected the entries {', '.join(sorted(known))}, got {', '.join(wrong)}")
        return cls(**given)

    def layer(self) -> tuple:
        """Return the arguments of a layer, which are those of PyTorch's layers, in their order."""
        return (
            self.d_model,
            self.nhead,
            self.dim_feedforward,
            self.dropout,
            self.activation,
            self.layer_norm_eps,
            self.norm_first,
        )

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
    parts in `_build`. Settings are given by keyword, or come from a `config.json`.
    """

    config_class: ClassVar[type[TransformerConfig]]
    arguments: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "position_ids")
    embedding: TokenEmbedding
    stack: nn.Stack
    head: nn.ClassifierHead

    def __init__(self, *, rng=None, dtype=np.float32, **settings):
        self.config = self.config_class(**settings)
        self._build(np.random.default_rng(rng), dtype)

    def _build(self, rng, dtype):
        raise TypeError(f"{type(self).__name__} has no parts of its own")

    def __call__(self, *inputs, **settings):
        return self.forward(*inputs, keep=None, **settings)[0]

    # --- the loss ----------------------------------------------------------------------------------------------------

    def loss(self, batch, num_items=None):
        """Return the loss alone, without dropout. The arguments are those of `loss_and_grads`."""
        inputs, labels = self._inputs_and_labels(batch)
        return targets.label_loss(self(**inputs).log_probs, labels, num_items)[0]

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
        loss, loss_cache = targets.label_loss(outputs.log_probs, labels, num_items)
        return loss, self.backward({"log_probs": targets.label_loss_backward(1.0, loss_cache)}, cache)[1]

    def count_labels(self, batch) -> int:
        """Return how many labels of a batch are predicted."""
        return targets.real_labels(self._inputs_and_labels(batch)[1])

    def _inputs_and_labels(self, batch):
        """Split a batch into the arguments of the call and the labels, each where it is asked for."""
        inputs = {name: value for name, value in batch.items() if value is not None}
        labels = [inputs.pop(name) for name in ("labels", "shift_labels") if name in inputs]
        if len(labels) != 1 or "input_ids" not in inputs or set(inputs) - set(self.arguments):
            raise ValueError(
                f"{type(self).__name__}: expected a batch of {', '.join(self.arguments)} and labels or shift_labels, "
                f"got {', '.join(sorted(batch))}"
            )
        return inputs, labels[0]

    # --- backward of the models of one stack -------------------------------------------------------------------------

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict with the gradient of "log_probs"; absent means zero."""
        dlog_probs, (embedded, stack, head) = self._incoming(doutputs, cache)
        dx, g_head = self.head.backward(dlog_probs, head)
        (dx, _, _), g_stack = self.stack.backward(dx, stack)
        _, g_embedding = self.embedding.backward(dx, embedded)
        return None, {"embedding": g_embedding, "stack": g_stack, "head": g_head}

    def _incoming(self, doutputs, cache):
        """Return the gradient of the log-probabilities, and what the parts kept; or refuse them."""
        name = type(self).__name__
        if cache is None:
            raise ValueError(f"{name}: backward after a forward with keep=None or a kv_cache")
        shape, parts = cache
        given = doutputs if isinstance(doutputs, dict) else {"no dict but": doutputs}
        arrays = {key: np.asarray(array) for key, array in given.items()}
        dlog_probs = arrays.get("log_probs", np.zeros(shape, self.dtype)) if given is doutputs else None
        right = dlog_probs is not None and (dlog_probs.shape, dlog_probs.dtype) == (shape, self.dtype)
        if not right or set(arrays) - {"log_probs"}:
            got = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in arrays.items())
            raise ValueError(
                f'{name}: expected a dict with the gradient of "log_probs", {self.dtype} {shape}, got {got}'
            )
        return dlog_probs, parts

    def _outputs(self, log_probs, parts, keep):
        """Return what forward returns."""
        return LogProbsOutput(log_probs), None if keep is None else (log_probs.shape, parts)

    # --- the door ----------------------------------------------------------------------------------------------------

    def _ids(self, name, ids, vocab_size, old=0):
        """Require ids (B, T), not empty, of the vocabulary, and no longer than `max_length` with the old ones."""
        owner, ids = type(self).__name__, np.asarray(ids)
        if ids.ndim != 2 or not ids.size:
            raise ValueError(f"{owner}: expected {name} (B, T), not empty, got {ids.shape}")
        if old + ids.shape[1] > self.config.max_length:
            raise ValueError(
                f"{owner}: expected {name} of at most max_length = {self.config.max_length} tokens, "
                f"got {old + ids.shape[1]}"
            )
        return integers(owner, name, ids, vocab_size)

    def _mask(self, name, attention_mask, shape):
        """Turn an attention mask (B, T), 1 for a token and 0 for padding, into one of four axes; None stays None."""
        if attention_mask is None:
            return None
        if np.shape(attention_mask) != shape:
            raise ValueError(f"{type(self).__name__}: expected {name} (B, T) = {shape}, got {np.shape(attention_mask)}")
        return F.padding_mask(attention_mask)

    # --- files -------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder) -> None:
        """Write `config.json` and `model.safetensors`, which holds the weights under numtx's names."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", self.config.to_dict())
        save_arrays(folder / "model.safetensors", self.state_dict())

    @classmethod
    def from_pretrained(cls, folder, *, dtype=np.float32):
        """Open a folder that `save_pretrained` wrote."""
        folder = Path(folder)
        config = cls.config_class.from_dict(read_json(folder / "config.json", required=["model_type"]))
        arrays = load_arrays(folder / "model.safetensors")
        model = cls(**asdict(config), rng=0, dtype=dtype)
        model.load_state_dict(arrays)
        return model
