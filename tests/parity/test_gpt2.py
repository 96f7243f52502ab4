"""GPT-2 beside Transformers': logits, loss, every gradient, padding, decoding, and files in both directions."""

import numpy as np
import pytest

from numtx import nn
from numtx.models.gpt2 import GPT2Config, GPT2LMHeadModel

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
from their_version import CACHE  # noqa: E402

SMALL = {
    "vocab_size": 17, "n_positions": 12, "n_embd": 12, "n_layer": 2, "n_head": 3,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
VARIANTS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "inner": {"n_inner": 7, "n_layer": 3, "layer_norm_epsilon": 1e-3},
    "exact gelu": {"activation_function": "gelu", "n_head": 1},
    "relu": {"activation_function": "relu", "n_layer": 1, "tie_word_embeddings": False},
}


def theirs_and_ours(folder, scale=0.4, seed=0, dtype=np.float64, **settings):
    """A random model of Transformers, and ours opened from the files it wrote."""
    rng = np.random.default_rng(seed)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL | settings)).to(torch.float64).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            # Norm weights that are not ones, biases that are not zeros.
            mean = 0.7 if ".ln_" in name and name.endswith("weight") else 0.0
            parameter.copy_(torch.from_numpy(mean + scale * rng.standard_normal(parameter.shape)))
    theirs.save_pretrained(folder)
    return theirs, GPT2LMHeadModel.from_pretrained(folder, dtype=dtype)


def draw_batch(seed=1, shape=(3, 9)):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, SMALL["vocab_size"], shape)
    labels = ids.copy()
    labels[rng.random(shape) < 0.25] = -100
    return ids, labels


def tensors(inputs):
    return {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}


def run_theirs(model, inputs, labels, num_items=None):
    """Logits, loss and gradients under Transformers' names."""
    logits = model(**tensors(inputs)).logits
    # The loss from float64 logits: the model's own rounds them to float32 (compared apart, below).
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), torch.from_numpy(labels[:, 1:].flatten()), reduction="sum"
    ) / (num_items or int((labels[:, 1:] != -100).sum()))
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    values = {"logits": logits.detach().numpy(), "loss": loss.detach().numpy()}
    return values, {name: g.numpy() for name, g in zip(parameters, gradients, strict=True)}


def run_ours(model, inputs, labels, **settings):
    """The same of ours. Gradients go where weights go: into a model, and out under the names of its files."""
    loss, grads = model.loss_and_grads({**inputs, "labels": labels}, **settings)
    twin = GPT2LMHeadModel(model.config, dtype=np.float64)
    twin.load_state_dict(nn.flatten(grads))
    return {"logits": model(**inputs).logits, "loss": loss}, twin.to_checkpoint()


def in_order(gradients, like):
    assert sorted(gradients) == sorted(like), "the same names, none missing"
    return {name: gradients[name] for name in like}


