"""NaN: training stops before the weights are touched, and says where it came from."""

import numpy as np
import pytest

from numtx import functional, nn
from numtx.training import AdamW, Callback, NonFiniteError, ShardedGradients, Trainer, load_run
from numtx.training.nonfinite import first_nonfinite


class Poison(Callback):
    """After a step, puts a value into a parameter."""

    def __init__(self, step, name, value):
        self.step, self.name, self.value = step, name, value

    def on_step(self, trainer, report):
        if report.step == self.step:
            trainer.model.get_parameter(self.name)[...] = self.value
            self.weights = trainer.optimizer.flat.buffer.copy()


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("stack.layers.1.feed_forward.sublayer.up.weight", np.nan, "parameter stack.layers.1.feed_forward.sublayer.up"),
        ("stack.layers.1.feed_forward.sublayer.up.weight", 1e38, "of stack.layers.1.feed_forward.sublayer.up/linear"),
    ],
)
def test_training_stops_with_the_weights_before(make_model, make_config, tokens, tmp_path, name, value, where):
    model = make_model()
    assert name in dict(model.named_parameters())
    poison = Poison(6, name, value)
    trainer = Trainer(model, tokens[:500], tokens[500:], make_config(), tmp_path / "run", callbacks=[poison])
    with pytest.raises(NonFiniteError, match="at step 7, of which the first not finite is") as error:
        trainer.train()
    assert where in str(error.value)
    assert str(error.value).endswith("checkpoint-4'")
    assert "\n" not in str(error.value)
    np.testing.assert_array_equal(trainer.optimizer.flat.buffer, poison.weights)
    assert trainer.step == trainer.optimizer.steps == 6
    saved = load_run(tmp_path / "run").model
    assert all(np.isfinite(array).all() for _, array in saved.named_parameters())
    resumed = Trainer(make_model(), tokens[:500], tokens[500:], make_config(), tmp_path / "run")
    assert resumed.train(resume=True).step == 10


def test_a_gradient_alone_is_caught(make_model, make_config, tokens, monkeypatch):
    real = functional.gelu_tanh_backward

    def broken(dy, cache):
        dx = real(dy, cache)
        dx[0, 0, 0] = np.inf
        return dx

    monkeypatch.setattr(functional, "gelu_tanh_backward", broken)
    trainer = Trainer(make_model(), tokens, None, make_config())
    before = trainer.optimizer.flat.buffer.copy()
    with pytest.raises(NonFiniteError, match=r"gradient norm (inf|nan) at step 1.*the gradient of .*/gelu_tanh"):
        trainer.train()
    np.testing.assert_array_equal(trainer.optimizer.flat.buffer, before)


def test_an_evaluation_alone_is_caught(make_model, make_config, tokens, monkeypatch):
    model = make_model()
    monkeypatch.setattr(model, "loss", lambda batch, num_items=None: np.float32(np.nan), raising=False)
    with pytest.raises(NonFiniteError, match="evaluation loss nan"):
        Trainer(model, tokens, tokens, make_config()).train()


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
