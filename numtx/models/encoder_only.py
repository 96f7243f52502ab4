"""A ready-made encoder: ids in, a class out."""

from dataclasses import dataclass
from typing import ClassVar

from numtx import nn
from numtx.models.batch import known_labels
from numtx.models.ready_made import ReadyMade, TransformerConfig, one_of
from numtx.nn.pooling import POOLINGS
from numtx.nn.rows import by_length


@dataclass(kw_only=True)
class EncoderOnlyConfig(TransformerConfig):
    """The settings of an `EncoderOnlyTransformer`: those of `TransformerConfig`, and the ones here.

    Attributes
    ----------
    vocab_size, num_classes, num_layers : int
    pooling : "mean", "first", "last" or None
        What a sequence is classified by: the mean over its tokens, or one of them. None: a class for each token.
    pad_token_id : int or None
        Where no attention mask is given, these ids are padding.
    """

    model_type: ClassVar[str] = "encoder_only_transformer"
    sizes: ClassVar[tuple[str, ...]] = ("vocab_size", "num_classes", "num_layers")
    special_ids: ClassVar[tuple[str, ...]] = ("pad_token_id",)

    vocab_size: int
    num_classes: int
    num_layers: int = 2
    pooling: str | None = "mean"
    pad_token_id: int | None = None

    def __post_init__(self):
        super().__post_init__()
        one_of(type(self).__name__, pooling=(self.pooling, POOLINGS))


class EncoderOnlyTransformer(ReadyMade):
    """Ids (B, T) -> log-probabilities of the classes, (B, num_classes), or (B, T, num_classes) without pooling.

        y = log_softmax(pool(stack(embedding(ids))) W + b)

    Built of an `EncoderOnlyConfig`, or by its keywords. The stack is an encoder as in `Transformer`, a norm at its end;
    every token sees all that are not padding.

    Examples
    --------
    >>> import numpy as np
    >>> model = EncoderOnlyTransformer(vocab_size=5, num_classes=3, d_model=8, nhead=2, dim_feedforward=16, rng=0)
    >>> ids, mask = np.array([[1, 2, 3], [4, 1, 0]]), np.array([[1, 1, 1], [1, 1, 0]])
    >>> model(ids, mask).log_probs.shape
    (2, 3)
    >>> loss, grads = model.loss_and_grads({"input_ids": ids, "attention_mask": mask, "labels": np.array([2, 0])})
    >>> list(grads)
    ['embedding', 'stack', 'head']
    """

    config_class = EncoderOnlyConfig
    config: EncoderOnlyConfig

    def _build(self, rng, dtype):
        config = self.config
        self.embedding = config.embedding(config.vocab_size, rng, dtype)
        self.stack = nn.Stack(
            [nn.TransformerEncoderLayer(**config.layer(), rng=rng, dtype=dtype) for _ in range(config.num_layers)],
            nn.LayerNorm(config.d_model, config.layer_norm_eps, dtype=dtype),
        )
        self.head = nn.ClassifierHead(
            config.d_model, config.num_classes, config.dropout, pooling=config.pooling, rng=rng, dtype=dtype
        )

    def forward(self, input_ids, attention_mask=None, position_ids=None, *, rng=None, keep="all"):
        """Return (LogProbsOutput, cache).

        Parameters
        ----------
        input_ids : (B, T) integer array
        attention_mask : (B, T) array of 1 for a token and 0 for padding, or None
            None: padding is where `pad_token_id` stands, if the config has one.
        position_ids : (T,) or (B, T) integer array or None
            Default: 0, 1, 2 ...
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Stack`.
        """
        ids = self._ids("input_ids", input_ids, self.config.vocab_size)
        if attention_mask is None and self.config.pad_token_id is not None:
            attention_mask = ids != self.config.pad_token_id
        mask = self._mask("attention_mask", attention_mask, ids.shape)
        x, embedded = self.embedding.forward(ids, positions=position_ids, rng=rng)  # (B, T, C)
        reads_padding = mask is None or self.config.pooling is None
        if reads_padding or keep is not None or rng is not None or "forward" in vars(self):  # a trace sees it whole
            x, stack = self.stack.forward(x, mask=mask, rng=rng, keep=keep, **nn.frozen_inputs(x=self.embedding))
        else:
            x, stack = by_length(self.stack, x, mask), None
        log_probs, head = self.head.forward(x, mask=mask, rng=rng)  # (B, num_classes)
        return self._outputs(log_probs, (embedded, stack, head), keep)

    def _asked(self, name, labels, shape):
        shape = shape[:1] if self.config.pooling is not None else shape
        return known_labels(type(self).__name__, name, labels, shape, self.config.num_classes)
