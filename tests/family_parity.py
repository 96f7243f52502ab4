"""A family beside Transformers: a small random model that it makes, opened by numtx and compared in all that it gives.

    theirs = random_model(transformers.BertForMaskedLM, transformers.BertConfig(**SMALL))
    check_family(numtx.models.BertForMaskedLM, theirs, {"input_ids": ids, "labels": labels}, tmp_path)

A batch is a dict of NumPy arrays, by the names that both take. Runs on Transformers 4.57 and 5.
"""

import copy
from contextlib import contextmanager

import numpy as np
import torch
from planted_dropout import planted_in_numtx, planted_in_torch, replaced
from their_version import CACHE_FIELDS

from numtx import nn
from numtx.checkpoints import load_arrays

VALUES, GRADIENTS, SINGLE = 1e-10, 1e-9, 1e-5  # relative, relative, and absolute in float32
NOT_OURS = CACHE_FIELDS  # fields of theirs that serve decoding alone
LABELS = ("labels", "shift_labels", "start_positions", "end_positions")

PADDINGS = {  # masks of (3, 7): every batch has a row without padding
    "none": None,
    "right": np.array([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 0]]),
    "left": np.array([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]]),
    "both": np.array([[0, 0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0, 0]]),
}


def random_model(kind, config, *, std=0.3, seed=0):
    """A float64 model of Transformers whose trained weights, biases and norms included, are drawn anew.

    The numbers are those of float32, so that a float32 model has the same weights. What is not trained, such as a table
    of sines, stays as it is; of the buffers the bias of final logits is drawn.
    """
    config._attn_implementation = "eager"  # which can show its weights
    rng = np.random.default_rng(seed)
    model = kind(config).double().eval()
    with torch.no_grad():
        drawn = [(name, array) for name, array in model.named_parameters() if array.requires_grad]
        drawn += [(name, array) for name, array in model.named_buffers() if name.endswith("final_logits_bias")]
        for name, array in drawn:
            mean = 1.0 if array.ndim == 1 and name.endswith("weight") else 0.0  # that of a norm
            numbers = mean + std * rng.standard_normal(array.shape)
            array.copy_(torch.from_numpy(numbers.astype(np.float32).astype(np.float64)))
    return model


def draw_batch(vocab_size, *, padding="none", shape=(3, 7), pad=0, first=0, seed=1):
    """Ids from `first` on, `pad` and a mask where one of `PADDINGS` has padding."""
    ids = np.random.default_rng(seed).integers(first, vocab_size, shape)
    mask = PADDINGS[padding]
    if mask is None:
        return {"input_ids": ids}
    return {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask}


def draw_labels(batch, classes, *, ignored=0.3, seed=2):
    """Labels (B, T); -100 on padding and on a part of the rest."""
    rng = np.random.default_rng(seed)
    shape = batch["input_ids"].shape
    real = batch.get("attention_mask", np.ones(shape)) == 1
    return np.where(real & (rng.random(shape) >= ignored), rng.integers(0, classes, shape), -100)


def with_labels(head, batch, vocab_size, classes=3, seed=5):
    """The batch with what a head, by the end of its class's name, is trained on; without a head as it is."""
    rng = np.random.default_rng(seed)
    rows, length = batch["input_ids"].shape
    if head in ("ForMaskedLM", "ForTokenClassification"):
        return batch | {"labels": draw_labels(batch, vocab_size if head == "ForMaskedLM" else classes)}
    if head == "ForSequenceClassification":
        return batch | {"labels": rng.integers(0, classes, rows)}
    if head == "ForQuestionAnswering":  # one answer was cut off
        ends = rng.integers(0, length, rows)
        ends[-1] = length + 4
        return batch | {"start_positions": rng.integers(0, length, rows), "end_positions": ends}
    return batch


def check_family(kind, theirs, batch, folder, *, unused=()):
    """Everything: outputs in both precisions, loss, every gradient, files in both directions. Returns ours.

    `unused` are the names of weights that a file holds and Transformers does not compute with.
    """
    theirs.save_pretrained(folder / "theirs")
    ours = kind.from_pretrained(folder / "theirs", dtype=np.float64)
    compare_outputs(ours, theirs, batch)
    compare_gradients(ours, theirs, batch)
    single = kind.from_pretrained(folder / "theirs", dtype=np.float32)
    compare_outputs(single, theirs, batch)
    check_saving(ours, theirs, batch, folder, unused=unused)
    return ours


# --- values ----------------------------------------------------------------------------------------------------------


@contextmanager
def in_double():
    """Transformers computes some parts in float32 whatever the model's dtype; for the time of a `with`, in float64."""
    with (
        replaced(torch, float32=torch.float64, float=torch.float64),
        replaced(torch.Tensor, float=torch.Tensor.double),
    ):
        yield


