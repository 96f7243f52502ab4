"""Llama: a decoder-only transformer, pre-norm, with rotary positions and heads that share keys, and what stands on it.

Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2023). SmolLM, TinyLlama and many others have
the same form; Llama 3 stretches its positions (`rope_scaling`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from numtx import nn
from numtx.checkpoints import TRANSPOSED, NameTable
from numtx.functional.door import count, rate
from numtx.functional.rotary import SCALINGS
from numtx.models.batch import incoming_fields, known_ids, padding
from numtx.models.bert_body import linear_names
from numtx.models.causal_lm import CausalLMModel
from numtx.models.config import GATES, PretrainedConfig
from numtx.models.decoder_heads import (
    HEADS,
    DecoderQuestionAnswering,
    DecoderTokenClassification,
    LastTokenClassification,
    OnDecoder,
)
from numtx.models.llama_step import LlamaStep, lay_side_by_side
from numtx.models.output import BaseModelOutput
from numtx.models.pretrained import PretrainedModel

# The names below a prefix, which one of the heads calls otherwise.
NAMES: list[tuple] = [
    ("embedding.weight", "embed_tokens.weight"),
    ("stack.norm.weight", "norm.weight"),
    ("stack.layers.{i}.attention.norm.weight", "layers.{i}.input_layernorm.weight"),
    ("stack.layers.{i}.feed_forward.norm.weight", "layers.{i}.post_attention_layernorm.weight"),
]
for _ours, _theirs in (
    ("attention.sublayer.q_proj", "self_attn.q_proj"),
    ("attention.sublayer.k_proj", "self_attn.k_proj"),
    ("attention.sublayer.v_proj", "self_attn.v_proj"),
    ("attention.sublayer.out_proj", "self_attn.o_proj"),
    ("feed_forward.sublayer.gate", "mlp.gate_proj"),
    ("feed_forward.sublayer.up", "mlp.up_proj"),
    ("feed_forward.sublayer.down", "mlp.down_proj"),
):
    NAMES += [
        (f"stack.layers.{{i}}.{_ours}.weight", f"layers.{{i}}.{_theirs}.weight", TRANSPOSED),
        (f"stack.layers.{{i}}.{_ours}.bias", f"layers.{{i}}.{_theirs}.bias"),
    ]
PREFIX = "model."
FREQUENCIES = ("layers.{i}.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq")  # a table that says nothing new


@dataclass(kw_only=True)
class LlamaConfig(PretrainedConfig):
    """The settings of a Llama, by the names of its `config.json`.

    Attributes
    ----------
    num_key_value_heads : int or None
        As many as `num_attention_heads`, which they divide, if None.
    head_dim : int or None
        hidden_size / num_attention_heads if None.
    rope_theta : float
        The base of the rotary positions' frequencies.
    rope_scaling : dict or None
        How they were stretched: `F.rotary_frequencies`. Files of Transformers 5 hold both in `rope_parameters`.
    attention_bias, mlp_bias : bool
        Whether the matrices have biases.
    classifier_dropout : float or None
        Before the head that classifies tokens; 0.1 if None.

    Examples
    --------
    >>> LlamaConfig(hidden_size=64, num_attention_heads=8, num_key_value_heads=2).head_width
    8
    """

    model_type = "llama"
    required = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "rms_norm_eps",
    )
    sizes = (*required[:5], "max_position_embeddings")
    rates = ("attention_dropout",)
    positives = ("rms_norm_eps", "rope_theta")
    activations = ("hidden_act",)
    layers = ("num_hidden_layers",)
    matrices = (
        ("vocab_size", "hidden_size"), ("hidden_size", "num_attention_heads", "head_dim"),
        ("hidden_size", "hidden_size"), ("hidden_size", "intermediate_size"), ("num_labels", "hidden_size"),
    )  # fmt: skip

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    classifier_dropout: float | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False

    def __post_init__(self):
        super().__post_init__()
        heads, name = self.num_attention_heads, "LlamaConfig"
        if self.num_key_value_heads is None:
            self.num_key_value_heads = heads
        count(name, 1, num_key_value_heads=self.num_key_value_heads)
        if heads % self.num_key_value_heads:
            raise ValueError(
                f"{name}: expected num_key_value_heads that divide the {heads} heads, got {self.num_key_value_heads}"
            )
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(
                f"{name}: expected heads that divide the width {self.hidden_size}, or head_dim, got {heads}"
            )
        count(name, 2, head_dim=self.head_width)
        if self.head_width % 2:
            raise ValueError(f"{name}: expected an even head_dim, numbers in pairs, got {self.head_width}")
        if self.classifier_dropout is not None:
            rate(name, "classifier_dropout", self.classifier_dropout)
        self.rope_scaling = _scaling(self.rope_scaling)
        self.rotary()
        self.gate()

    @property
    def head_width(self) -> int:
        """The width of a head."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def head_dropout(self) -> float:
        """The rate before the head that classifies tokens."""
        return 0.1 if self.classifier_dropout is None else self.classifier_dropout

    def gate(self) -> str:
        """Return the name in `numtx.nn` of what bends the gated feed-forward networks."""
        gate = GATES.get(self.activation_of("hidden_act"))
        if gate is None:
            raise ValueError(f"LlamaConfig: expected hidden_act silu, gelu or gelu_new, got {self.hidden_act!r}")
        return gate

    def rotary(self) -> nn.Rotary:
        """Return what turns queries and keys: pairs are a half of the head apart."""
        try:
            return nn.Rotary("half", base=self.rope_theta, scaling=self.rope_scaling)
        except ValueError as error:
            said = str(error).partition(": ")[2].replace("expected base", "expected rope_theta")
            raise ValueError(f"LlamaConfig: {said}") from None

    @classmethod
    def read(cls, entries):
        parameters = entries.pop("rope_parameters", None)
        if isinstance(parameters, dict):
            entries.setdefault("rope_theta", parameters.get("rope_theta"))
            entries["rope_scaling"] = parameters
        elif parameters is not None:
            raise ValueError(f"LlamaConfig: expected rope_parameters as a dict, got {parameters!r}")
        return entries


