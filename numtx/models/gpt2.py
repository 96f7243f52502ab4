"""GPT-2: a decoder-only transformer, pre-norm, with learned positions, and the heads that stand on it.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
"""

import math
from dataclasses import dataclass

import numpy as np

from numtx import nn
from numtx.checkpoints import NameTable
from numtx.functional.door import count
from numtx.models.batch import incoming_fields, known_ids, padding
from numtx.models.bert_body import linear_names
from numtx.models.causal_lm import CausalLMModel
from numtx.models.config import PretrainedConfig
from numtx.models.decoder_heads import (
    HEADS,
    DecoderQuestionAnswering,
    DecoderTokenClassification,
    LastTokenClassification,
    OnDecoder,
)
from numtx.models.output import BaseModelOutput
from numtx.models.pretrained import PretrainedModel

# Below the prefix. Both store weights as (in, out), and q, k and v side by side, so nothing is transposed.
NAMES: list[tuple] = [
    ("embedding.weight", "wte.weight"),
    ("positions.weight", "wpe.weight"),
    *(
        (f"stack.layers.{{i}}.{ours}", f"h.{{i}}.{theirs}")
        for ours, theirs in (
            ("attention.norm.weight", "ln_1.weight"),
            ("attention.norm.bias", "ln_1.bias"),
            ("attention.sublayer.in_proj_weight", "attn.c_attn.weight"),
            ("attention.sublayer.in_proj_bias", "attn.c_attn.bias"),
            ("attention.sublayer.out_proj.weight", "attn.c_proj.weight"),
            ("attention.sublayer.out_proj.bias", "attn.c_proj.bias"),
            ("feed_forward.norm.weight", "ln_2.weight"),
            ("feed_forward.norm.bias", "ln_2.bias"),
            ("feed_forward.sublayer.up.weight", "mlp.c_fc.weight"),
            ("feed_forward.sublayer.up.bias", "mlp.c_fc.bias"),
            ("feed_forward.sublayer.down.weight", "mlp.c_proj.weight"),
            ("feed_forward.sublayer.down.bias", "mlp.c_proj.bias"),
        )
    ),
    ("stack.norm.weight", "ln_f.weight"),
    ("stack.norm.bias", "ln_f.bias"),
]
PREFIX = "transformer."
MASK_BUFFERS = ("h.{i}.attn.bias", "h.{i}.attn.masked_bias")


