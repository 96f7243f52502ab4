"""Small ready-made transformers, a batch for each, and how to make and call them."""

import numpy as np

from numtx.models import DecoderOnlyTransformer, EncoderDecoderTransformer, EncoderOnlyTransformer

SIZES = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, "max_length": 9, "dropout": 0.0}
KINDS = {
    "encoder": (EncoderOnlyTransformer, {"vocab_size": 7, "num_classes": 3, "pad_token_id": 0}),
    "decoder": (DecoderOnlyTransformer, {"vocab_size": 7}),
    "both": (EncoderDecoderTransformer, {"src_vocab_size": 7, "tgt_vocab_size": 6}),
}
IDS = np.array([[3, 4, 1, 2, 0], [5, 1, 0, 0, 0], [2, 2, 6, 1, 5]])
BATCHES = {
    "encoder": {"input_ids": IDS, "shift_labels": np.array([2, 0, 1])},
    "decoder": {"input_ids": IDS, "shift_labels": np.where(IDS == 0, -100, IDS)},
    "both": {"input_ids": IDS, "shift_labels": np.array([[3, 4, 5, 2], [5, 2, -100, -100], [3, 3, 2, -100]])},
}


def make(kind, randomized=None, dtype=np.float64, **settings):
    cls, own = KINDS[kind]
    model = cls(**{**SIZES, **own, **settings}, rng=0, dtype=dtype)
    return model if randomized is None else randomized(model)


def called(model, kind, **changed):
    """The log-probabilities of the call."""
    inputs = {"input_ids": IDS, **({"labels": BATCHES["both"]["shift_labels"]} if kind == "both" else {}), **changed}
    return model(**inputs).log_probs
