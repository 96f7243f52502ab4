"""Arguments that Transformers takes: those that change nothing, those that are refused, and the place of `config`."""

from dataclasses import replace

import numpy as np
import pytest
from refusals import one_line

import numtx


@pytest.mark.parametrize(
    "settings",
    [
        {"device": -1},
        {"device": "cpu"},
        {"device": None, "framework": None, "trust_remote_code": None},
        {"device_map": "auto"},
        {"framework": "pt"},
        {"framework": "np"},
        {"use_fast": True},
        {"use_fast": False},
        {"num_workers": 2},
        {"torch_dtype": "auto"},
        {"torch_dtype": np.float32},
        {"dtype": "float32"},
        {"dtype": "auto"},
        {"model_kwargs": {}, "trust_remote_code": False, "feature_extractor": None},
    ],
)
def test_what_says_how_it_is_done_anyway_changes_nothing(settings, folders, made):
    expected = made("fill-mask", "masked")("[MASK] a")
    fill = numtx.pipeline("fill-mask", folders["masked"], **settings)
    assert fill("[MASK] a") == fill("[MASK] a", num_workers=1) == expected
    assert fill.model.dtype == np.float32
    if not {"dtype", "torch_dtype"} & set(settings):
        assert type(fill)(fill.model, fill.tokenizer, **settings)("[MASK] a") == expected


def test_a_type_of_pytorch_is_one(folders):
    torch = pytest.importorskip("torch")
    for name in ("torch_dtype", "dtype"):
        opened = numtx.pipeline("fill-mask", folders["masked"], device=torch.device("cpu"), **{name: torch.float64})
        assert opened.model.dtype == np.float64
    with one_line(r"pipeline: expected dtype .* \(numtx computes in these alone\), got torch.bfloat16"):
        numtx.pipeline("fill-mask", folders["masked"], torch_dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"device": 0}, r"device None or -1 or 'cpu' \(numtx computes on the CPU alone\), got 0$"),
        ({"device": "cuda:0"}, r"device .*, got 'cuda:0'$"),
        ({"device_map": {"": 0}}, r"device_map None or 'auto' or 'cpu' \(numtx computes on the CPU alone\)"),
        ({"framework": "tf"}, r"framework None or 'pt' or 'np' \(numtx computes with NumPy\), got 'tf'$"),
        ({"use_fast": "yes"}, "use_fast"),
        ({"num_workers": -1}, "num_workers as a whole number of at least 0, got -1$"),
        (
            {"torch_dtype": "float16"},
            r"dtype 'auto', float32 or float64 \(numtx computes in these alone\), got 'float16'$",
        ),
        ({"dtype": 3}, "dtype 'auto', float32 or float64"),
        ({"dtype": "float32", "torch_dtype": "float32"}, "dtype or torch_dtype, its older name, got both"),
        ({"trust_remote_code": True}, "numtx runs no code that comes with a model"),
        ({"model_kwargs": {"load_in_8bit": True}}, "numtx opens a model one way"),
        ({"image_processor": "a"}, "there are tasks of text alone"),
    ],
)
def test_what_says_something_else_is_refused_with_the_reason(settings, complaint, folders):
    with one_line(f"pipeline: expected .*{complaint}"):
        numtx.pipeline("fill-mask", folders["masked"], **settings)


def test_the_third_argument_is_a_config(folders, tmp_path):
    opened = numtx.pipeline("text-classification", folders["moods"])
    config = replace(opened.model.config, id2label={0: "x", 1: "y", 2: "z"})
    (tmp_path / "config").mkdir()
    numtx.checkpoints.write_json(tmp_path / "config" / "config.json", config.to_dict())
    for given in (config, tmp_path / "config"):
        other = numtx.pipeline("text-classification", folders["moods"], given, folders["moods"])
        assert {one["label"] for one in other("a", top_k=None)} == {"x", "y", "z"}
    same_one = numtx.pipeline("text-classification", opened.model, opened.model.config, opened.tokenizer)
    assert same_one("a") == opened("a")
    with one_line("pipeline: expected no config with a model in memory, which has its own, got another"):
        numtx.pipeline("text-classification", opened.model, config, opened.tokenizer)
    with one_line("pipeline: expected a config as third argument, .*, got TokenizersBackend; pass tokenizer="):
        numtx.pipeline("text-classification", opened.model, opened.tokenizer)
    with one_line("pipeline: expected config as a config of numtx, a folder or a name, got int"):
        numtx.pipeline("text-classification", folders["moods"], 3)
    with one_line("TextClassificationPipeline: expected a tokenizer, got int"):
        numtx.pipeline("text-classification", opened.model, tokenizer=3)
