"""BART's encoder and decoder, which Marian is built of too, and the names of their weights in files."""

import math
from typing import Any, ClassVar

import numpy as np

from numtx import nn
from numtx.checkpoints import NameTable
from numtx.models.bart_config import SIDES, BartConfig
from numtx.models.batch import incoming_fields, known_ids, known_memory, padding
from numtx.models.bert_body import linear_names, norm_names
from numtx.models.loss import shift_right
from numtx.models.output import Seq2SeqModelOutput
from numtx.models.pretrained import PretrainedModel

POSITION_OFFSET = 2  # the first two rows of the table of positions belong to none
EPS = 1e-5  # of every norm; no config says it
DIFFERENTIABLE = ("last_hidden_state", "encoder_last_hidden_state")
HEADS = ("lm_head.*", "final_logits_bias", "classification_head.*", "qa_outputs.*")
STRAYS = ("model.encoder.version", "model.decoder.version")
TABLES = tuple(f"model.{part}.weight" for part in ("shared", "encoder.embed_tokens", "decoder.embed_tokens"))


class BartInputs(nn.Module):
    """What a stack reads: y = dropout(norm(s x + position)) of embedded ids x (B, T, C). The table is not its own.

    Parameters
    ----------
    positions : Module
        Adds them: `nn.LearnedPositions` or `nn.SinusoidalPositions`.
    norm : Module or None
        Marian has none.
    scale : float, s
    dropout : float

    Examples
    --------
    >>> inputs = BartInputs(nn.SinusoidalPositions(4, layout="half"), None, scale=2.0)
    >>> inputs(np.ones((1, 2, 4)))[0, 0]
    array([2., 2., 3., 3.])
    """

    def __init__(self, positions, norm=None, *, scale=1.0, dropout=0.0):
        self.positions, self.norm, self.scale = positions, norm, scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, *, positions=None, rng=None):
        h, placed = self.positions.forward(x if self.scale == 1 else self.scale * x, positions=positions)
        h, norm = (h, None) if self.norm is None else self.norm.forward(h)
        y, drop = self.dropout.forward(h, rng=rng)
        return y, (placed, norm, drop)

    def backward(self, dy, cache):
        """Return (dx, grads): dx = s · dh, since x enters as s x."""
        placed, norm, drop = cache
        dh, _ = self.dropout.backward(dy, drop)
        dh, g_norm = (dh, {}) if self.norm is None else self.norm.backward(dh, norm)
        dh, g_positions = self.positions.backward(dh, placed)
        grads = {"positions": g_positions, "norm": g_norm}
        return (dh if self.scale == 1 else self.scale * dh), {name: part for name, part in grads.items() if part}

    def extra_repr(self):
        return f"scale={self.scale:.4g}"


class BartBase(PretrainedModel):
    """What all models of the family share: padding rows of zeros in new tables, and what files leave unsaid."""

    config_class: ClassVar[type[BartConfig]] = BartConfig
    arguments = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")

    def draw(self, rng, std=None):
        super().draw(rng, std)
        if nn.init.draws():
            for _, module in self.named_modules():
                if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0

    @classmethod
    def unsaid(cls, config, arrays):
        """Return what a file means and does not hold, by the names of a model with a head.

        Here: encoder and decoder had one table when the file was written, and each has its own from now on.
        """
        found = {name: written for name in TABLES if (written := held(name, arrays))}
        if config.one_table or not config.one_vocabulary or not found:
            return {}
        first = next(iter(found.values()))
        return {name: np.array(arrays[first]) for name in TABLES if name not in found}


