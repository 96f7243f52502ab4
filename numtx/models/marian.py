"""Marian: BART's wiring with sinusoidal positions and no norm over the embeddings, for translation.

Junczys-Dowmunt et al., "Marian: Fast Neural Machine Translation in C++" (2018); Tiedemann and Thottingal, "OPUS-MT"
(2020).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.functional.door import count
from numtx.models.bart import BartForConditionalGeneration
from numtx.models.bart_body import BartInputs, BartModel, embedding_scale, held
from numtx.models.bart_config import SIDES, BartConfig

MOST_COMPUTED = 1 << 24  # numbers of a table of sines
SINES = tuple(f"model.{side}.embed_positions.weight" for side in SIDES)


@dataclass(kw_only=True)
class MarianConfig(BartConfig):
    """The settings of a Marian, by the names of its `config.json`: BART's, and the ones here.

    Attributes
    ----------
    decoder_vocab_size : int or None
        Of the target; as the source's if None.
    share_encoder_decoder_embeddings : bool
        Whether source and target are of one vocabulary; the decoder's table is the head's too, if it is tied.

    Examples
    --------
    >>> MarianConfig(vocab_size=9, pad_token_id=8).vocabulary
    9
    """

    model_type = "marian"
    fixed: ClassVar[dict[str, Any]] = {
        "is_encoder_decoder": True,
        "is_decoder": False,
        "tie_encoder_decoder": False,
        "normalize_before": False,
        "add_final_layer_norm": False,
        "normalize_embedding": False,
        "static_position_embeddings": True,
    }

    vocab_size: int = 58101
    decoder_vocab_size: int | None = None
    share_encoder_decoder_embeddings: bool = True
    pad_token_id: int | None = 58100
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 0
    decoder_start_token_id: int | None = 58100

    def __post_init__(self):
        if self.decoder_vocab_size is None:
            self.decoder_vocab_size = self.vocab_size
        super().__post_init__()
        name = type(self).__name__
        count(name, 1, decoder_vocab_size=self.decoder_vocab_size)
        if self.share_encoder_decoder_embeddings and self.decoder_vocab_size != self.vocab_size:
            raise ValueError(
                f"{name}: expected a decoder_vocab_size of {self.vocab_size}, as embeddings are shared, "
                f"got {self.decoder_vocab_size}"
            )

    @property
    def num_labels(self) -> int:
        """The classes of a classifier, of which the family has none."""
        return 2 if self.id2label is None else len(self.id2label)

    @property
    def vocabulary(self) -> int:
        """The tokens of the target."""
        of_its_own = None if self.share_encoder_decoder_embeddings else self.decoder_vocab_size
        return self.vocab_size if of_its_own is None else of_its_own

    @property
    def one_vocabulary(self) -> bool:
        """Whether source and target are of one vocabulary."""
        return self.share_encoder_decoder_embeddings


class MarianPositions(nn.Module):
    """Add sines, and behind them cosines, of the position from 0 on: y = x + S[positions], x (B, T, C).

    The table S (num_positions, C) does not learn: it is a buffer, since some files hold one, in their own precision,
    and Transformers adds what they hold. Computed, it is `F.sinusoidal_positions` in float32, whatever `dtype`.

    Examples
    --------
    >>> MarianPositions(8, 4, dtype=np.float64)(np.zeros((1, 2, 4)))[0, 0]
    array([0., 0., 1., 1.])
    """

    buffers = ("weight",)

    def __init__(self, num_positions, width, *, dtype=np.float32):
        count("MarianPositions", 1, num_positions=num_positions)
        self.weight = self.table(num_positions, width).astype(dtype)

    @staticmethod
    def table(num_positions, width):
        """Return the table in float32."""
        return F.sinusoidal_positions(num_positions, width, layout="half")

    def forward(self, x, *, positions=None):
        positions = np.arange(x.shape[1]) if positions is None else positions
        return x + F.embedding(positions, self.weight)[0], ()  # (B, T, C)

    def backward(self, dy, cache):
        return dy, {}

    def extra_repr(self):
        return "{}, {}".format(*self.weight.shape)


class MarianModel(BartModel):
    """Marian without a head: source (B, Ts) and target (B, Tt) ids -> the decoder's last hidden state (B, Tt, C).

    Examples
    --------
    >>> sizes = {f"{side}_{size}": 2 for side in SIDES for size in ("layers", "attention_heads", "ffn_dim")}
    >>> config = MarianConfig(vocab_size=7, d_model=8, pad_token_id=6, decoder_start_token_id=6, **sizes)
    >>> model = MarianModel(config, rng=0)
    >>> model(np.array([[3, 4, 0]]), decoder_input_ids=np.array([[6, 5]])).last_hidden_state.shape
    (1, 2, 8)
    """

    config_class = MarianConfig
    reads_source = False

    def _inputs(self, config, dtype):
        positions = MarianPositions(config.max_position_embeddings, config.d_model, dtype=dtype)
        return BartInputs(positions, None, scale=embedding_scale(config), dropout=config.dropout)

    @staticmethod
    def input_rows(side):
        return [(f"{side}_inputs.positions.weight", f"model.{side}.embed_positions.weight")]

    @classmethod
    def unsaid(cls, config, arrays):
        table = None
        made = super().unsaid(config, arrays)
        for name in SINES:
            if not held(name, arrays):
                _check_computed(cls.__name__, config)
                table = (
                    MarianPositions.table(config.max_position_embeddings, config.d_model) if table is None else table
                )
                made[name] = table
        return made


def _check_computed(owner, config):
    """Refuse a table of sines that no file holds, and that would take long to compute."""
    numbers = config.max_position_embeddings * config.d_model
    if numbers > MOST_COMPUTED:
        raise ValueError(
            f"{owner}: expected max_position_embeddings x d_model of at most {MOST_COMPUTED:,}, as sines are missing, "
            f"got {config.max_position_embeddings} x {config.d_model}"
        )


class MarianMTModel(BartForConditionalGeneration):
    """Marian with its language-model head: source (B, Ts) and target (B, Tt) ids -> what comes next, (B, Tt, V).

    The table of the head is the decoder's, which is the encoder's too where `share_encoder_decoder_embeddings` is true.

    Examples
    --------
    >>> sizes = {f"{side}_{size}": 2 for side in SIDES for size in ("layers", "attention_heads", "ffn_dim")}
    >>> config = MarianConfig(vocab_size=7, d_model=8, pad_token_id=6, decoder_start_token_id=6, **sizes)
    >>> MarianMTModel(config, rng=0)(np.array([[3, 4, 0]]), labels=np.array([[5, 0]])).logits.shape
    (1, 2, 7)
    """

    config_class = MarianConfig
    body_class = MarianModel

    def to_checkpoint(self, tree=None):
        written = super().to_checkpoint(tree)
        return {name: array for name, array in written.items() if name not in SINES}  # they can be computed
