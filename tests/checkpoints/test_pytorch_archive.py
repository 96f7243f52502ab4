"""PyTorch's archives: golden files in both forms, shared and strided tensors, and archives that lie."""

import json
import struct
import sys
import zipfile

import numpy as np
import pytest
from archives import (
    GOLDEN,
    HELD,
    named,
    numbers,
    pickled,
    resident,
    storage,
    tensor,
    text,
    whole,
    write_legacy,
    write_zip,
)

from numtx.checkpoints import open_pytorch_archive

FORMS = ("zip", "legacy", "wrapped")
SIX = np.arange(6, dtype=np.float32)


def one(content):
    """A dict of one tensor, pickled."""
    return pickled(b"}" + text("x") + content + b"s")


@pytest.fixture
def archive(tmp_path):
    """`archive(pickle, storages=None, **others)`: a zip by hand, opened."""
    return lambda *args, **others: open_pytorch_archive(write_zip(tmp_path / "pytorch_model.bin", *args, **others))


@pytest.mark.parametrize("form", FORMS)
def test_the_golden_files_hold_what_pytorch_put_in(form):
    assert "torch" in json.loads((GOLDEN / "made_by.json").read_text())
    opened = open_pytorch_archive(GOLDEN / f"{form}.bin")
    assert list(opened) == list(HELD)
    for name, array in HELD.items():
        got = opened[name]
        assert (got.dtype, got.shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(got, array, err_msg=name)
        assert got.flags.aligned
        assert got.flags.writeable
        stored = name if name in ("bfloat16", "float16") else array.dtype.name
        assert opened.entries[name].dtype == stored
        assert opened.entries[name].shape == array.shape


def test_numbers_are_views_of_the_file_and_shared_storages_stay_shared():
    opened = open_pytorch_archive(GOLDEN / "zip.bin")
    before = (GOLDEN / "zip.bin").read_bytes()
    whole_one, tied, transposed, block = (opened[name] for name in ("whole", "tied", "transposed", "block"))
    assert not whole_one.flags.owndata
    whole_one[1, 2] = 100
    assert tied[1, 2] == transposed[2, 1] == block[0, 0] == opened["whole"][1, 2] == 100
    assert transposed.strides == (4, 24)
    assert (GOLDEN / "zip.bin").read_bytes() == before


def test_elements_that_shared_one_number_can_be_set_apart():
    expanded = open_pytorch_archive(GOLDEN / "zip.bin")["expanded"]
    expanded[0] = 1
    assert expanded.tolist() == [1.0, 7.0, 7.0]


def test_a_copied_tensor_does_not_stay_in_memory_twice(tmp_path):
    bits = np.full(30_000, 0x3F80, "<u2")
    pickle = one(tensor(0, (30_000,), (1,), storage(numel=30_000, kind="BFloat16Storage")))
    for path in (
        write_zip(tmp_path / "zip", pickle, {"0": bits.tobytes()}),
        write_legacy(tmp_path / "legacy", pickle, {"0": (30_000, bits.tobytes())}),
    ):
        opened = open_pytorch_archive(path)
        for _ in range(2):
            assert opened["x"].tolist() == [1.0] * 30_000
        assert sys.platform != "linux" or resident(path) < 30_000  # half of what it holds


def test_a_zip_by_hand(archive):
    opened = archive(one(tensor()))
    np.testing.assert_array_equal(opened["x"], SIX.reshape(2, 3))


def test_big_endian(archive, tmp_path):
    opened = archive(one(tensor()), {"0": SIX.astype(">f4").tobytes()}, byteorder="big")
    assert opened["x"].dtype == np.dtype("=f4")
    assert opened["x"].ravel().tolist() == SIX.tolist()
    halves = one(tensor(of=storage(kind="BFloat16Storage")))
    opened = archive(halves, {"0": np.full(6, 0x3FC0, ">u2").tobytes()}, byteorder="big")
    assert opened["x"].tolist() == [[1.5] * 3] * 2
    assert archive(one(tensor()), byteorder="little")["x"].ravel().tolist() == SIX.tolist()
    with pytest.raises(ValueError, match=r"with the byte order b'middle'"):
        archive(one(tensor()), byteorder="middle")


def test_older_forms_of_a_tensor(archive):
    old = named("torch._utils", "_rebuild_tensor") + b"(" + storage() + whole(1) + numbers((2,)) + numbers((2,)) + b"tR"
    assert archive(one(old))["x"].tolist() == [1.0, 3.0]
    parameter = named("torch._utils", "_rebuild_parameter") + b"(" + tensor() + b"\x88NtR"
    assert archive(one(parameter))["x"].shape == (2, 3)
    attributes = named("torch._tensor", "_rebuild_from_type_v2") + b"(" + named("torch._utils", "_rebuild_tensor")
    given = b"(" + storage() + whole(0) + numbers((6,)) + numbers((1,)) + b"t"
    subclass = attributes + named("torch.nn.parameter", "Parameter") + given + b"}tR"
    assert archive(one(subclass))["x"].tolist() == SIX.tolist()


def test_a_tensor_over_bytes(archive):
    def typed(dtype, shape, strides):
        over = b"(" + text("storage") + named("torch.storage", "UntypedStorage") + text("0") + text("cpu")
        arguments = over + whole(24) + b"tQ" + whole(0) + numbers(shape) + numbers(strides) + b"\x89N"
        return named("torch._utils", "_rebuild_tensor_v3") + b"(" + arguments + named("torch", dtype) + b"tR"

    assert archive(one(typed("float32", (6,), (1,))))["x"].tolist() == SIX.tolist()
    assert archive(one(typed("uint16", (12,), (1,))))["x"].dtype == np.uint16
    with pytest.raises(ValueError, match=r"a tensor \(13,\) that reaches beyond the 12 numbers"):
        archive(one(typed("uint16", (13,), (1,))))
    with pytest.raises(ValueError, match="whose seventh argument is not its type"):
        archive(one(typed("Size", (6,), (1,))))


def test_an_ordered_dict_of_python_2(archive):
    pair = b"](" + b"U\x01x" + tensor() + b"e"
    content = named("collections", "OrderedDict") + b"](" + pair + b"e\x85R"
    assert archive(pickled(content))["x"].shape == (2, 3)
    with pytest.raises(ValueError, match="an OrderedDict that is not made of pairs"):
        archive(pickled(named("collections", "OrderedDict") + b"](K\x01e\x85R"))
    with pytest.raises(ValueError, match="a dict with a key of type list"):
        archive(pickled(named("collections", "OrderedDict") + b"](]K\x01\x86e\x85R"))


def test_copies_of_a_list_are_bounded_by_the_file(archive):
    made = named("collections", "OrderedDict") + b"q\x01]q\x02(" + b"U\x01xK\x01\x86" * 1000 + b"e0"
    again = b"h\x01h\x02\x85R0" * 1000
    with pytest.raises(ValueError, match="an OrderedDict that is not made of pairs"):
        archive(pickled(made + again + b"}"))


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "net"])
def test_a_state_dict_beside_other_things(archive, name):
    inner = b"}(" + text("x") + tensor() + text("_extra_state") + b"N" + b"u"
    beside = text("epoch") + whole(3) + text("rates") + b"](K\x01e" + text("optimizer") + b"}" + text("state") + b"}s"
    assert list(archive(pickled(b"}(" + beside + text(name) + inner + b"u"))) == ["x"]


