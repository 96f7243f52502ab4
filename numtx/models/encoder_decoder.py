"""A ready-made encoder and decoder: ids in, other ids out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from numtx import generation, nn
from numtx.functional.door import count
from numtx.models.batch import known_labels
from numtx.models.loss import shift_right
from numtx.models.output import LogProbsOutput
from numtx.models.ready_made import ReadyMade, TransformerConfig
from numtx.models.token_embedding import TokenEmbedding
from numtx.models.transformer import Transformer
from numtx.models.writing import writing_options


@dataclass(kw_only=True)
class EncoderDecoderConfig(TransformerConfig):
    """The settings of an `EncoderDecoderTransformer`: those of `TransformerConfig`, and the ones here.

    Attributes
    ----------
    src_vocab_size : int
    tgt_vocab_size : int or None
        None: as many as the source has. The two tables are never shared.
    num_encoder_layers, num_decoder_layers : int
    pad_token_id : int
        Padding of the source where no attention mask is given, what the decoder reads in the place of a label of -100,
        and what a written row gets after its end.
    decoder_start_token_id : int
        What the decoder reads first.
    eos_token_id : int or None
        Where a row that the model writes ends; labels should have it last.
    """

    model_type: ClassVar[str] = "encoder_decoder_transformer"
    sizes: ClassVar[tuple[str, ...]] = ("src_vocab_size", "tgt_vocab_size", "num_encoder_layers", "num_decoder_layers")
    vocabulary: ClassVar[str] = "tgt_vocab_size"
    special_ids: ClassVar[tuple[str, ...]] = ("pad_token_id", "decoder_start_token_id", "eos_token_id")

    src_vocab_size: int
    tgt_vocab_size: int | None = None
    num_encoder_layers: int = 2
    num_decoder_layers: int = 2
    pad_token_id: int = 0
    decoder_start_token_id: int = 1
    eos_token_id: int | None = 2

    def __post_init__(self):
        self.tgt_vocab_size = self.src_vocab_size if self.tgt_vocab_size is None else self.tgt_vocab_size
        super().__post_init__()


class EncoderDecoderTransformer(ReadyMade):
    """Source ids (B, Ts) and target ids (B, Tt) -> log-probabilities of the target ids, (B, Tt, V).

        memory = encoder(embedding(source))
        y = log_softmax(decoder(embedding([start, target without its last]), memory) W + b)

    Built of an `EncoderDecoderConfig`, or by its keywords. The decoder is told the right tokens before the one it is
    asked for (teacher forcing, Williams and Zipser 1989): the target is shifted right inside. Padding of the source is
    seen neither by the encoder nor by the decoder.

    Examples
    --------
    >>> model = EncoderDecoderTransformer(src_vocab_size=7, tgt_vocab_size=5, d_model=8, nhead=2, rng=0)
    >>> source, target = np.array([[3, 4, 5, 0]]), np.array([[3, 4, 2]])
    >>> model(source, target).log_probs.shape
    (1, 3, 5)
    >>> model.generate(source, max_new_tokens=4, eos_token_id=()).shape
    (1, 4)
    """

    config_class = EncoderDecoderConfig
    config: EncoderDecoderConfig
    arguments = ("input_ids", "attention_mask", "decoder_attention_mask")

    def _build(self, rng, dtype):
        config = self.config
        self.src_embedding: TokenEmbedding = config.embedding(config.src_vocab_size, rng, dtype)
        self.tgt_embedding: TokenEmbedding = config.embedding(config.tgt_vocab_size, rng, dtype)
        layers = {name: getattr(config, name) for name in ("num_encoder_layers", "num_decoder_layers")}
        self.transformer = Transformer(**config.layer(), **layers, causal=True, rng=rng, dtype=dtype)
        self.head = nn.ClassifierHead(
            config.d_model, config.tgt_vocab_size, config.dropout, pooling=None, rng=rng, dtype=dtype
        )

    def forward(self, input_ids, labels, attention_mask=None, decoder_attention_mask=None, *, rng=None, keep="all"):
        """Return (LogProbsOutput, cache).

        Parameters
        ----------
        input_ids : (B, Ts) integer array
            The source.
        labels : (B, Tt) integer array
            The target, its end token last; -100 where there is nothing to predict. Row t of the result is asked for
            labels[:, t], and has seen labels[:, :t].
        attention_mask : (B, Ts) array of 1 for a token and 0 for padding, or None
            Of the source. None: padding is where `pad_token_id` stands.
        decoder_attention_mask : (B, Tt) array or None
            Of what the decoder reads. Padding on the right needs none: causal attention does not look there.
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Stack`.
        """
        source = self._ids("input_ids", input_ids, self.config.src_vocab_size)
        labels = self._asked("labels", labels, source.shape)
        target = shift_right(labels, self.config.decoder_start_token_id, self.config.pad_token_id)
        src_mask = self._source_mask(source, attention_mask)
        tgt_mask = self._mask("decoder_attention_mask", decoder_attention_mask, target.shape)
        src, src_embedded = self.src_embedding.forward(source, rng=rng)  # (B, Ts, C)
        tgt, tgt_embedded = self.tgt_embedding.forward(target, rng=rng)  # (B, Tt, C)
        settings = {"rng": rng, "keep": keep, **nn.frozen_inputs(src=self.src_embedding, tgt=self.tgt_embedding)}
        x, transformer = self.transformer.forward(src, tgt, src_mask, tgt_mask, src_mask, **settings)
        log_probs, head = self.head.forward(x, rng=rng)  # (B, Tt, V)
        return self._outputs(log_probs, (src_embedded, tgt_embedded, transformer, head), keep)

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict with the gradient of "log_probs"; absent means zero."""
        dlog_probs, (src_embedded, tgt_embedded, transformer, head) = self._incoming(doutputs, cache)
        dx, g_head = self.head.backward(dlog_probs, head)
        (dsrc, dtgt), g_transformer = self.transformer.backward(dx, transformer)
        _, g_src = nn.backward_below(self.src_embedding, dsrc, src_embedded)
        _, g_tgt = nn.backward_below(self.tgt_embedding, dtgt, tgt_embedded)
        return None, {"src_embedding": g_src, "tgt_embedding": g_tgt, "transformer": g_transformer, "head": g_head}

    def _inputs_and_labels(self, batch):
        inputs, labels = super()._inputs_and_labels(batch)
        return {**inputs, "labels": labels}, labels

    def _asked(self, name, labels, shape):
        owner, labels, most = type(self).__name__, np.asarray(labels), self.config.max_length
        if labels.ndim != 2 or not labels.size:
            raise ValueError(f"{owner}: expected {name} (B, T), not empty, got {labels.shape}")
        if labels.shape[1] > most:
            raise ValueError(f"{owner}: expected {name} of at most max_length = {most} tokens, got {labels.shape[1]}")
        return known_labels(owner, name, labels, (*shape[:1], labels.shape[1]), self.config.tgt_vocab_size)

    def _source_mask(self, source, attention_mask):
        """Return (B, 1, 1, Ts): which tokens of the source may be seen, in the encoder and from the decoder."""
        if attention_mask is None:
            attention_mask = source != self.config.pad_token_id
        return self._mask("attention_mask", attention_mask, source.shape)

    def encode(self, input_ids, attention_mask=None) -> np.ndarray:
        """Return the memory (B, Ts, C) of a source."""
        source = self._ids("input_ids", input_ids, self.config.src_vocab_size)
        return self.transformer.encode(self.src_embedding(source), self._source_mask(source, attention_mask))

    def decode(self, decoder_input_ids, memory, attention_mask=None, *, kv_cache=None) -> LogProbsOutput:
        """Return the log-probabilities of the token after each that the decoder reads, (B, Tt, V).

        Parameters
        ----------
        decoder_input_ids : (B, Tt) integer array
            The start token and what has been written; with a `kv_cache`, only what is new.
        memory : (B, Ts, C) array
            What `encode` gave; with a `kv_cache`, the same array at every step.
        attention_mask : (B, Ts) array of 1 for a token and 0 for padding, or None
            Of the source, a row for each that the decoder reads. The ids are not seen here: None means that nothing is
            padding.
        kv_cache : what `new_cache` made, or None
            It keeps what was read, and the memory as the decoder sees it.
        """
        old = len(kv_cache[0]) if kv_cache else 0
        ids = self._ids("decoder_input_ids", decoder_input_ids, self.config.tgt_vocab_size, old)
        memory_mask = self._mask("attention_mask", attention_mask, (len(ids), *np.shape(memory)[1:2]))
        tgt = self.tgt_embedding(ids, positions=np.arange(old, old + ids.shape[1]))  # (B, Tt, C)
        x = self.transformer.decode(tgt, memory, memory_mask=memory_mask, kv_cache=kv_cache)
        return LogProbsOutput(self.head(x))

    def new_cache(self):
        """Return what `decode` keeps between steps, empty."""
        return self.transformer.new_cache()

    def stream(self, input_ids, attention_mask=None, **settings) -> Iterator[np.ndarray]:
        """Yield the next id of each row, (B,), one step at a time. The arguments are those of `generate`."""
        options = self._options(settings)
        source = self._ids("input_ids", input_ids, self.config.src_vocab_size)
        mask = source != self.config.pad_token_id if attention_mask is None else attention_mask
        memory = self.encode(source, mask)

        def start():
            kv_cache = self.new_cache()
            return lambda ids: self.decode(ids, memory, mask, kv_cache=kv_cache).log_probs[:, -1]

        empty = np.full((len(source), 1), self.config.decoder_start_token_id)
        return generation.stream(start, empty, **options)

    def generate(self, input_ids, attention_mask=None, **settings) -> np.ndarray:
        """Write a target for each source, from nothing but the start token: ids (B, Ts) -> (B, new).

        The start token is not in the result; the end token is, and `pad_token_id` after it.

        Parameters
        ----------
        input_ids, attention_mask
            The source, as in `forward`.
        max_new_tokens : int
            `max_length`, the most there can be, if nothing is said.
        do_sample, temperature, top_k, top_p
            How the next id is chosen; see `generation.Sampler`. Default: the likeliest.
        seed : int, np.random.Generator or None
            For sampling.
        eos_token_id : int, several, or None
            Where a row ends. None: that of the config; (): nowhere.
        """
        return np.stack(list(self.stream(input_ids, attention_mask, **settings)), axis=1)

    def _options(self, settings):
        name, config = type(self).__name__, self.config
        said = writing_options(name, settings, max_new_tokens=config.max_length, eos_token_id=config.eos_token_id)
        count(f"{name}.generate", 1, max_new_tokens=said["max_new_tokens"])
        if said["max_new_tokens"] > config.max_length:
            raise ValueError(
                f"{name}.generate: expected max_new_tokens of at most max_length = {config.max_length}, "
                f"got {said['max_new_tokens']}"
            )
        return {**said, "pad_token_id": config.pad_token_id}
