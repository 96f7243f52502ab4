"""T5's bodies: an encoder and a decoder, pre-norm, without positions but for a bias by distance.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (2020).
"""

from dataclasses import replace
from typing import ClassVar

import numpy as np

from numtx import nn
from numtx.checkpoints import TRANSPOSED, NameTable
from numtx.checkpoints.names import listed
from numtx.models.batch import incoming_fields, known_ids, known_memory, padding
from numtx.models.output import BaseModelOutput, Seq2SeqModelOutput
from numtx.models.pretrained import PretrainedModel
from numtx.models.t5_stack import T5Config, T5Stack

PREFIX = "transformer."  # before the body's weights in the files of some heads
# Of no use, but in the first files.
STRAY = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
HEAD = "lm_head.weight"
HEADS = (HEAD, "classification_head.", "classifier.", "qa_outputs.")  # what files hold beside, by their beginnings


class T5Base(PretrainedModel):
    """What all models of the family share: how their weights are drawn, and one table for both stacks."""

    config_class: ClassVar[type[T5Config]] = T5Config
    own_stds: ClassVar[dict[str, float]] = {}  # by the end of a name, of what a head has beside

    def draw(self, rng, std=None):
        """Draw the weights as Mesh TensorFlow did, each matrix by its own deviation times `initializer_factor`."""
        if not nn.init.draws():
            return
        config = self.config
        width = config.d_model**-0.5
        stds = {
            "embedding.weight": 1.0,
            "q_proj.weight": width * config.d_kv**-0.5,
            "attention.sublayer.out_proj.weight": (config.num_heads * config.d_kv) ** -0.5,
            "down.weight": config.d_ff**-0.5,
            **self.own_stds,
        }
        for name, array in self.named_parameters():
            if array.ndim == 1:  # a norm's, or the bias of a head
                array[...] = 0 if name.endswith("bias") else config.initializer_factor
                continue
            of_its_own = next((std for ending, std in stds.items() if name.endswith(ending)), width)
            array[...] = rng.standard_normal(array.shape) * (config.initializer_factor * of_its_own)

    @classmethod
    def parted(cls, config, apart, where):
        return own_head(cls.__name__, config, apart, where)


class _T5(T5Base):
    """What the two bodies share: the embedding, which encoder and decoder have in common, and the encoder."""

    def __init__(self, config: T5Config, *, rng=None, dtype=np.float32):
        rng = np.random.default_rng(rng)
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model, rng=rng, dtype=dtype)
        self.encoder = T5Stack(config, rng=rng, dtype=dtype)
        self._build(rng, dtype)
        self.draw(rng)

    def _build(self, rng, dtype):
        """Make what else there is."""

    def encode(self, input_ids, attention_mask=None):
        """Return the memory (B, Tk, C) of a source."""
        return self._encoded(input_ids, attention_mask, rng=None, keep=None)[0].last_hidden_state

    def _encoded(self, input_ids, attention_mask, **settings):
        """Return (BaseModelOutput, cache) of the encoder."""
        ids = self._ids("input_ids", input_ids)
        mask = padding(type(self).__name__, "attention_mask", attention_mask, ids.shape)
        x, embedded = self.embedding.forward(ids)  # (B, T, C)
        y, cache = self.encoder.forward(x, mask=mask, **settings, **nn.frozen_inputs(x=self.embedding))
        outputs = BaseModelOutput(*y[:3]) if isinstance(y, nn.StackOutput) else BaseModelOutput(y)
        return outputs, None if cache is None else (embedded, cache, outputs.last_hidden_state.shape)

    def _encoded_backward(self, dy, cache):
        embedded, encoder, _ = cache
        (dx, _), g_encoder = self.encoder.backward(dy, encoder)
        _, g_embedding = nn.backward_below(self.embedding, dx, embedded)
        return {"embedding": g_embedding, "encoder": g_encoder}

    def _ids(self, name, ids):
        return known_ids(type(self).__name__, name, ids, self.config.vocab_size)

    def _incoming(self, doutputs, **shapes):
        expected = {field: (shape, self.dtype) for field, shape in shapes.items()}
        return incoming_fields(type(self).__name__, doutputs, expected)