@dataclass
class GPT2Config(PretrainedConfig):
    """The settings of a GPT-2, by the names of its `config.json`.

    Examples
    --------
    >>> GPT2Config(vocab_size=65, n_positions=64, n_embd=128, n_layer=4, n_head=4).hidden
    512
    """

    model_type = "gpt2"
    required = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon", "activation_function")
    sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    rates = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    positives = ("layer_norm_epsilon",)
    activations = ("activation_function",)
    layers = ("n_layer",)
    matrices = (
        ("vocab_size", "n_embd"),
        ("n_positions", "n_embd"),
        ("n_embd", "n_embd"),
        ("n_embd", "n_inner"),
        ("num_labels", "n_embd"),
    )

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.n_inner is not None:
            count("GPT2Config", 1, n_inner=self.n_inner)
        if self.n_embd % self.n_head:
            raise ValueError(f"GPT2Config: expected heads that divide the width {self.n_embd}, got {self.n_head}")

    @property
    def context(self) -> int:
        """The longest sequence that the model takes."""
        return self.n_positions

    @property
    def hidden(self) -> int:
        """The width of the feed-forward networks."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def head_dropout(self) -> float:
        """The rate before the head that classifies tokens."""
        rate = self.other.get("classifier_dropout")
        return 0.1 if rate is None else rate

    def scale(self, layer: int) -> float:
        """What the scores of a layer are multiplied by."""
        scale = 1 / math.sqrt(self.n_embd // self.n_head) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @classmethod
    def read(cls, entries):
        if entries.get("add_cross_attention"):
            raise ValueError("GPT2Config: expected add_cross_attention False, got True")
        return entries


class GPT2Model(PretrainedModel):
    """GPT-2 without a head: ids (B, T) -> the last hidden state (B, T, C).

    Examples
    --------
    >>> config = GPT2Config(vocab_size=5, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    >>> GPT2Model(config, rng=0)(np.array([[1, 2, 3]])).last_hidden_state.shape
    (1, 3, 8)
    """

    config_class = GPT2Config

    def __init__(self, config: GPT2Config, *, rng=None, dtype=np.float32):
        rng = np.random.default_rng(rng)
        width, std = config.n_embd, config.initializer_range
        self.config, self.width = config, width
        self.embedding = nn.Embedding(config.vocab_size, width, std=std, rng=rng, dtype=dtype)
        self.positions = nn.LearnedPositions(config.n_positions, width, std=std, rng=rng, dtype=dtype)
        self.embedding_dropout = nn.Dropout(config.embd_pdrop)
        blocks = [
            nn.DecoderBlock(
                width,
                config.n_head,
                config.hidden,
                activation=config.activation_of("activation_function"),
                eps=config.layer_norm_epsilon,
                dropout=config.resid_pdrop,
                attention_dropout=config.attn_pdrop,
                scale=config.scale(layer),
                rng=rng,
                dtype=dtype,
            )
            for layer in range(config.n_layer)
        ]
        self.stack = nn.Decoder(blocks, nn.LayerNorm(width, config.layer_norm_epsilon, dtype=dtype))
        if nn.init.draws():
            self._draw_blocks(rng)

    def _draw_blocks(self, rng):
        """Draw every matrix of the blocks from N(0, std²), those that end a residual branch from N(0, std²/2L).

        2L branches add up in the residual stream; so scaled, its variance does not grow with depth. Section 2.3.
        """
        std = self.config.initializer_range
        for name, array in self.stack.named_parameters():
            if array.ndim == 2:
                ends_branch = name.endswith(("out_proj.weight", "down.weight"))
                array[...] = rng.standard_normal(array.shape) * (
                    std / np.sqrt(2 * self.config.n_layer) if ends_branch else std
                )
            elif name.endswith("bias"):
                array[...] = 0

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
            With a `kv_cache` it covers the old tokens too: (B, old + T).
        position_ids : (T,) or (B, T) integer array or None
            Default: 0, 1, 2 ...; with a `kv_cache`, on from the old tokens. Left padding needs them.
        kv_cache : what `new_cache` made, or None
        output_hidden_states, output_attentions : bool
            Whether the output has them.
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Stack`.
        """
        name, config, old = type(self).__name__, self.config, len(kv_cache[0]) if kv_cache else 0
        context = ("n_positions", config.n_positions)
        ids = known_ids(name, "input_ids", input_ids, config.vocab_size, context=context, old=old)
        mask = padding(name, "attention_mask", attention_mask, (len(ids), old + ids.shape[1]))
        positions = np.arange(old, old + ids.shape[1]) if position_ids is None else position_ids
        x, embedded = self.embedding.forward(ids)  # (B, T, C)
        x, placed = self.positions.forward(x, positions=positions)
        x, drop = self.embedding_dropout.forward(x, rng=rng)
        shown = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        shown |= nn.frozen_inputs(x=(self.embedding, self.positions))
        y, stack = self.stack.forward(x, mask=mask, kv_cache=kv_cache, rng=rng, keep=keep, **shown)
        outputs = BaseModelOutput(*y[:3]) if isinstance(y, nn.StackOutput) else BaseModelOutput(y)
        shape = outputs.last_hidden_state.shape
        return outputs, None if stack is None else (embedded, placed, drop, stack, shape)

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict with the gradient of "last_hidden_state"; absent means zero."""
        if cache is None:
            raise ValueError(f"{type(self).__name__}: backward after a forward with keep=None or a kv_cache")
        embedded, placed, drop, stack, shape = cache
        given = incoming_fields(type(self).__name__, doutputs, {"last_hidden_state": (shape, self.dtype)})
        dx, g_stack = self.stack.backward(given["last_hidden_state"], stack)
        dx, _ = nn.backward_below(self.embedding_dropout, dx, drop)
        dx, g_positions = nn.backward_below(self.positions, dx, placed)
        _, g_embedding = nn.backward_below(self.embedding, dx, embedded)
        return None, {"embedding": g_embedding, "positions": g_positions, "stack": g_stack}

    def new_cache(self):
        """Return what remembers keys and values while decoding: one KVCache a layer."""
        return self.stack.new_cache()

    @classmethod
    def names(cls, config):
        rows = [(ours, PREFIX + theirs) for ours, theirs in NAMES]
        ignored = (*(PREFIX + name for name in MASK_BUFFERS), *(f"{head}*" for head in HEADS))
        return NameTable(rows, optional_prefix=PREFIX, bare=True, ignored=ignored)


class _OnGPT2(OnDecoder):
    """What the models on a GPT-2 share."""

    config_class, body_class = GPT2Config, GPT2Model
    prefix, body_names, strays = PREFIX, NAMES, MASK_BUFFERS


class GPT2LMHeadModel(_OnGPT2, CausalLMModel):
    """GPT-2 with its language-model head: ids (B, T) -> the scores of what comes next, (B, T, V).

    Examples
    --------
    >>> config = GPT2Config(vocab_size=5, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    >>> model = GPT2LMHeadModel(config, rng=0)
    >>> model(np.array([[1, 2, 3]])).logits.shape
    (1, 3, 5)
    >>> loss, grads = model.loss_and_grads({"input_ids": np.array([[1, 2, 3]]), "labels": np.array([[1, 2, 3]])})
    >>> list(grads["body"])
    ['embedding', 'positions', 'stack']
    >>> model.generate(np.array([[1, 2, 3]]), max_new_tokens=4).shape
    (1, 7)
    """


class GPT2ForSequenceClassification(_OnGPT2, LastTokenClassification):
    """GPT-2 with scores of the classes of a sequence, read from its last token: ids (B, T) -> (B, num_labels).

    Examples
    --------
    >>> config = GPT2Config(vocab_size=5, n_embd=8, n_layer=1, n_head=2)
    >>> GPT2ForSequenceClassification(config, rng=0)(np.array([[1, 4, 3]])).logits.shape
    (1, 2)
    """


class GPT2ForTokenClassification(_OnGPT2, DecoderTokenClassification):
    """GPT-2 with scores of the classes of each token: ids (B, T) -> (B, T, num_labels).

    Examples
    --------
    >>> config = GPT2Config(vocab_size=5, n_embd=8, n_layer=1, n_head=2)
    >>> GPT2ForTokenClassification(config, rng=0)(np.array([[1, 4, 3]])).logits.shape
    (1, 3, 2)
    """

    head_names = (*linear_names("out_proj", "classifier"),)


class GPT2ForQuestionAnswering(_OnGPT2, DecoderQuestionAnswering):
    """GPT-2 with scores of where an answer starts and ends: ids (B, T) -> two of (B, T).

    Examples
    --------
    >>> config = GPT2Config(vocab_size=5, n_embd=8, n_layer=1, n_head=2)
    >>> GPT2ForQuestionAnswering(config, rng=0)(np.array([[1, 4, 3]])).start_logits.shape
    (1, 3)
    """