def test_several_dicts_of_tensors_are_named(archive):
    inner = b"}" + text("x") + tensor() + b"s"
    with pytest.raises(ValueError, match="2 entries that hold some: 'a', 'b'"):
        archive(pickled(b"}(" + text("a") + inner + text("b") + inner + b"u"))
    huge = b"\x8b" + struct.pack("<i", 5000) + b"\x01" * 5000  # a number that Python refuses to print
    with pytest.raises(ValueError, match=r"archive of PyTorch .* with no tensors"):
        archive(pickled(b"}(" + huge + inner + b"u"))


def test_storage_parts_of_the_legacy_form(tmp_path):
    def part(first, size):
        view = b"(" + text("view") + whole(first) + whole(size) + b"t"
        return (
            b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + whole(6) + view + b"tQ"
        )

    opened = open_pytorch_archive(write_legacy(tmp_path / "a", one(tensor(1, (2,), (1,), part(2, 4)))))
    assert opened["x"].tolist() == [3.0, 4.0]
    with pytest.raises(ValueError, match="a part of a storage that is not within it"):
        open_pytorch_archive(write_legacy(tmp_path / "a", one(tensor(0, (2,), (1,), part(4, 4)))))


LIES = {
    "rows beyond the storage": (tensor(0, (3, 3), (3, 1)), "reaches beyond the 6 numbers"),
    "an offset beyond the storage": (tensor(1), "reaches beyond the 6 numbers"),
    "strides beyond the storage": (tensor(0, (2, 3), (4, 1)), "reaches beyond the 6 numbers"),
    "one number, out of which a world is made": (tensor(0, (2**40,), (0,)), "reaches beyond"),
    "no numbers of an impossible shape": (tensor(0, (0, 2**59, 2**59), (1, 1, 1)), "a size that no array has"),
    "a negative size": (tensor(0, (-2, 3), (3, 1)), "whose offset, sizes and strides no array has"),
    "a negative stride": (tensor(5, (6,), (-1,)), "whose offset, sizes and strides no array has"),
    "a negative offset": (tensor(-1), "whose offset, sizes and strides no array has"),
    "a stride too few": (tensor(0, (2, 3), (3,)), "whose offset, sizes and strides no array has"),
    "too many axes": (tensor(0, (1,) * 40, (1,) * 40), "whose offset, sizes and strides no array has"),
    "no storage": (tensor(of=b"N"), "a tensor without a storage"),
    "a storage of another size": (tensor(of=storage(numel=7)), "24 bytes for storage '0' of 28"),
    "a storage larger than it says": (
        tensor(0, (2,), (1,), storage(numel=5)),
        "24 bytes for storage '0' of 20",
    ),
    "a storage of another type": (tensor(of=storage(kind="DoubleStorage")), "24 bytes for storage '0' of 48"),
    "a storage that is not there": (tensor(of=storage("1")), "a zip without the entry 'data/1'"),
    "a storage elsewhere": (tensor(of=storage("../../secret")), r"a zip without the entry 'data/../../secret'"),
    "a type that is not read": (tensor(of=storage(kind="ComplexFloatStorage")), r"names 'torch\.ComplexFloatStorage'"),
    "no known type": (tensor(of=storage(kind="Size")), "a storage of no known type"),
    "a module": (b"(" + text("module") + b"NNNtQ", "a persistent id that is no storage's"),
    "a size that is text": (tensor(of=storage().replace(whole(6), text("6"))), "whose size is not a number"),
    "a parameter of nothing": (named("torch._utils", "_rebuild_parameter") + b"(N\x88NtR", "a parameter that is not"),
    "too few arguments": (named("torch._utils", "_rebuild_tensor_v2") + b")R", "a tensor that is not storage, offset"),
    "a negated view": (
        tensor()[:-2] + b"}" + text("neg") + b"\x88stR",
        "a negated or conjugated view",
    ),
    "another function": (named("torch._utils", "_rebuild_qtensor") + b")R", r"names 'torch\._utils\._rebuild_qtensor'"),
    "a model": (named("transformers", "BertModel") + b")\x81", r"names 'transformers\.BertModel', which is not run"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_archive_that_lies(archive, lie):
    content, message = LIES[lie]
    with pytest.raises(ValueError, match=rf"^open_pytorch_archive: expected .*model\.bin' with .*{message}") as raised:
        archive(one(content))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"]", b"N", b"}", b"}" + text("epoch") + b"K\x01s", b"}K\x01" + tensor() + b"s"])
