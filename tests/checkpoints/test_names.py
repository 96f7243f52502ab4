"""The table of names: both ways, exact inverses, and errors that name what is wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.checkpoints import TRANSPOSED, NameTable, Transform

ROWS = [
    ("tokens.weight", "transformer.wte.weight"),
    ("blocks.{i}.norm.weight", "transformer.h.{i}.ln_1.weight"),
    ("blocks.{i}.up.weight", "transformer.h.{i}.mlp.c_fc.weight", TRANSPOSED),
    ("experts.{i}.{j}.bias", "e{j}.of{i}.b"),
]
IGNORED = ["transformer.h.{i}.attn.bias", "lm_head.weight"]


def table():
    return NameTable(ROWS, optional_prefix="transformer.", ignored=IGNORED)


def model(layers=2):
    rng = np.random.default_rng(0)
    arrays = {"tokens.weight": rng.normal(size=(5, 3)), "experts.10.2.bias": rng.normal(size=4)}
    for i in range(layers):
        arrays[f"blocks.{i}.norm.weight"] = rng.normal(size=3)
        arrays[f"blocks.{i}.up.weight"] = rng.normal(size=(3, 7))
    return arrays


def same(got, expected):
    assert list(got) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


def test_to_checkpoint():
    arrays = model()
    there = table().to_checkpoint(arrays)
    assert set(there) == {
        "transformer.wte.weight",
        "transformer.h.0.ln_1.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "transformer.h.1.ln_1.weight",
        "transformer.h.1.mlp.c_fc.weight",
        "e2.of10.b",
    }
    np.testing.assert_array_equal(there["transformer.h.1.mlp.c_fc.weight"], arrays["blocks.1.up.weight"].T)
    np.testing.assert_array_equal(there["transformer.h.1.ln_1.weight"], arrays["blocks.1.norm.weight"])
    np.testing.assert_array_equal(there["e2.of10.b"], arrays["experts.10.2.bias"])


@given(st.integers(0, 12), st.randoms())
def test_there_and_back_in_the_order_of_the_model(layers, random):
    arrays = model(layers)
    there = list(table().to_checkpoint(arrays).items())
    random.shuffle(there)
    same(table().from_checkpoint(dict(there), arrays), arrays)


def test_shapes_will_do_for_what_is_expected():
    arrays = model()
    shapes = {name: array.shape for name, array in arrays.items()}
    same(table().from_checkpoint(table().to_checkpoint(arrays), shapes), arrays)


def test_nothing_is_copied():
    arrays = model()
    back = table().from_checkpoint(table().to_checkpoint(arrays), arrays)
    assert all(np.shares_memory(back[name], arrays[name]) for name in arrays)


def test_files_without_the_prefix_and_with_entries_to_ignore():
    arrays = model()
    there = table().to_checkpoint(arrays)
    bare = {name.removeprefix("transformer."): array for name, array in there.items()}
    bare |= {"h.0.attn.bias": np.ones((1, 1, 4, 4)), "transformer.h.1.attn.bias": np.ones(1), "lm_head.weight": 0}
    assert "wte.weight" in bare
    same(table().from_checkpoint(bare, arrays), arrays)


def test_a_prefix_is_not_dropped_unless_it_may_be():
    arrays = model()
    bare = {name.removeprefix("transformer."): a for name, a in table().to_checkpoint(arrays).items()}
    with pytest.raises(ValueError, match=r"missing: transformer\.wte\.weight"):
        NameTable(ROWS).from_checkpoint(bare, arrays)


def test_a_transform_of_ones_own():
    half = Transform(lambda array: array / 2, lambda array: array * 2)
    own = NameTable([("a", "b", half)])
    np.testing.assert_array_equal(own.to_checkpoint({"a": np.array([1.0])})["b"], [2.0])
    np.testing.assert_array_equal(own.from_checkpoint({"b": np.array([1.0])}, {"a": (1,)})["a"], [0.5])


def test_dots_and_numbers_are_literal():
    plain = NameTable([("a.b", "x.{i}y".replace("{i}", "+")), ("c.{i}", "d.{i}")])
    with pytest.raises(ValueError, match="unexpected: xx\\+y"):
        plain.from_checkpoint({"xx+y": np.ones(1), "x.+y": np.ones(1)}, {"a.b": (1,)})
    with pytest.raises(ValueError, match=r"expected names that it has a row for, got c\.x, c\.1\.2, aXb"):
        plain.to_checkpoint({"c.1": np.ones(1), "c.x": np.ones(1), "c.1.2": np.ones(1), "aXb": np.ones(1)})


def broken(change):
    arrays = model()
    there = table().to_checkpoint(arrays)
    change(there)
    with pytest.raises(ValueError, match=r"NameTable: expected the 6 arrays of the model in my\.file, got ") as raised:
        table().from_checkpoint(there, arrays, where="my.file")
    assert "\n" not in str(raised.value)
    return str(raised.value).partition("got ")[2]


def test_missing():
    def change(there):
        del there["transformer.wte.weight"], there["transformer.h.1.ln_1.weight"]

    assert broken(change) == "missing: transformer.wte.weight, transformer.h.1.ln_1.weight"


def test_unexpected():
    def change(there):
        there["transformer.h.2.ln_1.weight"] = np.ones(3)  # a layer too many
        there["score.weight"] = np.ones(3)

    assert broken(change) == "unexpected: transformer.h.2.ln_1.weight, score.weight"


def test_misshaped_tells_both_shapes_in_numtx_layout():
    def change(there):
        there["transformer.h.0.mlp.c_fc.weight"] = np.ones((3, 7))
        there["transformer.h.0.ln_1.weight"] = np.ones((3, 1))

    assert broken(change) == (
        "of another shape: transformer.h.0.ln_1.weight (3, 1) for (3,), "
        "transformer.h.0.mlp.c_fc.weight (7, 3) for (3, 7)"
    )


def test_there_twice():
    def change(there):
        there["wte.weight"] = there["transformer.wte.weight"]

    assert broken(change) == "there twice: wte.weight"


def test_all_at_once_and_every_name():
    def change(there):
        there.clear()
        for i in range(20):
            there[f"other.{i}"] = np.ones(1)

    message = broken(change)
    assert "missing: transformer.wte.weight, e2.of10.b, " in message
    assert "; unexpected: other.0, other.1," in message
    assert all(f"other.{i}" in message for i in range(20))


def test_a_model_with_a_name_that_the_table_lacks():
    with pytest.raises(ValueError, match=r"missing: new\.weight \(of which the table has no row\)"):
        table().from_checkpoint({}, {"new.weight": (1,)})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a.{i}", "b")], "the same placeholders in both patterns, got a.{i} and b"),
        ([("a.{i}", "b.{j}")], "the same placeholders"),
        ([("a", "b"), ("a", "c")], "each numtx pattern once, got a again"),
        ([("a", "c"), ("b", "c")], "each checkpoint pattern once, got c again"),
    ],
)
def test_a_table_that_is_wrong_in_itself(rows, message):
    with pytest.raises(ValueError, match=message):
        NameTable(rows)


def test_a_bare_model_writes_no_prefix_and_reads_both():
    arrays = model()
    bare = NameTable(ROWS, optional_prefix="transformer.", bare=True)
    there = bare.to_checkpoint(arrays)
    assert {"wte.weight", "h.1.mlp.c_fc.weight", "e2.of10.b"} <= set(there)
    same(bare.from_checkpoint(there, arrays), arrays)
    same(bare.from_checkpoint(table().to_checkpoint(arrays), arrays), arrays)
    del there["wte.weight"]
    with pytest.raises(ValueError, match=r"missing: wte\.weight$"):
        bare.from_checkpoint(there, arrays)


def test_a_star_stands_for_anything_in_what_is_ignored():
    arrays = model()
    there = table().to_checkpoint(arrays) | {"head.1.weight": np.ones(1), "head": np.ones(1)}
    tolerant = NameTable(ROWS, optional_prefix="transformer.", ignored=[*IGNORED, "head.*"])
    with pytest.raises(ValueError, match=r"unexpected: head$"):
        tolerant.from_checkpoint(there, arrays)
    del there["head"]
    same(tolerant.from_checkpoint(there, arrays), arrays)


def test_copies_are_read_only_where_the_first_is_missing():
    arrays = model()
    copied = NameTable(
        ROWS, optional_prefix="transformer.", copies={"transformer.wte.weight": ("lm_head.weight", "transformer.other")}
    )
    there = copied.to_checkpoint(arrays)
    first = there["transformer.wte.weight"]
    same(copied.from_checkpoint(there | {"lm_head.weight": np.zeros((9, 9))}, arrays), arrays)
    bare = {name.removeprefix("transformer."): array for name, array in there.items()}
    same(copied.from_checkpoint(bare | {"other": np.zeros((9, 9))}, arrays), arrays)
    del there["transformer.wte.weight"]
    for name in ("lm_head.weight", "transformer.other", "other"):
        same(copied.from_checkpoint(there | {name: first}, arrays), arrays)
    with pytest.raises(ValueError, match=r"missing: transformer\.wte\.weight"):
        copied.from_checkpoint(there, arrays)


def test_old_names_of_norms():
    norm = NameTable([("norm.weight", "x.LayerNorm.weight"), ("norm.bias", "x.LayerNorm.bias")], optional_prefix="x.")
    arrays = {"norm.weight": np.array([1.0, 2.0]), "norm.bias": np.array([3.0, 4.0])}
    for prefix in ("x.", ""):
        there = {f"{prefix}LayerNorm.gamma": arrays["norm.weight"], f"{prefix}LayerNorm.beta": arrays["norm.bias"]}
        same(norm.from_checkpoint(there, arrays), arrays)


def test_what_may_be_lacking_is_left_out():
    arrays = model()
    there = table().to_checkpoint(arrays)
    del there["e2.of10.b"]
    found = table().from_checkpoint(there, arrays, may_lack=("experts.",))
    del arrays["experts.10.2.bias"]
    same(found, arrays)


def test_half_of_what_may_be_lacking_is_missing():
    arrays = model()
    there = table().to_checkpoint(arrays)
    del there["transformer.h.1.ln_1.weight"]
    with pytest.raises(ValueError, match=r"missing: transformer\.h\.1\.ln_1\.weight$"):
        table().from_checkpoint(there, arrays, may_lack=("blocks.1.",))
    del there["transformer.h.1.mlp.c_fc.weight"]
    found = table().from_checkpoint(there, arrays, may_lack=("blocks.1.", "experts."))
    assert set(arrays) - set(found) == {"blocks.1.norm.weight", "blocks.1.up.weight"}


def test_copies_that_differ():
    whole = np.arange(3 * 2.0**20).reshape(-1, 2)
    last = whole.copy()
    last[-1, -1] += 1
    copied = NameTable([("a", "x.a"), ("b", "x.b")], optional_prefix="x.", copies={"x.a": ("x.c", "d"), "x.b": ("e",)})
    assert copied.differing({"x.a": whole, "x.c": whole.copy(), "d": last, "x.b": whole, "e": whole}) == [("x.a", "d")]
    assert copied.differing({"a": whole, "c": last, "x.b": whole, "e": whole.T}) == [("a", "c"), ("x.b", "e")]
    assert copied.differing({"c": whole, "d": last}) == [("c", "d")]  # without the first
    assert copied.differing({"x.a": np.array(1.0), "d": np.array(1.0), "x.c": np.array(2.0)}) == [("x.a", "x.c")]
    assert copied.differing({"x.b": whole, "d": whole}) == []
    assert copied.unwritten({"c": whole, "x.b": whole, "e": whole}) == {"x.a": "c", "d": "c"}


def test_one_memory_is_the_same_without_a_look():
    nan = np.full(4, np.nan)
    copied = NameTable([("a", "a")], copies={"a": ("b",)})
    assert copied.differing({"a": nan, "b": nan.view()}) == []
    assert copied.differing({"a": nan, "b": nan[::-1]}) == [("a", "b")]


def test_spares_are_no_copies():
    spare = NameTable([("a", "x.a")], optional_prefix="x.", spares={"x.a": ("head",)})
    assert spare.differing({"x.a": np.zeros(2), "head": np.ones(2)}) == []
    for there in ({"a": np.zeros(2), "head": np.ones(2)}, {"x.a": np.zeros(2)}, {"head": np.zeros(2)}):
        same(spare.from_checkpoint(there, {"a": (2,)}), {"a": np.zeros(2)})


def test_what_counts_before_another():
    before = NameTable([("a", "x.a")], optional_prefix="x.", before={"x.a": "x.b"})
    for there in ({"x.a": np.ones(2), "x.b": np.zeros(2)}, {"b": np.zeros(2), "a": np.ones(2)}, {"x.a": np.zeros(2)},
                  {"b": np.zeros(2)}):  # fmt: skip
        same(before.from_checkpoint(there, {"a": (2,)}), {"a": np.zeros(2)})
    assert list(before.to_checkpoint({"a": np.ones(2)})) == ["x.a"]


def test_whole_numbers_and_the_owner_of_the_error():
    arrays = model()
    there = table().to_checkpoint(arrays) | {"e2.of10.b": np.ones(4, int)}
    with pytest.raises(ValueError, match=r"^Ours: .*got not of floating-point numbers: e2\.of10\.b int64$"):
        table().from_checkpoint(there, arrays, owner="Ours")