@pytest.mark.parametrize("scale", [0.02, 0.4, 1.0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_loss_and_every_gradient(variant, scale, tmp_path, agree):
    theirs, ours = theirs_and_ours(tmp_path, scale, **VARIANTS[variant])
    ids, labels = draw_batch()
    expected = run_theirs(theirs, {"input_ids": ids}, labels)
    for keep in ("all", "inputs"):
        values, gradients = run_ours(ours, {"input_ids": ids}, labels, keep=keep)
        agree(f"{variant} {scale} {keep}", (values, in_order(gradients, expected[1])), expected)
    loss = ours.loss({"input_ids": ids, "labels": labels})
    own = theirs(torch.from_numpy(ids), labels=torch.from_numpy(labels)).loss.item()
    assert loss == pytest.approx(float(expected[0]["loss"]), rel=1e-12)
    assert loss == pytest.approx(own, rel=1e-6)  # theirs, from logits rounded to float32


def test_labels_that_are_shifted_already(tmp_path, agree):
    theirs, ours = theirs_and_ours(tmp_path)
    ids, labels = draw_batch()
    expected = run_theirs(theirs, {"input_ids": ids}, labels)
    shifted = np.concatenate([labels[:, 1:], np.full((len(labels), 1), -100)], axis=1)
    loss, grads = ours.loss_and_grads({"input_ids": ids, "shift_labels": shifted})
    assert loss == pytest.approx(float(expected[0]["loss"]), rel=1e-12)
    other, others = ours.loss_and_grads({"input_ids": ids, "labels": labels})
    assert loss == pytest.approx(other, rel=1e-14)
    agree("shifted", ({}, nn.flatten(grads)), ({}, nn.flatten(others)))


def test_shards_that_divide_by_the_count_of_the_whole(tmp_path, agree):
    theirs, ours = theirs_and_ours(tmp_path)
    ids, labels = draw_batch()
    labels[0] = -100  # nothing to predict in the first shard
    whole = run_theirs(theirs, {"input_ids": ids}, labels)
    count = int((labels[:, 1:] != -100).sum())
    parts = [run_ours(ours, {"input_ids": ids[i : i + 1]}, labels[i : i + 1], num_items=count) for i in range(3)]
    total = {name: sum(part[1][name] for part in parts) for name in whole[1]}
    agree("sum of shards", ({"loss": np.sum([part[0]["loss"] for part in parts])}, total), _only_loss(whole))
    part = theirs(
        torch.from_numpy(ids[1:2]), labels=torch.from_numpy(labels[1:2]), num_items_in_batch=torch.tensor(count)
    )
    assert parts[1][0]["loss"] == pytest.approx(part.loss.item(), rel=1e-6)


def _only_loss(outcome):
    return {"loss": outcome[0]["loss"]}, outcome[1]


PADDING = {
    "left": [[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 0]],
    "both": [[0, 0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0, 0]],
}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", PADDING)
def test_padding(padding, implementation, tmp_path, agree):
    theirs, ours = theirs_and_ours(tmp_path, attn_implementation=implementation)
    mask = np.array(PADDING[padding])
    ids, labels = draw_batch(shape=mask.shape)
    # Transformers lets a row that may attend to nothing attend to everything; only real tokens may be compared, so
    # the first real token, which a padded position would predict, is no label either.
    real = mask == 1
    labels[~real] = -100
    labels[np.arange(len(mask)), mask.argmax(axis=1)] = -100
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    expected, gradients = run_theirs(theirs, inputs, labels)
    expected["logits"] = expected["logits"][real]
    for keep in ("all", "inputs"):
        values, ours_gradients = run_ours(ours, inputs, labels, keep=keep)
        values["logits"] = values["logits"][real]
        agree(f"{padding} {keep}", (values, in_order(ours_gradients, gradients)), (expected, gradients))


def test_float32_misses_by_as_much_as_transformers(tmp_path):
    theirs, ours = theirs_and_ours(tmp_path, dtype=np.float32)
    ids, labels = draw_batch()
    exact = run_theirs(theirs, {"input_ids": ids}, labels)
    # The files hold float64; both round the same weights.
    single = run_theirs(theirs.to(torch.float32), {"input_ids": ids}, labels)
    loss, grads = ours.loss_and_grads({"input_ids": ids, "labels": labels})
    twin = GPT2LMHeadModel(ours.config).astype(np.float32)
    twin.load_state_dict(nn.flatten(grads))
    got = {"logits": ours(ids).logits, "loss": loss, **twin.to_checkpoint()}
    largest = max(np.abs(gradient).max() for gradient in exact[1].values())
    for name, reference in (exact[0] | exact[1]).items():
        assert got[name].dtype == np.float32
        # RMS of their error; for a gradient at least a last bit of the model's largest (a key bias has gradient zero).
        noise = np.sqrt(np.mean(((single[0] | single[1])[name] - reference) ** 2))
        noise = max(
            noise, np.spacing(np.float32(largest)) if name in exact[1] else np.spacing(np.float32(reference)).max()
        )
        assert np.max(np.abs(got[name] - reference)) <= 32 * noise, name


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_opens_what_numtx_saved(variant, dtype, tmp_path):
    config = GPT2Config(**SMALL | VARIANTS[variant])
    ours = GPT2LMHeadModel(config, rng=3, dtype=dtype)
    rng = np.random.default_rng(4)
    for _, array in ours.named_parameters():
        array += 0.3 * rng.standard_normal(array.shape).astype(dtype)
    ours.save_pretrained(tmp_path / "saved")
    # Transformers 4 takes PyTorch's default dtype if it is not asked for the file's.
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "saved", output_loading_info=True, dtype="auto"
    )
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.dtype == (torch.float64 if dtype is np.float64 else torch.float32)
    ids, _ = draw_batch()
    tolerance = 1e-10 if dtype is np.float64 else 1e-4
    np.testing.assert_allclose(ours(ids).logits, theirs(torch.from_numpy(ids)).logits.detach().numpy(), atol=tolerance)
    auto = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(auto) is transformers.GPT2LMHeadModel


@pytest.mark.parametrize("variant", VARIANTS)
def test_numtx_opens_what_transformers_saved_and_saves_it_back(variant, tmp_path):
    theirs, ours = theirs_and_ours(tmp_path, **VARIANTS[variant])
    state = {name: parameter.detach().numpy() for name, parameter in theirs.named_parameters()}
    saved = ours.to_checkpoint()
    assert sorted(saved) == sorted(state)
    for name, array in state.items():
        np.testing.assert_array_equal(saved[name], array)  # bit for bit
    ours.save_pretrained(tmp_path / "again")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "again")
    for name, parameter in again.named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy(), state[name])
    for name in GPT2Config(**SMALL).to_dict():
        assert getattr(again.config, name) == getattr(theirs.config, name), name


