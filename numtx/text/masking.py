"""Batches for language models: causal ones, and those that fill in masked tokens (Devlin et al., 2019, section 3.1)."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from numtx.text.collators import Batch, checked_features, only_arrays, padded
from numtx.text.labels import IGNORED


@dataclass
class DataCollatorForLanguageModeling:
    """Pads rows of ids and makes labels of them.

    Causal (``mlm=False``): labels are the ids, -100 where the padding token stands; the model shifts them. A tokenizer
    whose padding token is the end token loses real ends so too, as in Transformers.

    Masked: each token that is not special is chosen with `mlm_probability` and only these have labels; of them
    `mask_replace_prob` become the mask token, `random_replace_prob` any token of the vocabulary, the rest stays: the
    80/10/10 of BERT.

    Parameters
    ----------
    tokenizer : PretrainedTokenizer
    mlm : bool
    whole_word_mask : bool
        Choose words, all of whose tokens are then masked; features need ``offset_mapping``. Nothing is replaced at
        random then.
    mlm_probability, mask_replace_prob, random_replace_prob : float
    pad_to_multiple_of : int, optional
    return_tensors : {"np"}
    seed : int, optional
        Of the generator that is used where a call gives none: batch after batch as Transformers draws from this seed,
        with ``return_tensors="np"``.

    Raises
    ------
    ValueError
        Without a mask token, with shares that are none, or, when called, with neither a generator nor a seed.

    Examples
    --------
    >>> class Tokenizer:  # stands for a pretrained one
    ...     mask_token, mask_token_id, pad_token_id, all_special_ids = "[MASK]", 4, 0, [0, 1, 2, 3, 4]
    ...     def __len__(self):
    ...         return 30
    ...     def pad(self, rows, **settings):
    ...         from numtx.text.lengths import pad_encodings
    ...         return pad_encodings(rows, pad_token_id=0).to_arrays()
    >>> collator = DataCollatorForLanguageModeling(Tokenizer(), mlm_probability=0.5)
    >>> batch = collator([{"input_ids": [1, 11, 12, 13, 14, 2]}], rng=np.random.default_rng(2))
    >>> batch["input_ids"], batch["labels"]
    (array([[ 1, 11, 12,  4, 14,  2]]), array([[-100, -100, -100,   13, -100, -100]]))
    """

    draws: ClassVar[bool] = True  # whether a call takes `rng`

    tokenizer: Any
    mlm: bool = True
    whole_word_mask: bool = False
    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "np"
    seed: int | None = None
    generator: np.random.Generator | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        owner = type(self).__name__
        only_arrays(owner, self.return_tensors)
        for name in ("mlm_probability", "mask_replace_prob", "random_replace_prob"):
            share = getattr(self, name)
            if not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ValueError(f"{owner}: expected {name} in [0, 1], got {share!r}")
        if self.mask_replace_prob + self.random_replace_prob > 1:
            raise ValueError(
                f"{owner}: expected mask_replace_prob + random_replace_prob of at most 1, got "
                f"{self.mask_replace_prob} + {self.random_replace_prob}"
            )
        if self.mlm and getattr(self.tokenizer, "mask_token", None) is None:
            raise ValueError(
                f"{owner}: expected a tokenizer with a mask token, got {type(self.tokenizer).__name__} without "
                "(mlm=False trains a causal model)"
            )
        if self.whole_word_mask:
            if not self.mlm:
                raise ValueError(f"{owner}: expected mlm=True for whole_word_mask, got False")
            if self.mask_replace_prob < 1:
                warnings.warn(f"{owner}: with whole_word_mask, mask_replace_prob is 1", stacklevel=3)
                self.mask_replace_prob, self.random_replace_prob = 1.0, 0.0

    def __call__(
        self,
        features: Sequence[Any],
        return_tensors: str | None = None,
        rng: np.random.Generator | None = None,
    ) -> Batch:
        """Return ``input_ids`` and ``labels``, (B, T), with what else the features hold.

        Parameters
        ----------
        features : list of dict, or list of lists of ids
            A ``special_tokens_mask`` says which tokens are never chosen, else the tokenizer's special ones are not.
        return_tensors : {"np"}, optional
        rng : np.random.Generator, optional
            Draws the masks; default: the collator's own, of its `seed`.
        """
        owner = type(self).__name__
        only_arrays(owner, return_tensors or self.return_tensors)
        if isinstance(features, Sequence) and len(features) and not isinstance(features[0], Mapping):
            rows: list[dict[str, Any]] = [{"input_ids": ids} for ids in features]
            lengths = {len(ids) for ids in features}
            if len(lengths) == 1 and not (self.pad_to_multiple_of and lengths.pop() % self.pad_to_multiple_of):
                batch: Batch = {"input_ids": np.array(features, dtype=np.int64)}  # needs no padding token
            else:
                batch = {"input_ids": padded(self, rows)["input_ids"]}
            offsets = None
        else:
            rows = checked_features(owner, features)
            offsets = [row.pop("offset_mapping") for row in rows] if "offset_mapping" in rows[0] else None
            batch = padded(self, rows)
        special = batch.pop("special_tokens_mask", None)
        ids = batch["input_ids"]
        if self.mlm:
            batch["input_ids"], batch["labels"] = self._masked(ids, special, offsets, self._generator(rng))
        else:
            pad = self.tokenizer.pad_token_id
            batch["labels"] = ids.copy() if pad is None else np.where(ids == pad, IGNORED, ids)
        return batch

    def _generator(self, rng: np.random.Generator | None) -> np.random.Generator:
        if rng is not None:
            return rng
        if self.generator is None:
            if self.seed is None:
                raise ValueError(
                    f"{type(self).__name__}: expected a seed, or rng=np.random.default_rng(...) to draw from"
                )
            self.generator = np.random.default_rng(self.seed)
        return self.generator

    def _masked(
        self, ids: np.ndarray, special: np.ndarray | None, offsets: list[Any] | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        never = np.isin(ids, self.tokenizer.all_special_ids) if special is None else special.astype(bool)  # (B, T)
        if self.whole_word_mask:
            starts = self._word_starts(ids.shape, never, offsets)
            drawn = rng.binomial(1, np.where(starts, self.mlm_probability, 0.0)).astype(bool)
            word = np.maximum.accumulate(np.where(starts, np.arange(ids.shape[1]), 0), axis=1)  # where each began
            chosen = np.take_along_axis(drawn, word, axis=1) & ~never
        else:
            chosen = rng.binomial(1, np.where(never, 0.0, self.mlm_probability)).astype(bool)
        labels = np.where(chosen, ids, IGNORED)
        masked = chosen & rng.binomial(1, self.mask_replace_prob, size=ids.shape).astype(bool)
        ids = np.where(masked, self.tokenizer.mask_token_id, ids)
        if self.mask_replace_prob == 1 or self.random_replace_prob == 0:
            return ids, labels
        # Of those that are not masked: 0.1 / (1 - 0.8) = 0.5.
        share = self.random_replace_prob / (1 - self.mask_replace_prob)
        # A sum of 1 may round to a share above it.
        other = chosen & ~masked & rng.binomial(1, min(share, 1.0), size=ids.shape).astype(bool)
        ids[other] = rng.integers(len(self.tokenizer), size=np.count_nonzero(other))
        return ids, labels

    def _word_starts(self, shape: tuple[int, ...], never: np.ndarray, offsets: list[Any] | None) -> np.ndarray:
        """Where words start: behind a gap in the text, or behind a special token."""
        owner = type(self).__name__
        if offsets is None:
            raise ValueError(f"{owner}: expected offset_mapping in the features for whole_word_mask, got none")
        places = np.zeros((*shape, 2), dtype=np.int64)  # (B, T, 2)
        right = getattr(self.tokenizer, "padding_side", "right") == "right"
        for row, given in zip(places, offsets, strict=True):
            row[slice(0, len(given)) if right else slice(shape[1] - len(given), shape[1])] = given
        behind = np.pad(places[:, :-1, 1], ((0, 0), (1, 0)), constant_values=-1)
        after_special = np.pad(never[:, :-1], ((0, 0), (1, 0)))
        return ~never & ((places[:, :, 0] != behind) | after_special)
