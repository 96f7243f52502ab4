"""The ready-made transformers that write: with caches, masks and positions, and without."""

from contextlib import contextmanager

import numpy as np
import pytest
from ready_made_models import IDS, make

from numtx import nn

# --- going on after a prompt -----------------------------------------------------------------------------------------


def test_decoder_writes_what_is_likeliest_after_a_full_reading(randomized):
    model = make("decoder", randomized)
    written = model.generate(IDS[:, :2], max_new_tokens=12)  # longer than the context: the window slides
    assert written.shape == (3, 14)
    for t in range(2, 14):
        read = written[:, max(0, t - 9) : t]
        np.testing.assert_array_equal(model(read).log_probs[:, -1].argmax(axis=-1), written[:, t])
    streamed = np.stack(list(model.stream(IDS[:, :2], max_new_tokens=12)), axis=1)
    np.testing.assert_array_equal(streamed, written[:, 2:])


def test_a_cache_of_several_tokens_at_a_time(randomized):
    model = make("decoder", randomized)
    kv_cache = [nn.KVCache() for _ in range(2)]
    steps = [model(IDS[:, a:b], kv_cache=kv_cache).log_probs for a, b in ((0, 2), (2, 3), (3, 5))]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), model(IDS).log_probs, rtol=1e-12, atol=1e-13)
    _, cache = model.forward(IDS[:, :1], kv_cache=kv_cache)
    with pytest.raises(ValueError, match=r"^DecoderOnlyTransformer: backward after a forward with keep=None or a kv_"):
        model.backward({}, cache)


LEFT = np.array([[0, 0, 3, 4, 1], [5, 1, 2, 6, 3], [0, 2, 2, 6, 1]])
REAL = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
PLACES = np.maximum(REAL.cumsum(axis=1) - 1, 0)
PIECES = ((0, 2), (2, 3), (3, 5))


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_left_padding_with_a_cache(positions, randomized):
    """Mask and positions count with a cache as without, and a padded row gives what it gives alone."""
    model = randomized(make("decoder", positions=positions), scale=1.0)
    full = model(LEFT, REAL, PLACES).log_probs
    kv_cache = [nn.KVCache() for _ in range(2)]
    steps = [model(LEFT[:, a:b], REAL[:, :b], PLACES[:, a:b], kv_cache=kv_cache).log_probs for a, b in PIECES]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), full, rtol=1e-12, atol=1e-13)
    for row, start in ((0, 2), (2, 1)):
        alone = model(LEFT[row : row + 1, start:]).log_probs[0]
        np.testing.assert_allclose(full[row, start:], alone, rtol=1e-12, atol=1e-13)
    assert not np.allclose(model(LEFT, None, PLACES).log_probs[0, 2:], full[0, 2:]), "the mask counts"
    assert not np.allclose(model(LEFT, REAL).log_probs[0, 2:], full[0, 2:]), "the positions count"


# --- from a source ---------------------------------------------------------------------------------------------------


@contextmanager
def recorded(model):
    """A list of the log-probabilities by which each token is chosen, (B, V)."""
    seen, decode = [], model.decode

    def recording(*inputs, **settings):
        output = decode(*inputs, **settings)
        seen.append(output.log_probs[:, -1])
        return output

    vars(model)["decode"] = recording
    yield seen
    del vars(model)["decode"]


def test_translator_writes_from_nothing_to_an_end(randomized):
    model = make("both", randomized)
    written = model.generate(IDS, eos_token_id=())
    assert written.shape == (3, 9), "max_length, where nothing ends it"
    for t in range(1, 10):  # what it writes is what it finds likeliest when it is taught what it wrote
        taught = model(IDS, written[:, :t]).log_probs[:, -1]
        np.testing.assert_array_equal(taught.argmax(axis=-1), written[:, t - 1])
    end = int(written[0, 1])
    ended = model.generate(IDS, eos_token_id=end)
    for row, whole in zip(ended, written, strict=True):
        where = np.flatnonzero(whole == end)
        length = where[0] + 1 if where.size else len(row)
        np.testing.assert_array_equal(row[:length], whole[:length])
        assert not row[length:].any(), "padding after the end"
    few = model.generate(IDS, max_new_tokens=2, do_sample=True, seed=1, eos_token_id=())
    assert few.shape == (3, 2)
    np.testing.assert_array_equal(few, model.generate(IDS, max_new_tokens=2, do_sample=True, seed=1, eos_token_id=()))


@pytest.mark.parametrize("seed", range(3))
def test_translator_masks_padding_while_it_writes(seed, randomized):
    """By the log-probabilities at every step: which token is likeliest hardly moves."""
    model = randomized(make("both"), seed)
    with recorded(model) as seen:
        written = model.generate(IDS, eos_token_id=())
    batch = np.stack(seen, axis=1)  # (B, T, V)
    for row, length in enumerate((4, 2, 5)):
        alone = model(IDS[row : row + 1, :length], written[row : row + 1]).log_probs
        np.testing.assert_allclose(batch[row], alone[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_translator_is_given_a_mask_that_its_ids_do_not_imply(seed, randomized):
    """A token hidden in the middle, and a padding id that is shown."""
    model = randomized(make("both"), seed)
    mask = np.array([[1, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]])
    with recorded(model) as seen:
        written = model.generate(IDS, mask, eos_token_id=())
    taught = model(IDS, written, mask).log_probs
    np.testing.assert_allclose(np.stack(seen, axis=1), taught, rtol=1e-12, atol=1e-12)
    assert not np.allclose(taught, model(IDS, written).log_probs)
    with recorded(model) as again:
        streamed = np.stack(list(model.stream(IDS, mask, eos_token_id=())), axis=1)
    np.testing.assert_array_equal(streamed, written)
    np.testing.assert_array_equal(again, seen)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_settings_of_writing_that_are_refused():
    model = make("both")
    with pytest.raises(ValueError, match=r"generate: expected max_new_tokens of at most max_length = 9, got 10"):
        model.generate(IDS, max_new_tokens=10)
    with pytest.raises(ValueError, match=r"^EncoderDecoderTransformer.generate: expected the settings .*, got beams"):
        model.generate(IDS, beams=2)
    with pytest.raises(ValueError, match="max_new_tokens as a whole number of at least 1, got 0"):
        model.generate(IDS, max_new_tokens=0)