def test_an_archive_without_tensors_by_name(archive, content):
    with pytest.raises(ValueError, match=r"with (no tensors|something of type (list|NoneType))$"):
        archive(pickled(content))


def test_a_zip_of_something_else(tmp_path):
    path = tmp_path / "a"
    for entries, message in (
        ([], "a zip that is cut or broken"),
        (["a.txt"], "a zip of 0 pickles"),
        (["a/data.pkl", "b/data.pkl"], "a zip of 2 pickles"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for entry in entries:
                archive.writestr(entry, b"")
        with pytest.raises(ValueError, match=message):
            open_pytorch_archive(path)


def test_compressed_entries_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", one(tensor()))
    with pytest.raises(ValueError, match=r"the entry 'archive/data\.pkl' compressed"):
        open_pytorch_archive(tmp_path / "a")


def test_an_entry_that_is_not_where_the_zip_says(tmp_path):
    path = write_zip(tmp_path / "a", one(tensor()))
    content = bytearray(path.read_bytes())
    directory = content.rfind(b"PK\x01\x02")  # of the last entry, data/0
    for place in (2, 2**31, 2**32 - 2):
        content[directory + 42 : directory + 46] = struct.pack("<I", place)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"no entry 'archive/data/0' where|a zip that is cut or broken"):
            open_pytorch_archive(path)


def test_legacy_archives_that_lie(tmp_path):
    def refused(message, *args, **options):
        with pytest.raises(ValueError, match=message):
            open_pytorch_archive(write_legacy(tmp_path / "a", *args, **options))

    content = one(tensor())
    assert open_pytorch_archive(write_legacy(tmp_path / "a", content))["x"].ravel().tolist() == SIX.tolist()
    refused("storage '0' of 5 numbers where the tensors say 6", content, {"0": (5, SIX.tobytes())})
    refused("storage '0' of 18446744073709551615 numbers", content, {"0": (-1, SIX.tobytes())})
    refused("storage '0' beyond the end of the file", content, {"0": (6, SIX.tobytes()[:-1])})
    refused("no storage '0'", content, {})
    refused("a storage '1' that no tensor has, or twice", content, {"1": (6, SIX.tobytes())})
    refused("a storage '0' that no tensor has, or twice", content, keys=["0", "0"])
    two = b"}(" + text("x") + tensor() + text("y") + tensor(of=storage(kind="IntStorage")) + b"u"
    refused("storage '0' of two types or sizes", pickled(two))
    path = write_legacy(tmp_path / "a", content)
    path.write_bytes(path.read_bytes().replace(b"M\xe9\x03", b"M\xea\x03"))
    with pytest.raises(ValueError, match="another version of the legacy form than 1001"):
        open_pytorch_archive(path)
    path.write_bytes(path.read_bytes().replace(b"M\xea\x03", b"N" + b"\x85" * 100_000))  # it cannot be printed
    with pytest.raises(ValueError, match="another version of the legacy form than 1001"):
        open_pytorch_archive(path)
    path.write_bytes(pickled(whole(7)))
    with pytest.raises(ValueError, match=r"a pickle that torch\.save did not write"):
        open_pytorch_archive(path)


@pytest.mark.parametrize("form", FORMS)
def test_a_half_written_file_is_named(tmp_path, form):
    content = (GOLDEN / f"{form}.bin").read_bytes()
    for size in [1, 2, 4, 30, *range(100, len(content), 300), len(content) - 1]:
        (tmp_path / "half.bin").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"^open_pytorch_archive: expected an archive .*half\.bin' with "):
            open_pytorch_archive(tmp_path / "half.bin")