class T5EncoderModel(_T5):
    """T5's encoder alone: ids (B, T) -> the last hidden state (B, T, C).

    Examples
    --------
    >>> config = T5Config(vocab_size=5, d_model=4, d_kv=3, d_ff=6, num_layers=2, num_heads=2)
    >>> T5EncoderModel(config, rng=0)(np.array([[1, 2, 3]])).last_hidden_state.shape
    (1, 3, 4)
    """

    arguments = ("input_ids", "attention_mask")

    def forward(
        self,
        input_ids,
        attention_mask=None,
        *,
        output_hidden_states=False,
        output_attentions=False,
        rng=None,
        keep="all",
    ):
        """Return (BaseModelOutput, cache).

        Parameters
        ----------
        input_ids : (B, T) integer array
            Of any length: positions are distances.
        attention_mask : (B, T) array of 1 for a token and 0 for padding, or None
            On any side.
        output_hidden_states, output_attentions : bool
            Whether the output has them.
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Stack`.
        """
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        return self._encoded(input_ids, attention_mask, rng=rng, keep=keep, **asked)

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict with the gradient of "last_hidden_state"; absent means zero."""
        if cache is None:
            raise ValueError(f"{type(self).__name__}: backward after a forward with keep=None")
        given = self._incoming(doutputs, last_hidden_state=cache[-1])
        return None, self._encoded_backward(given["last_hidden_state"], cache)

    @classmethod
    def names(cls, config):
        return name_table(config, "encoder")


class T5Model(_T5):
    """T5 without a head: ids of a source and of a target -> the decoder's last hidden state (B, Tq, C).

    Examples
    --------
    >>> config = T5Config(vocab_size=5, d_model=4, d_kv=3, d_ff=6, num_layers=2, num_heads=2)
    >>> T5Model(config, rng=0)(np.array([[1, 2, 3]]), decoder_input_ids=np.array([[0, 4]])).last_hidden_state.shape
    (1, 2, 4)
    """

    arguments = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")

    def _build(self, rng, dtype):
        self.decoder = T5Stack(self.config, decoder=True, rng=rng, dtype=dtype)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        *,
        encoder_outputs=None,
        kv_cache=None,
        output_hidden_states=False,
        output_attentions=False,
        rng=None,
        keep="all",
    ):
        """Return (Seq2SeqModelOutput, cache).

        Parameters
        ----------
        input_ids, attention_mask : (B, Tk) arrays
            The source: any length, and padding on any side; see `T5EncoderModel`.
        decoder_input_ids : (B, Tq) integer array
            What the decoder reads; with a `kv_cache`, only what is new.
        decoder_attention_mask : (B, Tq) array of 1 and 0, or None
            With a `kv_cache` it covers the old tokens too: (B, old + Tq).
        encoder_outputs : BaseModelOutput, tuple, array or None
            What the encoder gave, if it need not run; its first entry is the memory. Backward is refused then.
        kv_cache : what `new_cache` made, or None
        output_hidden_states, output_attentions, rng, keep
            As in `T5EncoderModel`.
        """
        keep = keep if encoder_outputs is None and kv_cache is None else None
        settings = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        settings |= {"rng": rng, "keep": keep}
        if encoder_outputs is None:
            source, encoded = self._encoded(input_ids, attention_mask, **settings)
        else:
            known = known_memory(type(self).__name__, encoder_outputs, self.config.d_model, self.dtype)
            source, encoded = BaseModelOutput(*known), None
        memory = source.last_hidden_state
        masks = {"attention_mask": attention_mask, "decoder_attention_mask": decoder_attention_mask}
        y, decoded = self._decoded(decoder_input_ids, memory, kv_cache=kv_cache, **masks, **settings)
        shown = y if isinstance(y, nn.StackOutput) else nn.StackOutput(y, None, None, None)
        outputs = Seq2SeqModelOutput(*shown, memory, source.hidden_states, source.attentions)
        return outputs, None if decoded is None else (encoded, decoded, shown.y.shape)

    def decode(self, decoder_input_ids, memory, *, attention_mask=None, decoder_attention_mask=None, kv_cache=None):
        """Return the decoder's last hidden state (B, Tq, C). The memory is what `encode` gave; the rest: `forward`."""
        masks = {"attention_mask": attention_mask, "decoder_attention_mask": decoder_attention_mask}
        return self._decoded(decoder_input_ids, memory, kv_cache=kv_cache, **masks, rng=None, keep=None)[0]

    def _decoded(self, decoder_input_ids, memory, *, attention_mask, decoder_attention_mask, kv_cache, **settings):
        """Return what the decoder's stack gives, and (embedded, its cache) or None."""
        name, old = type(self).__name__, len(kv_cache[0]) if kv_cache else 0
        if decoder_input_ids is None:
            raise ValueError(f"{name}: expected decoder_input_ids (B, Tq), what the decoder reads, got None")
        ids = self._ids("decoder_input_ids", decoder_input_ids)
        mask = padding(name, "decoder_attention_mask", decoder_attention_mask, (len(ids), old + ids.shape[1]))
        memory_mask = padding(name, "attention_mask", attention_mask, (len(ids), memory.shape[1]))
        x, embedded = self.embedding.forward(ids)  # (B, Tq, C)
        settings |= {"mask": mask, "memory_mask": memory_mask, "kv_cache": kv_cache}
        if settings["keep"] is not None:  # not at each token that is written
            settings |= nn.frozen_inputs(x=self.embedding, memory=(self.embedding, self.encoder))
        y, cache = self.decoder.forward(x, memory, **settings)
        return y, None if cache is None else (embedded, cache)

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict with the gradients of two fields; absent means zero.

        They are "last_hidden_state" and "encoder_last_hidden_state".
        """
        if cache is None:
            name = type(self).__name__
            raise ValueError(f"{name}: backward after a forward with keep=None, a kv_cache or encoder_outputs")
        encoded, (embedded, decoder), shape = cache
        given = self._incoming(doutputs, last_hidden_state=shape, encoder_last_hidden_state=encoded[-1])
        (dx, dmemory), g_decoder = self.decoder.backward(given["last_hidden_state"], decoder)
        grads: dict[str, dict] = {"embedding": {}, "encoder": {}}
        if dmemory is not None:
            grads = self._encoded_backward(given["encoder_last_hidden_state"] + dmemory, encoded)
        _, g_embedding = nn.backward_below(self.embedding, dx, embedded)
        for name, gradient in g_embedding.items():
            grads["embedding"][name] += gradient  # the table was used twice
        return None, grads | {"decoder": g_decoder}

    def new_cache(self):
        """Return what remembers keys and values while decoding: one DecoderLayerCache a layer."""
        return self.decoder.stack.new_cache()

    @classmethod
    def names(cls, config):
        return name_table(config, "encoder", "decoder")


def own_head(owner, config, apart, where):
    """Return the settings of a model whose head has a table of its own, which files of Transformers 5 do not say."""
    if strange := [other for _, other in apart if other != HEAD]:
        raise ValueError(
            f"{owner}: expected one table for encoder and decoder in {where}, got other numbers as {listed(strange)}"
        )
    return replace(config, tie_word_embeddings=False)


def _rows(config, *stacks):
    """Return the rows of the table: Transformers numbers the sublayers of a layer, and its matrices are (out, in)."""
    attention = [("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("out_proj", "o")]
    network = [("gate", "wi_0"), ("up", "wi_1")] if config.bend()[0] else [("up", "wi")]
    sublayers = {
        "attention": ("SelfAttention", attention),
        "cross_attention": ("EncDecAttention", attention),
        "feed_forward": ("DenseReluDense", [*network, ("down", "wo")]),
    }
    rows: list[tuple] = [("embedding.weight", "shared.weight")]
    for stack in stacks:
        rows += [
            (f"{stack}.positions.weight", f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
            (f"{stack}.stack.norm.weight", f"{stack}.final_layer_norm.weight"),
        ]
        own = [part for part in sublayers if stack == "decoder" or part != "cross_attention"]
        for k, part in enumerate(own):
            ours, theirs = f"{stack}.stack.layers.{{i}}.{part}", f"{stack}.block.{{i}}.layer.{k}"
            name, matrices = sublayers[part]
            rows.append((f"{ours}.norm.weight", f"{theirs}.layer_norm.weight"))
            rows += [
                (f"{ours}.sublayer.{one}.weight", f"{theirs}.{name}.{other}.weight", TRANSPOSED)
                for one, other in matrices
            ]
    return rows


def name_table(config, *stacks, ours="", bare=True, head=(), copies=()):
    """Return the table of the names of a model's weights.

    Parameters
    ----------
    config : T5Config
    *stacks : "encoder", "decoder"
        Which there are.
    ours : str
        What stands before the names of the body.
    bare : bool
        Whether files have no prefix before them.
    head : rows
        Those of a head.
    copies : names
        Under which the embedding stands in files too.
    """
    body = [(ours + one, PREFIX + other, *layout) for one, other, *layout in _rows(config, *stacks)]
    own = (*(row[1] for row in head), *copies)
    ignored = [f"{one}*" for one in HEADS if not any(name.startswith(one) for name in own)] + [PREFIX + STRAY]
    if "decoder" not in stacks:
        ignored.append(f"{PREFIX}decoder.*")
    tables = (*(f"{PREFIX}{stack}.embed_tokens.weight" for stack in ("encoder", "decoder")), *copies)
    return NameTable(
        [*body, *head], optional_prefix=PREFIX, bare=bare, ignored=ignored, copies={f"{PREFIX}shared.weight": tables}
    )