@contextmanager
def in_single():
    """PyTorch's factories make float32 for a moment; the parity tests have float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tensors(batch, dtype=torch.float64):
    """A batch for PyTorch."""
    made = {name: torch.from_numpy(np.array(array)) for name, array in batch.items()}
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in made.items()}


def run_theirs(theirs, batch, dtype=np.float64, **settings):
    """What Transformers gives for a batch, in one precision; its fields are tensors."""
    if dtype == np.float64:
        with in_double():
            return theirs(**tensors(batch), **settings, return_dict=True)
    with in_single():
        return copy.deepcopy(theirs).float()(**tensors(batch, torch.float32), **settings, return_dict=True)


def compare_outputs(ours, theirs, batch):
    """All fields, hidden states and attentions included, in the dtype of ours; where there is padding, real rows."""
    asked = {"output_hidden_states": True, "output_attentions": True}
    single = ours.dtype == np.float32
    with torch.no_grad():
        expected = run_theirs(theirs.eval(), batch, ours.dtype, **asked)
    got = ours(**batch, **asked)
    fields = [name for name in expected if name not in NOT_OURS and expected[name] != ()]
    assert list(got.keys()) == fields, f"{list(got.keys())} beside {fields}"
    decodes = "encoder_last_hidden_state" in fields or "encoder_hidden_states" in fields
    for field in fields:
        mine, reference = got[field], expected[field]
        several = isinstance(reference, tuple)
        pairs = zip(mine, reference, strict=True) if several else [(mine, reference)]
        for i, (one, other) in enumerate(pairs):
            one, other = np.asarray(one), other.detach().numpy()
            where = f"{field}[{i}]" if several else field
            assert one.dtype == ours.dtype, f"{where} is {one.dtype}"
            assert one.shape == other.shape, f"{where}: {one.shape} beside {other.shape}"
            one, other = (real_rows(field, x, batch, decodes) for x in (one, other))
            if single:
                error, allowed = np.max(np.abs(one - other)), SINGLE
            else:
                error, allowed = np.linalg.norm(one - other), VALUES * np.linalg.norm(other)
            assert error <= allowed, f"{where}: error {error:.2e}, allowed {allowed:.2e}"
    plain = ours(**batch)
    assert list(plain.keys()) == [name for name in fields if not name.endswith(("hidden_states", "attentions"))]
    for field in plain:
        agreed = np.max(np.abs(np.asarray(plain[field]) - np.asarray(got[field])))
        assert agreed <= (SINGLE if single else 1e-12), f"{field} depends on what else is asked for by {agreed:.2e}"


def real_rows(field, array, batch, decodes):
    """What stands at real tokens, of a field that has tokens."""
    of_decoder = decodes and not field.startswith("encoder")
    mask = batch.get("decoder_attention_mask" if of_decoder else "attention_mask")
    if mask is None:
        return array
    if field.endswith("attentions"):  # (B, H, Tq, Tk)
        return array.swapaxes(1, 2)[np.asarray(mask) == 1]
    by_token = field.endswith(("hidden_states", "hidden_state", "_logits")) or (field == "logits" and array.ndim == 3)
    return array[np.asarray(mask) == 1] if by_token else array


# --- gradients -------------------------------------------------------------------------------------------------------


def gradients_of_theirs(theirs, batch, directions=None):
    """(value, {names of a trained parameter: gradient}) of the loss, or of the outputs along `directions`."""
    theirs.zero_grad()
    outputs = run_theirs(theirs, batch)
    if directions is None:
        value = outputs.loss
    else:
        value = sum((outputs[name] * torch.from_numpy(d)).sum() for name, d in directions.items())
    value.backward()
    names: dict[int, list[str]] = {}
    for name, parameter in theirs.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(id(parameter), []).append(name)
    by_id = {id(parameter): parameter for parameter in theirs.parameters()}
    gradients = {tuple(names[one]): by_id[one].grad for one in names}
    return value.detach().numpy(), {
        alias: None if gradient is None else gradient.numpy().copy() for alias, gradient in gradients.items()
    }


def gradients_of_ours(ours, batch, directions=None, rng=None, keep="all"):
    """The same of ours, by the names of its files."""
    if directions is None:
        loss, grads = ours.loss_and_grads(batch, rng=rng, keep=keep)
        return loss, ours.to_checkpoint(grads)
    outputs, cache = ours.forward(**batch, rng=rng, keep=keep)
    value = np.sum([np.sum(outputs[name] * d) for name, d in directions.items()])
    return value, ours.to_checkpoint(ours.backward(directions, cache)[1])


def draw_directions(theirs, batch, seed=3):
    """A gradient for each output of a model without a loss, zero at padding; None where there are labels."""
    if any(name in batch for name in LABELS):
        return None
    with torch.no_grad():
        outputs = run_theirs(theirs.eval(), batch)
    rng = np.random.default_rng(seed)
    directions = {}
    for field in outputs:
        if field in NOT_OURS:
            continue
        shape = tuple(outputs[field].shape)
        real = np.zeros(shape)
        decodes = "encoder_last_hidden_state" in outputs
        of_decoder = decodes and not field.startswith("encoder")
        mask = batch.get("decoder_attention_mask" if of_decoder else "attention_mask")
        real[...] = 1 if mask is None or len(shape) < 3 else np.asarray(mask)[:, :, None]
        directions[field] = rng.standard_normal(shape) * real
    return directions


def compare_gradients(ours, theirs, batch):
    """The loss and every parameter's gradient, by the names of the file; without labels, along a random direction."""
    directions = draw_directions(theirs, batch)
    expected = gradients_of_theirs(theirs.eval(), batch, directions)
    first = None
    for keep in ("all", "inputs"):
        got = gradients_of_ours(ours, batch, directions, keep=keep)
        agree(f"keep={keep}", got, expected)
        first = first or got[1]
        assert all(np.array_equal(first[name], got[1][name]) for name in first), "keep changes a gradient"
    if directions is None:
        assert ours.loss(batch) == got[0]
        assert abs(ours(**batch).loss - got[0]) <= 1e-12 * abs(got[0])


