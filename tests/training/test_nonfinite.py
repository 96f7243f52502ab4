"""NaN: training stops before the weights are touched, and says where it came from."""

import numpy as np
import pytest

from numtx import functional, nn
from numtx.training import AdamW, Callback, NonFiniteError, ShardedGradients, TrainingLoop, load_run
from numtx.training.nonfinite import first_nonfinite, first_nonfinite_evaluated


class Poison(Callback):
    """After a step, puts a value into a parameter."""

    def __init__(self, step, name, value):
        self.step, self.name, self.value = step, name, value

    def on_step(self, loop, report):
        if report.step == self.step:
            loop.model.get_parameter(self.name)[...] = self.value
            self.weights = loop.optimizer.flat.buffer.copy()


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        (
            "body.stack.layers.1.feed_forward.sublayer.up.weight",
            np.nan,
            "parameter body.stack.layers.1.feed_forward.sublayer.up",
        ),
        (
            "body.stack.layers.1.feed_forward.sublayer.up.weight",
            1e38,
            "of body.stack.layers.1.feed_forward.sublayer.up/linear",
        ),
    ],
)
def test_training_stops_with_the_weights_before(make_model, make_config, tokens, tmp_path, name, value, where):
    model = make_model()
    assert name in dict(model.named_parameters())
    poison = Poison(6, name, value)
    loop = TrainingLoop(model, tokens[:500], tokens[500:], make_config(), tmp_path / "run", callbacks=[poison])
    with pytest.raises(NonFiniteError, match="at step 7; the first not finite is") as error:
        loop.train()
    assert where in str(error.value)
    assert str(error.value).endswith("checkpoint-4'")
    assert "\n" not in str(error.value)
    np.testing.assert_array_equal(loop.optimizer.flat.buffer, poison.weights)
    assert loop.step == loop.optimizer.steps == 6
    saved = load_run(tmp_path / "run").model
    assert all(np.isfinite(array).all() for _, array in saved.named_parameters())
    resumed = TrainingLoop(make_model(), tokens[:500], tokens[500:], make_config(), tmp_path / "run")
    assert resumed.train(resume=True).step == 10


def test_a_gradient_alone_is_caught(make_model, make_config, tokens, monkeypatch):
    real = functional.gelu_tanh_backward

    def broken(dy, cache):
        dx = real(dy, cache)
        dx[0, 0, 0] = np.inf
        return dx

    monkeypatch.setattr(functional, "gelu_tanh_backward", broken)
    loop = TrainingLoop(make_model(), tokens, None, make_config())
    before = loop.optimizer.flat.buffer.copy()
    with pytest.raises(NonFiniteError, match=r"gradient norm (inf|nan) at step 1.*the gradient of .*/gelu_tanh"):
        loop.train()
    np.testing.assert_array_equal(loop.optimizer.flat.buffer, before)


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("body.stack.norm.weight", np.nan, "parameter body.stack.norm.weight"),
        (
            "body.stack.layers.1.feed_forward.sublayer.up.weight",
            1e38,
            "of body.stack.layers.1.feed_forward.sublayer.up/linear",
        ),
    ],
)
def test_an_evaluation_names_the_place_and_the_step(make_model, make_config, tokens, tmp_path, name, value, where):
    poison = Poison(4, name, value)  # evaluated after step 4, too
    loop = TrainingLoop(make_model(), tokens[:500], tokens[500:], make_config(), tmp_path / "run", callbacks=[poison])
    with pytest.raises(
        NonFiniteError, match=r"evaluation loss (nan|inf) after step 4; the first not finite is"
    ) as error:
        loop.train()
    assert where in str(error.value)
    assert str(error.value).endswith("checkpoint-0'")
    assert loop.log == []


def test_the_batch_that_was_not_finite_is_traced(make_model, tokens, monkeypatch):
    model = make_model()
    real = functional.gelu_tanh

    def broken(x):
        y, cache = real(x)
        return (y * np.inf if x.shape[1] == 8 else y), cache

    monkeypatch.setattr(functional, "gelu_tanh", broken)
    texts = [{"input_ids": tokens[None, :n], "shift_labels": tokens[None, 1 : n + 1]} for n in (4, 7, 8, 5)]
    assert (
        first_nonfinite_evaluated(model, texts) == "the output of body.stack.layers.0.feed_forward.sublayer/gelu_tanh"
    )


def test_a_loss_alone_is_called_the_loss(make_model, make_config, tokens, monkeypatch):
    model = make_model()
    monkeypatch.setattr(model, "loss", lambda batch, num_items=None: np.float32(np.nan), raising=False)
    with pytest.raises(NonFiniteError, match="evaluation loss nan after step 4; the first not finite is the loss"):
        TrainingLoop(model, tokens, tokens, make_config()).train()


@pytest.mark.parametrize(
    ("value", "where"), [(1e200, "the gradients' norm"), (1e308, "the sum of the gradients over the shards")]
)
def test_a_sum_of_finite_pieces_is_called_so(make_model, make_config, tokens, value, where):
    model = make_model(dtype=np.float64)
    grads = nn.unflatten({name: np.full(array.shape, value) for name, array in model.named_parameters()})
    model.loss_and_grads = lambda *_, **settings: (1.0, grads)
    with pytest.raises(
        NonFiniteError, match=f"loss 3.0 and gradient norm inf at step 1; the first not finite is {where}$"
    ):
        TrainingLoop(model, tokens, None, make_config()).train()


def test_it_is_a_value_error_and_a_floating_point_error():
    assert issubclass(NonFiniteError, ValueError)
    assert issubclass(NonFiniteError, FloatingPointError)


def test_dropout_is_drawn_again_as_it_was(make_model, monkeypatch, tokens):
    """A NaN that one dropout mask of one shard alone brings about is found again."""
    model = make_model(dropout=0.5)
    batch = {"input_ids": tokens[:40].reshape(5, 8), "shift_labels": tokens[1:41].reshape(5, 8)}
    sharded = ShardedGradients(AdamW(model).flat, 3, seed=1)
    masks = []
    real = functional.dropout

    def spy(x, p=0.5, rng=None):
        y, cache = real(x, p, rng)
        masks.append(np.array(y == 0).tobytes())
        return y, cache

    monkeypatch.setattr(functional, "dropout", spy)
    sharded(batch, 2)
    first, masks[:] = list(masks), []
    assert first_nonfinite(sharded, batch, 2) is None
    assert masks == first
    assert nn.flatten(model.loss_and_grads(batch)[1])  # the trace is gone again
