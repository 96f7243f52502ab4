"""A GPT-2 small enough to train in a test, and a text for it."""

import numpy as np
import pytest

from numtx.models.gpt2 import GPT2Config, GPT2LMHeadModel
from numtx.text import CharTokenizer
from numtx.training import TrainingConfig

TEXT = "the cat sat on the mat. a dog ran to the cat; it sat and ran. " * 12


@pytest.fixture(scope="session")
def tokenizer():
    return CharTokenizer.from_text(TEXT)


@pytest.fixture(scope="session")
def tokens(tokenizer):
    return tokenizer.encode(TEXT)


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """`make_model(dropout=0.0, dtype=np.float32)`: always the same weights."""

    def make(dropout=0.0, dtype=np.float32):
        config = GPT2Config(
            vocab_size=tokenizer.vocab_size,
            n_positions=16,
            n_embd=16,
            n_layer=2,
            n_head=2,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
        )
        return GPT2LMHeadModel(config, rng=5, dtype=dtype)

    return make


@pytest.fixture(scope="session")
def make_config():
    """`make_config(**changes)`: ten short steps in three shards."""

    def make(**changes):
        settings = {
            "steps": 10,
            "batch": 5,
            "context": 8,
            "lr": 1e-2,
            "min_lr": 1e-3,
            "warmup": 2,
            "seed": 3,
            "shards": 3,
            "threads": 1,
            "eval_every": 4,
        }
        return TrainingConfig(**{**settings, **changes})

    return make


@pytest.fixture
def worth_threads(monkeypatch):
    """Share even the smallest arrays between threads."""
    monkeypatch.setattr("numtx.training.threads.WORTH", 1)