def _scaling(said):
    """Return the settings of a scaling without those that are not its own; None where nothing is scaled."""
    if not isinstance(said, dict):
        return said
    kind = said.get("rope_type", said.get("type", "default"))
    if said.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"LlamaConfig: expected a partial_rotary_factor of 1, got {said['partial_rotary_factor']!r}")
    if kind not in SCALINGS:
        raise ValueError(f"LlamaConfig: expected a rope_type of {', '.join(SCALINGS)}, got {kind!r}")
    if kind == "default":
        return None
    return {"rope_type": kind} | {name: said[name] for name in SCALINGS[kind] if name in said}


class LlamaModel(PretrainedModel):
    """Llama without a head: ids (B, T) -> the last hidden state (B, T, C).

    Examples
    --------
    >>> config = LlamaConfig(
    ...     vocab_size=5, hidden_size=8, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2
    ... )
    >>> LlamaModel(config, rng=0)(np.array([[1, 2, 3]])).last_hidden_state.shape
    (1, 3, 8)
    """

    config_class = LlamaConfig

    def __init__(self, config: LlamaConfig, *, rng=None, dtype=np.float32):
        made = {"rng": np.random.default_rng(rng), "dtype": dtype}
        self.config, self.width = config, config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, self.width, padding_idx=config.padding_row, **made)
        layers = [_layer(config, made) for _ in range(config.num_hidden_layers)]
        self.stack = nn.Stack(layers, nn.RMSNorm(self.width, config.rms_norm_eps, dtype=dtype))
        self.draw(made["rng"])

    def draw(self, rng, std=None):
        super().draw(rng, std)
        if nn.init.draws() and self.embedding.padding_idx is not None:
            self.embedding.weight[self.embedding.padding_idx] = 0

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        *,
        kv_cache=None,
        output_hidden_states=False,
        output_attentions=False,
        rng=None,
        keep="all",
    ):
        """Return (BaseModelOutput, cache).

        Parameters
        ----------
        input_ids : (B, T) integer array
        attention_mask : (B, T) array of 1 for a token and 0 for padding, or None
            On any side. With a `kv_cache` it covers the old tokens too: (B, old + T).
        position_ids : (T,), (1, T) or (B, T) integer array or None
            Default: 0, 1, 2 ...; with a `kv_cache`, on from the old tokens. Only their differences matter.
        kv_cache : what `new_cache` made, or None
        output_hidden_states, output_attentions : bool
            Whether the output has them.
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Stack`.
        """
        name, config, old = type(self).__name__, self.config, len(kv_cache[0]) if kv_cache else 0
        context = ("max_position_embeddings", config.max_position_embeddings)
        ids = known_ids(name, "input_ids", input_ids, config.vocab_size, context=context, old=old)
        mask = padding(name, "attention_mask", attention_mask, (len(ids), old + ids.shape[1]))
        positions = _positions(name, position_ids, ids.shape, old)
        x, embedded = self.embedding.forward(ids)  # (B, T, C)
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        given = {"mask": mask, "positions": positions, "kv_cache": kv_cache}
        y, stack = self.stack.forward(x, **given, rng=rng, keep=keep, **asked, **nn.frozen_inputs(x=self.embedding))
        outputs = BaseModelOutput(*y[:3]) if isinstance(y, nn.StackOutput) else BaseModelOutput(y)
        return outputs, None if stack is None else (embedded, stack, outputs.last_hidden_state.shape)

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict with the gradient of "last_hidden_state"; absent means zero."""
        if cache is None:
            raise ValueError(f"{type(self).__name__}: backward after a forward with keep=None or a kv_cache")
        embedded, stack, shape = cache
        given = incoming_fields(type(self).__name__, doutputs, {"last_hidden_state": (shape, self.dtype)})
        (dx, _, _), g_stack = self.stack.backward(given["last_hidden_state"], stack)
        _, g_embedding = nn.backward_below(self.embedding, dx, embedded)
        return None, {"embedding": g_embedding, "stack": g_stack}

    def new_cache(self):
        """Return what remembers keys and values while decoding: one KVCache a layer."""
        return self.stack.new_cache()

    @classmethod
    def names(cls, config):
        rows = [(ours, PREFIX + theirs, *layout) for ours, theirs, *layout in NAMES]
        ignored = (*(PREFIX + name for name in FREQUENCIES), *(f"{head}*" for head in HEADS))
        return NameTable(rows, optional_prefix=PREFIX, bare=True, ignored=ignored)


def _layer(config, made):
    """Make a layer: self-attention and a gated feed-forward network, each behind its norm."""
    width = config.hidden_size

    def around(sublayer):
        return nn.PreNorm(nn.RMSNorm(width, config.rms_norm_eps, dtype=made["dtype"]), sublayer)

    attention = nn.GroupedQueryAttention(
        width,
        config.num_attention_heads,
        config.num_key_value_heads,
        widths=nn.AttentionWidths(head=config.head_width),
        rotary=config.rotary(),
        causal=True,
        dropout=config.attention_dropout,
        bias=config.attention_bias,
        **made,
    )
    network = nn.GatedFeedForward(width, config.intermediate_size, config.gate(), bias=config.mlp_bias, **made)
    return nn.EncoderLayer(around(attention), around(network))


def _positions(owner, position_ids, shape, old):
    """Return positions (T,) or (B, T)."""
    if position_ids is None:
        return np.arange(old, old + shape[1])
    positions = np.asarray(position_ids)
    if positions.dtype.kind not in "iu" or positions.shape not in (shape, shape[1:], (1, shape[1])):
        raise ValueError(
            f"{owner}: expected integer position_ids (T,) or (B, T) for input_ids {shape}, "
            f"got {positions.dtype} {positions.shape}"
        )
    if positions.min() < 0:
        raise ValueError(f"{owner}: expected position_ids of at least 0, got {positions.min()}")
    return positions[0] if positions.shape == (1, shape[1]) else positions


class _OnLlama(OnDecoder):
    """What the models on a Llama share."""

    config_class, body_class = LlamaConfig, LlamaModel
    prefix, body_names, strays = PREFIX, NAMES, FREQUENCIES


class LlamaForCausalLM(_OnLlama, CausalLMModel):
    """Llama with its language-model head: ids (B, T) -> the scores of what comes next, (B, T, V).

    Examples
    --------
    >>> config = LlamaConfig(
    ...     vocab_size=5, hidden_size=8, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2
    ... )
    >>> model = LlamaForCausalLM(config, rng=0)
    >>> model(np.array([[1, 2, 3]])).logits.shape
    (1, 3, 5)
    >>> model.generate(np.array([[1, 2, 3]]), max_new_tokens=4, eos_token_id=()).shape
    (1, 7)
    """

    row_step_class = LlamaStep

    def filled(self):
        lay_side_by_side(self.body)


class LlamaForSequenceClassification(_OnLlama, LastTokenClassification):
    """Llama with scores of the classes of a sequence, read from its last token: ids (B, T) -> (B, num_labels).

    Examples
    --------
    >>> config = LlamaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> LlamaForSequenceClassification(config, rng=0)(np.array([[1, 4, 3]])).logits.shape
    (1, 2)
    """


class LlamaForTokenClassification(_OnLlama, DecoderTokenClassification):
    """Llama with scores of the classes of each token: ids (B, T) -> (B, T, num_labels).

    Examples
    --------
    >>> config = LlamaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> LlamaForTokenClassification(config, rng=0)(np.array([[1, 4, 3]])).logits.shape
    (1, 3, 2)
    """

    head_names = (*linear_names("out_proj", "score"),)


class LlamaForQuestionAnswering(_OnLlama, DecoderQuestionAnswering):
    """Llama with scores of where an answer starts and ends: ids (B, T) -> two of (B, T).

    Examples
    --------
    >>> config = LlamaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> LlamaForQuestionAnswering(config, rng=0)(np.array([[1, 4, 3]])).start_logits.shape
    (1, 3)
    """

    prefix = "transformer."  # an old name that Transformers kept
