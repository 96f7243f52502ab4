"""Files that PyTorch, safetensors and Transformers write: numtx opens them as they do themselves."""

import collections
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.checkpoints import open_arrays, open_checkpoint, open_pytorch_archive

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# What both forms hold; the newer unsigned types have no storage in the legacy one.
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
FORMS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


def random_tensor(dtype, shape, rng):
    if dtype.is_floating_point:
        return torch.from_numpy(np.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-9, 4))).to(dtype)
    return torch.from_numpy(np.asarray(rng.integers(-(2**31), 2**31, shape))).to(dtype)


def some_view(base, rng):
    """A view as models hold them: the whole, transposed, a slice, steps, expanded, a part of a flat buffer."""
    kind = rng.integers(6)
    if kind == 1:
        return base.permute(rng.permutation(base.ndim).tolist())
    if kind == 2:
        return base[tuple(slice(int(rng.integers(n + 1)), None) for n in base.shape)]
    if kind == 3:
        return base[tuple(slice(None, None, int(rng.integers(1, 4))) for _ in base.shape)]
    if kind == 4:
        return base[None].expand(int(rng.integers(1, 4)), *base.shape)
    if kind == 5:
        return base.flatten()[int(rng.integers(base.numel() + 1)) :]
    return base


def as_numpy(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy()


def assert_same(opened, tensors):
    assert list(opened) == list(tensors)
    for name, theirs in tensors.items():
        got, want = opened[name], as_numpy(theirs)
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name
        np.testing.assert_array_equal(got, want, err_msg=name)
        assert opened.entries[name].dtype == str(theirs.dtype).removeprefix("torch.")


@given(st.integers(0, 2**32), st.sampled_from(list(FORMS)), st.sampled_from([2, 3, 4, 5]))
def test_archives_of_drawn_tensors(tmp_path_factory, seed, form, protocol):
    rng = np.random.default_rng(seed)
    tensors = collections.OrderedDict()
    for number in range(int(rng.integers(1, 8))):
        dtype = DTYPES[rng.integers(len(DTYPES))]
        base = random_tensor(dtype, tuple(rng.integers(0, 6, rng.integers(0, 4)).tolist()), rng)
        for part in range(int(rng.integers(1, 4))):
            view = some_view(base, rng)
            tensors[f"{number}.{part}"] = torch.nn.Parameter(view) if dtype in FLOATS and rng.random() < 0.3 else view
    path = tmp_path_factory.mktemp("archive") / "pytorch_model.bin"
    torch.save(tensors, path, pickle_protocol=protocol, **FORMS[form])
    assert_same(open_pytorch_archive(path), torch.load(path, weights_only=False))
    assert_same(open_pytorch_archive(path), tensors)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_newer_types(tmp_path, dtype):
    tensors = {"x": torch.arange(6, dtype=torch.int64).to(dtype).reshape(2, 3).t()}
    torch.save(tensors, tmp_path / "a")
    assert_same(open_pytorch_archive(tmp_path / "a"), tensors)


@pytest.mark.parametrize("form", FORMS)
def test_shared_storages_that_begin_aligned_stay_shared(tmp_path, form):
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    torch.save({"a": base, "b": base.t(), "c": base[1:]}, tmp_path / "a", **FORMS[form])
    opened = open_pytorch_archive(tmp_path / "a")
    a, b, c = (opened[name] for name in "abc")
    if form == "zip":  # torch.save aligns its entries
        a[1, 2] = 50
        assert b[2, 1] == c[0, 2] == 50
    else:
        assert a.flags.aligned
        assert b.tolist() == base.t().tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_training_checkpoint(tmp_path, form):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    torch.save(
        {"epoch": 3, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "kind": torch.float32},
        tmp_path / "a",
        **FORMS[form],
    )
    assert_same(open_pytorch_archive(tmp_path / "a"), model.state_dict())


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_state_dict_is_refused(tmp_path, form):
    held = {
        r"torch\.nn\.modules\.linear\.Linear": torch.nn.Linear(2, 2),
        r"torch\._utils\._rebuild_sparse_tensor": {"x": torch.ones(2).to_sparse()},
        r"torch\.ComplexDoubleStorage": {"x": torch.ones(2, dtype=torch.complex128)},
        r"(__builtin__|builtins)\.set": {"x": torch.ones(2), "seen": {1}},
    }
    for name, value in held.items():
        torch.save(value, tmp_path / "a", **FORMS[form])
        with pytest.raises(ValueError, match=f"a pickle that names '{name}', which is not run"):
            open_pytorch_archive(tmp_path / "a")


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_of_pytorch(tmp_path, dtype):
    rng = np.random.default_rng(0)
    shapes = [(), (0, 3), (5,), (3, 4), (2, 3, 4)]
    tensors = {f"t{len(shape)}": random_tensor(dtype, shape, rng) for shape in shapes if len(shape) != 2}
    tensors["two"] = random_tensor(dtype, (3, 4), rng)
    safetensors_torch.save_file(tensors, tmp_path / "a")
    opened = open_arrays(tmp_path / "a")
    assert_same(_in_order(opened, tensors), tensors)


def _in_order(opened, names):
    return type(opened)({name: opened.entries[name] for name in names})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_of_transformers_in_one_file_and_in_shards(tmp_path, dtype):
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12
    )
    model = transformers.BertModel(config).to(dtype)
    for size, files in (("1GB", 2), ("4KB", 4)):
        folder = tmp_path / size
        model.save_pretrained(folder, max_shard_size=size)
        opened = open_checkpoint(folder)
        assert len(opened.files) >= files
        assert opened.config == json.loads((folder / "config.json").read_text())
        tensors = {name: tensor for name, tensor in model.state_dict().items() if name in opened.arrays}
        assert_same(_in_order(opened.arrays, tensors), tensors)
        assert set(opened.arrays) == set(dict(model.named_parameters()))