def test_checkpoint_without_the_prefix_and_with_mask_buffers(tmp_path):
    # As the first GPT-2 files have it: no "transformer.", and the triangle of ones stored as a weight.
    from safetensors.numpy import load_file, save_file

    _, ours = theirs_and_ours(tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    arrays = {name.removeprefix("transformer."): array for name, array in arrays.items()}
    arrays |= {f"h.{i}.attn.bias": np.tri(12)[None, None].astype(np.float32) for i in range(2)}
    save_file(arrays, tmp_path / "model.safetensors")
    old = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=np.float64)
    ids, _ = draw_batch()
    np.testing.assert_array_equal(old(ids).logits, ours(ids).logits)


# --- decoding --------------------------------------------------------------------------------------------------------


def test_cached_decoding_gives_their_logits(tmp_path):
    theirs, ours = theirs_and_ours(tmp_path)
    ids, _ = draw_batch(shape=(2, 9))
    kv_cache = [nn.KVCache() for _ in range(ours.config.n_layer)]
    past = transformers.DynamicCache(config=theirs.config)
    with torch.no_grad():
        for start, end in ((0, 4), (4, 5), (5, 8), (8, 9)):
            got = ours(ids[:, start:end], kv_cache=kv_cache).logits
            expected = theirs(torch.from_numpy(ids[:, start:end]), **{CACHE: past}, use_cache=True).logits
            np.testing.assert_allclose(got, expected.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_generation_token_by_token(variant, tmp_path):
    theirs, ours = theirs_and_ours(tmp_path, **VARIANTS[variant])
    for seed in range(5):
        prompt, _ = draw_batch(seed, shape=(2, 3))
        expected = theirs.generate(
            torch.from_numpy(prompt), attention_mask=torch.ones(2, 3, dtype=torch.long), max_new_tokens=9,
            do_sample=False, pad_token_id=0,
        ).numpy()  # fmt: skip
        assert len(np.unique(expected[:, 3:])) > 1, "a model that repeats one token shows nothing"
        np.testing.assert_array_equal(ours.generate(prompt, max_new_tokens=9, do_sample=False), expected)


def test_generation_ends_where_theirs_ends(tmp_path):
    ended = 0
    for end in range(SMALL["vocab_size"]):
        theirs, ours = theirs_and_ours(tmp_path, eos_token_id=end)
        prompt, _ = draw_batch(end, shape=(1, 3))
        expected = theirs.generate(
            torch.from_numpy(prompt), attention_mask=torch.ones(1, 3, dtype=torch.long), max_new_tokens=9,
            do_sample=False, pad_token_id=0,
        ).numpy()  # fmt: skip
        ended += expected.shape[1] < 12
        np.testing.assert_array_equal(ours.generate(prompt, max_new_tokens=9, do_sample=False), expected)
    assert ended, "some end before the last step"