def compare_dropout(ours, theirs, batch, draws=None):
    """Under planted masks: the same places, rates, shapes and order of dropout, and the same loss and gradients."""
    directions = draw_directions(theirs, batch)
    with planted_in_torch() as expected:
        wanted = gradients_of_theirs(theirs.train(), batch, directions)
    theirs.eval()
    with planted_in_numtx() as got:
        found = gradients_of_ours(ours, batch, directions, rng=np.random.default_rng(0))
    assert got.drawn == expected.drawn
    assert draws in (None, len(got.drawn)), f"{len(got.drawn)} places"
    agree("dropout", found, wanted)


def agree(where, ours, theirs):
    """Values and gradients beside each other; a tied weight may stand under any of its names."""
    assert np.asarray(ours[0]).dtype == np.float64
    error = abs(ours[0] - theirs[0])
    assert error <= VALUES * max(abs(theirs[0]), 1e-3), f"{where}: value {ours[0]} beside {theirs[0]}"
    largest = max(float(np.linalg.norm(gradient)) for gradient in theirs[1].values() if gradient is not None)
    rest = dict(ours[1])
    for names, reference in theirs[1].items():
        found = [rest.pop(name) for name in names if name in rest]
        if reference is None:  # not part of what was computed
            assert all(not np.any(one) for one in found), f"{where}: {names[0]} has a gradient"
            continue
        assert len(found) == 1, f"{where}: {len(found)} gradients of {', '.join(names)}"
        assert found[0].shape == reference.shape, f"{where}: {names[0]}: {found[0].shape} beside {reference.shape}"
        error = float(np.linalg.norm(found[0] - reference))
        allowed = GRADIENTS * max(float(np.linalg.norm(reference)), 1e-4 * largest)
        assert error <= allowed, f"{where}: gradient of {names[0]}: error {error:.2e}, allowed {allowed:.2e}"
    assert not rest, f"{where}: gradients of {', '.join(rest)}, which they do not train"


# --- files -----------------------------------------------------------------------------------------------------------


def check_saving(ours, theirs, batch, folder, *, unused=()):
    """numtx saves, Transformers opens: nothing missing or unexpected, the same bits, the same outputs.

    `theirs` was saved in the folder before.
    """
    ours.save_pretrained(folder / "ours")
    again, info = type(theirs).from_pretrained(
        folder / "ours", output_loading_info=True, dtype=torch.float64, attn_implementation="eager"
    )
    wrong = {what: names for what, names in info.items() if what != "error_msgs" and names}
    assert not wrong, wrong
    assert not info.get("error_msgs"), info["error_msgs"]
    written, expected = (sorted(load_arrays(folder / name / "model.safetensors")) for name in ("ours", "theirs"))
    state, before = again.state_dict(), theirs.state_dict()
    if unused:  # Transformers 4 writes one of the two names of a weight that is two in 5
        assert set(expected) <= set(written) <= set(before)
    else:
        assert written == expected
    assert list(state) == list(before)
    assert not [name for name in before if not torch.equal(state[name], before[name]) and name not in unused]
    with torch.no_grad():
        one, other = run_theirs(again.eval(), batch), run_theirs(theirs.eval(), batch)
    for field in other:
        if field not in NOT_OURS:
            assert torch.equal(one[field], other[field]), f"{field} differs after saving and opening"


def same_bits(ours, other):
    """Whether two models of numtx have the same weights."""
    state, before = nn.flatten(ours.state_dict()), nn.flatten(other.state_dict())
    return list(state) == list(before) and all(np.array_equal(state[name], before[name]) for name in before)
