"""Evaluation covers every token once, without dropout, the same on any number of threads."""

import numpy as np
import pytest

from numtx.training import Workers, evaluate


def log_probabilities(model, ids):
    logits = model(ids[None, :-1]).logits[0].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize("length", [2, 8, 9, 10, 60])
def test_every_token_but_the_first_once(make_model, tokens, length):
    model, text = make_model(dropout=0.5, dtype=np.float64), tokens[:length]
    one_by_one = [log_probabilities(model, text[a : a + 9]) for a in range(0, length - 1, 8)]
    expected = -np.concatenate(one_by_one)
    assert expected.size == length - 1
    for batch in (1, 3, 100):
        found = evaluate(model, text, 8, batch=batch)
        assert found.loss == pytest.approx(expected.mean(), rel=1e-12)
        assert found.tokens == length - 1


def test_threads_change_no_bit(make_model, tokens):
    model = make_model()
    alone = evaluate(model, tokens, 8, batch=2)
    with Workers(3) as workers:
        assert evaluate(model, tokens, 8, batch=2, workers=workers) == alone


def test_batches_with_padding(make_model, tokens):
    model = make_model(dtype=np.float64)
    ids = tokens[:16].reshape(2, 8)
    labels = np.where([[True] * 8, [True] * 3 + [False] * 5], ids, -100)
    parts = [{"input_ids": ids[i : i + 1], "labels": labels[i : i + 1]} for i in range(2)]
    found = evaluate(model, parts)
    assert found.tokens == 7 + 2
    assert found.loss == pytest.approx(model.loss({"input_ids": ids, "labels": labels}), rel=1e-12)


def test_nothing_to_evaluate(make_model, tokens):
    with pytest.raises(ValueError, match="evaluate: expected a context"):
        evaluate(make_model(), tokens)
    with pytest.raises(ValueError, match="at least one label"):
        evaluate(make_model(), [])
    with pytest.raises(ValueError, match="expected at least 2 tokens"):
        evaluate(make_model(), tokens[:1], 8)