def test_other_files(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(257) + b"ustar" + bytes(250))
    with pytest.raises(ValueError, match="a tar archive of PyTorch before"):
        open_pytorch_archive(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match="the first bytes of something else"):
        open_pytorch_archive(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(ValueError, match=r"an archive of PyTorch, got .* a Git LFS pointer"):
        open_pytorch_archive(path)
    with pytest.raises(ValueError, match="which is not a file"):
        open_pytorch_archive(tmp_path)


FUNCTIONS = [
    *(named("torch._utils", f"_rebuild_{name}") for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
    named("torch._utils", "_rebuild_parameter_with_state"),
    named("torch._tensor", "_rebuild_from_type_v2"),
    named("torch", "Size"),
    named("torch", "device"),
    named("collections", "OrderedDict"),
]
VALUES = [
    *(storage(), storage(kind="HalfStorage"), tensor(), tensor(0, (3,), (0,)), numbers(()), numbers((2, 3))),
    *(numbers((3, 1)), numbers((-1, 2**62)), text("x"), text("storage"), text("0"), whole(0), whole(2), whole(-1)),
    *(whole(2**62), b"N", b"\x88", b"\x89", b")", b"]", b"}", b"](" + whole(6) + b"e", b"}" + text("neg") + b"\x88s"),
    *(named("torch", name) for name in ("FloatStorage", "float32", "Tensor")),
    *FUNCTIONS,
]


def random_program(rng):
    """A call of something with arguments of any kind, mostly those that it wants."""
    wanted = [storage(), whole(0), numbers((2, 3)), numbers((3, 1)), b"\x89", b"N", named("torch", "float32"), b"N"]
    arguments = wanted[: rng.choice([3, 4, 4, 5, 6, 6, 7, 8])] if rng.random() < 0.7 else []
    arguments = [VALUES[rng.integers(len(VALUES))] if rng.random() < 0.15 else value for value in arguments]
    arguments = arguments or [VALUES[k] for k in rng.integers(len(VALUES), size=int(rng.integers(5)))]
    callables = FUNCTIONS[:3] if rng.random() < 0.5 else FUNCTIONS if rng.random() < 0.8 else VALUES
    function = callables[rng.integers(len(callables))]
    return function + b"(" + b"".join(arguments) + b"t" + (b"R" if rng.random() < 0.95 else b"Q")


def test_calls_with_arguments_of_any_kind_end_in_tensors_or_clean_errors(tmp_path):
    rng = np.random.default_rng(0)
    ends = {"opened": 0, "refused": 0}
    for _ in range(2000):
        program = random_program(rng)
        if rng.random() < 0.2:
            program = FUNCTIONS[rng.integers(len(FUNCTIONS))] + b"(" + program + b"\x89NtR"
        path = write_zip(tmp_path / "a", one(program))
        try:
            opened = open_pytorch_archive(path)
        except ValueError as error:
            assert str(error).startswith("open_pytorch_archive: ")  # noqa: PT017
            ends["refused"] += 1
        else:
            assert all(opened[name].shape == entry.shape for name, entry in opened.entries.items())
            ends["opened"] += 1
    assert min(ends.values()) > 50, ends