class BartModel(BartBase):
    """BART without a head: source (B, Ts) and target (B, Tt) ids -> the decoder's last hidden state (B, Tt, C).

        memory = encoder(inputs(E[source]))        y = decoder(inputs(E[target]), memory)

    Encoder and decoder read one table E, unless `tie_word_embeddings` is false: then each has its own. Without
    target ids the decoder reads the source one place late, as in pre-training.

    Examples
    --------
    >>> sizes = {f"{side}_{size}": 2 for side in SIDES for size in ("layers", "attention_heads", "ffn_dim")}
    >>> model = BartModel(BartConfig(vocab_size=7, d_model=8, max_position_embeddings=6, **sizes), rng=0)
    >>> model(np.array([[0, 3, 4, 2]]), decoder_input_ids=np.array([[2, 0, 5]])).last_hidden_state.shape
    (1, 3, 8)
    """

    reads_source = True  # whether the decoder reads the source where it is given nothing

    def __init__(self, config, *, rng=None, dtype=np.float32):
        self.config = config
        with nn.init.undrawn():
            self._build(config, dtype)
        self.draw(np.random.default_rng(rng))

    def _build(self, config, dtype):
        width, made = config.d_model, {"padding_idx": config.pad_token_id, "dtype": dtype}
        self.embedding = nn.Embedding(config.vocabulary, width, **made)
        if not config.one_table:
            self.encoder_embedding = nn.Embedding(config.vocab_size, width, **made)
        if not config.one_table and config.one_vocabulary:
            self.shared, self.buffers = (
                np.zeros((config.vocab_size, width), dtype),
                ("shared",),
            )  # files have it: unused
        self.encoder_inputs, self.decoder_inputs = (self._inputs(config, dtype) for _ in SIDES)
        self.encoder = nn.Stack([_layer(config, "encoder", dtype) for _ in range(config.encoder_layers)])
        self.decoder = nn.Stack([_layer(config, "decoder", dtype) for _ in range(config.decoder_layers)])

    def _inputs(self, config, dtype):
        positions = nn.LearnedPositions(
            config.max_position_embeddings, config.d_model, offset=POSITION_OFFSET, dtype=dtype
        )
        norm = nn.LayerNorm(config.d_model, EPS, dtype=dtype)
        return BartInputs(positions, norm, scale=embedding_scale(config), dropout=config.dropout)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        encoder_outputs=None,
        *,
        output_hidden_states=False,
        output_attentions=False,
        rng=None,
        keep="all",
    ):
        """Return (Seq2SeqModelOutput, cache).

        Parameters
        ----------
        input_ids : (B, Ts) integer array
            The source. Where `encoder_outputs` are given it may be None.
        attention_mask : (B, Ts) array of 1 for a token and 0 for padding, or None
            Of the source, for the encoder and for the decoder's attention over it.
        decoder_input_ids : (B, Tt) integer array or None
            What the decoder reads: the start token and what it has written.
        decoder_attention_mask : (B, Tt) array or None
            Of what the decoder reads. Padding on the right needs none: no token sees what stands behind it.
        encoder_outputs : (B, Ts, C) array, a tuple or list that begins with it, outputs that hold it, or None
            What the encoder gave before; it does not run then, and backward is refused.
        output_hidden_states, output_attentions : bool
            Whether the output has them, of the encoder and of the decoder.
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Stack`.
        """
        self._check_training(rng)
        encoded, encoder = None, None
        source = self._source(input_ids, encoder_outputs)
        if encoder_outputs is not None:
            name, config = type(self).__name__, self.config
            memory, states, attentions = known_memory(name, encoder_outputs, config.d_model, self.dtype, source)
            encoded = nn.StackOutput(memory, states, attentions, None)
        rows = (source if encoded is None else encoded.y).shape[:2]  # (B, Ts)
        target = self._target(source, decoder_input_ids, rows[0])
        mask = self._mask("attention_mask", attention_mask, rows)
        own_mask = self._mask("decoder_attention_mask", decoder_attention_mask, target.shape)
        settings = {"rng": rng, "keep": None if encoded else keep}
        settings |= {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        if not encoded:
            encoded, encoder = self._encode(source, mask, **settings)
        decoded, decoder = self._decode(target, encoded.y, mask=own_mask, memory_mask=mask, **settings)
        outputs = Seq2SeqModelOutput(*decoded, *encoded[:3])
        given = {field: (outputs[field].shape, outputs[field].dtype) for field in DIFFERENTIABLE}
        return outputs, None if settings["keep"] is None else (encoder, decoder, given)

    def backward(self, doutputs, cache):
        """Return (None, grads) for a dict of the gradients of both last hidden states; absent means zero.

        The memory goes into every layer of the decoder and out to whoever asked for it: its gradient is the sum. So is
        that of a table that both sides read.
        """
        name = type(self).__name__
        if cache is None:
            raise ValueError(f"{name}: backward after a forward with keep=None or encoder_outputs")
        (source, encoder_inputs, encoder), (target, decoder_inputs, decoder), given = cache
        gradients = incoming_fields(name, doutputs, given)
        (dx, dmemory, _), g_decoder = self.decoder.backward(gradients["last_hidden_state"], decoder)
        dx, g_decoder_inputs = nn.backward_below(self.decoder_inputs, dx, decoder_inputs)
        _, g_table = nn.backward_below(self.embedding, dx, target)
        (dx, *_), g_encoder = (None,), {}
        if dmemory is not None:
            (dx, *_), g_encoder = self.encoder.backward(dmemory + gradients["encoder_last_hidden_state"], encoder)
        dx, g_encoder_inputs = nn.backward_below(self.encoder_inputs, dx, encoder_inputs)
        _, g_source = nn.backward_below(self._source_table, dx, source)
        if self.config.one_table:
            for name, gradient in g_source.items():
                g_table[name] += gradient
        tables = {"embedding": g_table} | ({} if self.config.one_table else {"encoder_embedding": g_source})
        inputs = {"encoder_inputs": g_encoder_inputs, "decoder_inputs": g_decoder_inputs}
        grads = tables | inputs | {"encoder": g_encoder, "decoder": g_decoder}
        return None, {part: tree for part, tree in grads.items() if tree}

    def encode(self, input_ids, attention_mask=None) -> np.ndarray:
        """Return the memory (B, Ts, C) of a source."""
        source = self._ids("input_ids", input_ids, self.config.vocab_size)
        mask = self._mask("attention_mask", attention_mask, source.shape)
        return self._encode(source, mask, keep=None)[0].y

    def decode(
        self,
        decoder_input_ids,
        memory,
        *,
        attention_mask=None,
        decoder_attention_mask=None,
        position_ids=None,
        kv_cache=None,
    ) -> np.ndarray:
        """Return the decoder's last hidden state (B, Tt, C).

        Parameters
        ----------
        decoder_input_ids : (B, Tt) integer array
            The start token and what has been written; with a `kv_cache`, only what is new.
        memory : (B, Ts, C) array
            What `encode` gave; with a `kv_cache` the very array of the first step.
        attention_mask : (B, Ts) array or None
            Of the source, with a row for each of `decoder_input_ids`.
        decoder_attention_mask : (B, Tt) array or None
            With a `kv_cache` it covers the old tokens too: (B, old + Tt).
        position_ids : (Tt,) or (B, Tt) integer array or None
            None: 0, 1, 2 ..., on from the old tokens.
        kv_cache : what `new_cache` made, or None
        """
        old = len(kv_cache[0]) if kv_cache else 0
        target = self._ids("decoder_input_ids", decoder_input_ids, self.config.vocabulary, old)
        batch, new = target.shape
        memory_mask = self._mask("attention_mask", attention_mask, (batch, *np.shape(memory)[1:2]))
        mask = self._mask("decoder_attention_mask", decoder_attention_mask, (batch, old + new))
        positions = np.arange(old, old + new) if position_ids is None else position_ids
        settings = {"mask": mask, "memory_mask": memory_mask, "kv_cache": kv_cache, "keep": None}
        return self._decode(target, memory, positions=positions, **settings)[0].y

    def new_cache(self):
        """Return what `decode` remembers between steps: one DecoderLayerCache a layer."""
        return self.decoder.new_cache()

    @property
    def _source_table(self) -> nn.Embedding:
        return self.embedding if self.config.one_table else self.encoder_embedding

    def _encode(self, source, mask, *, rng=None, **settings):
        """Return (StackOutput, cache) of checked ids."""
        x, embedded = self._source_table.forward(source)  # (B, Ts, C)
        x, inputs = self.encoder_inputs.forward(x, rng=rng)
        settings |= nn.frozen_inputs(x=(self._source_table, self.encoder_inputs))
        y, stack = self.encoder.forward(x, mask=mask, rng=rng, **settings)
        return _stack_output(y), (embedded, inputs, stack)

    def _decode(self, target, memory, *, positions=None, rng=None, **settings):
        """Return (StackOutput, cache) of checked ids."""
        x, embedded = self.embedding.forward(target)  # (B, Tt, C)
        x, inputs = self.decoder_inputs.forward(x, positions=positions, rng=rng)
        if settings["keep"] is not None:  # not at each token that is written
            of_source = self._source_table, self.encoder_inputs, self.encoder
            settings |= nn.frozen_inputs(x=(self.embedding, self.decoder_inputs), memory=of_source)
        y, stack = self.decoder.forward(x, memory, rng=rng, **settings)
        return _stack_output(y), (embedded, inputs, stack)

    def _source(self, input_ids, encoder_outputs):
        """Return the ids of the source, which may be absent where the encoder ran before."""
        if input_ids is None and encoder_outputs is not None:
            return None
        return self._ids("input_ids", input_ids, self.config.vocab_size)

    def _target(self, source, decoder_input_ids, rows):
        """Return what the decoder reads, of the source's batch."""
        name, config = type(self).__name__, self.config
        if decoder_input_ids is None:
            start, pad = config.decoder_start_token_id, config.pad_token_id
            if not self.reads_source or source is None or start is None or pad is None:
                raise ValueError(f"{name}: expected decoder_input_ids (B, T), got None")
            decoder_input_ids = shift_right(source, start, pad)
        target = self._ids("decoder_input_ids", decoder_input_ids, config.vocabulary)
        if len(target) != rows:
            raise ValueError(f"{name}: expected decoder_input_ids of {rows} rows, got {target.shape}")
        return target

    def _ids(self, argument, ids, vocab_size, old=0):
        context = ("max_position_embeddings", self.config.max_position_embeddings)
        return known_ids(type(self).__name__, argument, ids, vocab_size, context=context, old=old)

    def _mask(self, argument, mask, shape):
        return padding(type(self).__name__, argument, mask, shape)

    def _check_training(self, rng):
        for side in SIDES:
            rate = getattr(self.config, f"{side}_layerdrop")
            if rate and rng is not None:
                raise ValueError(f"{type(self).__name__}: expected {side}_layerdrop 0 for dropout, got {rate}")

    @classmethod
    def rows(cls, config):
        """Return the rows of the table of names, as a model with a head writes them."""
        if config.one_table:
            tables = [("embedding.weight", TABLES[0])]
        else:
            tables = [("encoder_embedding.weight", TABLES[1]), ("embedding.weight", TABLES[2])]
            tables += [("shared", TABLES[0])] if config.one_vocabulary else []
        return tables + [row for side in SIDES for row in (*cls.input_rows(side), *_layer_rows(side))]

    @staticmethod
    def input_rows(side):
        """Return the rows of what stands before a stack."""
        positions = (f"{side}_inputs.positions.weight", f"model.{side}.embed_positions.weight")
        return [positions, *norm_names(f"{side}_inputs.norm", f"model.{side}.layernorm_embedding")]

    @classmethod
    def names(cls, config):
        settings: dict[str, Any] = {"optional_prefix": "model.", "bare": True, "ignored": (*HEADS, *STRAYS)}
        if config.one_table:
            settings |= {"copies": {TABLES[0]: TABLES[1:]}, "spares": {TABLES[0]: ("lm_head.weight",)}}
        return NameTable(cls.rows(config), **settings)


def held(name, arrays):
    """Return the name under which a file holds an array, with the prefix of a model with a head or without; or None."""
    return next((one for one in (name, name.removeprefix("model.")) if one in arrays), None)


def _layer(config, side, dtype):
    """A layer of the encoder or the decoder, each sublayer with its norm behind it."""
    width, heads = config.d_model, getattr(config, f"{side}_attention_heads")
    hidden, activation = getattr(config, f"{side}_ffn_dim"), config.activation_of("activation_function")

    def around(sublayer):
        return nn.PostNorm(nn.LayerNorm(width, EPS, dtype=dtype), sublayer, config.dropout)

    def attention(causal=False):
        return nn.GroupedQueryAttention(width, heads, causal=causal, dropout=config.attention_dropout, dtype=dtype)

    feed_forward = nn.FeedForward(width, hidden, activation, config.activation_dropout, dtype=dtype)
    if side == "encoder":
        return nn.EncoderLayer(around(attention()), around(feed_forward))
    return nn.DecoderLayer(around(attention(causal=True)), around(attention()), around(feed_forward))


def _layer_rows(side):
    parts = [("attention", "self_attn")] + ([("cross_attention", "encoder_attn")] if side == "decoder" else [])
    rows = []
    for ours, theirs in parts:
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            rows += linear_names(f"{ours}.sublayer.{projection}", f"{theirs}.{projection}")
        rows += norm_names(f"{ours}.norm", f"{theirs}_layer_norm")
    rows += linear_names("feed_forward.sublayer.up", "fc1") + linear_names("feed_forward.sublayer.down", "fc2")
    rows += norm_names("feed_forward.norm", "final_layer_norm")
    return [(f"{side}.layers.{{i}}.{ours}", f"model.{side}.layers.{{i}}.{theirs}", *how) for ours, theirs, *how in rows]


def embedding_scale(config):
    """What embeddings are multiplied by."""
    return math.sqrt(config.d_model) if config.scale_embedding else 1.0


def _stack_output(y):
    return y if isinstance(y, nn.StackOutput) else nn.StackOutput(y, None, None, None)
