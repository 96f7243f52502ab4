"""The families beside what Transformers computed: all outputs, the loss, some gradients, padding on both sides."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from numtx import models

FILES = sorted((Path(__file__).parent / "families").glob("*.safetensors"))


def read(path):
    """The arrays by kind, and the metadata."""
    kinds: dict[str, dict] = {"weight": {}, "batch": {}, "output": {}, "direction": {}, "gradient": {}, "value": {}}
    with safe_open(path, "np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dict
            kind, _, rest = name.partition("/")
            kinds[kind][rest] = file.get_tensor(name)
        return kinds, file.metadata()


def opened(path, folder, dtype):
    """Our model, from the very files that Transformers wrote, and what else stands in the golden file."""
    kinds, metadata = read(path)
    (folder / "config.json").write_text(metadata["config"], encoding="utf-8")
    save_file(kinds["weight"], folder / "model.safetensors")
    return getattr(models, metadata["class"]).from_pretrained(folder, dtype=dtype), kinds, float(metadata["largest"])


def real(field, array, batch, decodes):
    """Of a field that has tokens, the rows of those that are not padding."""
    of_decoder = decodes and not field.startswith("encoder")
    mask = batch.get("decoder_attention_mask" if of_decoder else "attention_mask")
    if mask is None:
        return array
    if "attentions" in field:
        return array.swapaxes(1, 2)[mask == 1]
    by_token = "hidden_state" in field or field.endswith("_logits") or (field == "logits" and array.ndim == 3)
    return array[mask == 1] if by_token else array


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_outputs(path, dtype, tmp_path):
    model, kinds, _ = opened(path, tmp_path, dtype)
    batch = kinds["batch"]
    got = model(**batch, output_hidden_states=True, output_attentions=True)
    decodes = any(field.startswith("encoder") for field in kinds["output"])
    assert sorted(got.keys()) == sorted({field.partition("/")[0] for field in kinds["output"]})
    for field, reference in kinds["output"].items():
        name, _, number = field.partition("/")
        mine = np.asarray(got[name][int(number)] if number else got[name])
        assert mine.dtype == dtype, field
        assert mine.shape == reference.shape, field
        mine, reference = real(field, mine, batch, decodes), real(field, reference, batch, decodes)
        if dtype == np.float32:
            assert np.max(np.abs(mine - reference)) <= 1e-5, field
        else:
            assert np.linalg.norm(mine - reference) <= 1e-10 * np.linalg.norm(reference), field


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_loss_and_gradients(path, tmp_path):
    model, kinds, largest = opened(path, tmp_path, np.float64)
    for keep in ("all", "inputs"):
        if kinds["direction"]:
            outputs, cache = model.forward(**kinds["batch"], keep=keep)
            value = sum(np.sum(outputs[field] * d) for field, d in kinds["direction"].items())
            grads = model.backward(kinds["direction"], cache)[1]
        else:
            value, grads = model.loss_and_grads(kinds["batch"], keep=keep)
        assert value == pytest.approx(float(kinds["value"][""]), rel=1e-10)
        named = model.to_checkpoint(grads)
        assert len(kinds["gradient"]) > 3
        for name, reference in kinds["gradient"].items():
            assert named[name].shape == reference.shape, name
            allowed = 1e-9 * max(float(np.linalg.norm(reference)), 1e-4 * largest)
            assert np.linalg.norm(named[name] - reference) <= allowed, name


def test_there_is_a_file_for_each_family():
    assert {"BertModel", "BertForMaskedLM", "RobertaForMaskedLM", "DistilBertForMaskedLM"} <= {p.stem for p in FILES}
    assert sum(path.stat().st_size for path in FILES) < 280_000


def test_a_wrong_gelu_is_seen(tmp_path):
    """What these files are for: the tanh form in the place of the exact one is far outside the tolerance."""
    path = next(path for path in FILES if path.stem == "RobertaForMaskedLM")
    model, kinds, _ = opened(path, tmp_path, np.float64)
    for layer in model.body.stack.layers:
        layer.feed_forward.sublayer.activation = "gelu_tanh"
    mask = kinds["batch"]["attention_mask"] == 1
    got, expected = (array[mask] for array in (model(**kinds["batch"]).logits, kinds["output"]["logits"]))
    assert json.loads(read(path)[1]["config"])["hidden_act"] == "gelu"
    assert np.linalg.norm(got - expected) > 1e-5 * np.linalg.norm(expected)
