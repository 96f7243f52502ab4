"""The machine for pickles: plain values as Python reads them; no name is imported and nothing of a file's is called."""

import io
import os
import pickle
import pickletools
import sys
import time
from contextlib import suppress

import pytest
from archives import named, pickled, text, whole
from hypothesis import given
from hypothesis import strategies as st

from numtx.checkpoints.pickle_machine import BrokenPickleError, Known, read_pickle

scalars = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.none() | st.binary(max_size=3)
values = st.recursive(
    scalars | st.binary(max_size=300),
    lambda v: st.lists(v, max_size=9) | st.tuples(v, v) | st.dictionaries(keys, v, max_size=5) | st.tuples(v, v, v, v),
    max_leaves=20,
)


def read(content, known=None, persistent=None):
    return read_pickle(io.BytesIO(content), known or {}, persistent)


@given(values, st.sampled_from([3, 4, 5]))
def test_plain_values_are_read_as_python_reads_them(value, protocol):
    got = read(pickle.dumps(value, protocol))
    assert got == value
    assert repr(got) == repr(value)  # True is not 1


def test_values_that_are_one_stay_one():
    inner = [1]
    got = read(pickle.dumps([inner, inner, {"a": inner}], 2))
    assert got[0] is got[1] is got[2]["a"]


def test_what_follows_the_pickle_is_left_in_the_file():
    file = io.BytesIO(pickle.dumps("a", 2) + pickle.dumps("b", 2) + b"rest")
    assert [read_pickle(file, {}), read_pickle(file, {}), file.read()] == ["a", "b", b"rest"]


def test_text_of_python_2():
    assert read(pickled(b"(U\x03abcT\x04\x00\x00\x00wxyzt")) == ("abc", "wxyz")


def test_only_what_stands_in_the_table_is_called():
    known = {"shop.add": Known("shop.add", sum), "shop.kind": Known("shop.kind")}
    assert read(pickled(named("shop", "add") + b"(" + whole(2) + whole(3) + b"tR"), known) == 5
    assert read(pickled(text("shop") + text("add") + b"\x93(" + whole(2) + b"tR"), known) == 2
    assert read(pickled(named("shop", "kind")), known) == Known("shop.kind")
    with pytest.raises(BrokenPickleError, match=r"calls shop\.kind, which is not run"):
        read(pickled(named("shop", "kind") + b")R"), known)


class Trap:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Watch:
    """What the interpreter says it does (imports, files, processes, code made) while the watch is on."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self)  # for good: there is no way to remove one

    def __call__(self, event, arguments):
        if self.on:
            self.seen.append((event, arguments))

    def __enter__(self):
        self.on, self.seen = True, []

    def __exit__(self, *raised):
        self.on = False


WATCH = Watch()


def test_the_watch_sees_what_pythons_own_unpickler_does():
    with WATCH:
        pickle.loads(pickle.dumps(Trap(os.system, "true"), 2))
    assert {"pickle.find_class", "os.system"} <= {event for event, _ in WATCH.seen}


SHELL = named("posix", "system") + text("exit 1") + b"\x85R"
MALICIOUS = {
    "os.system": pickle.dumps(Trap(os.system, "exit 1"), 2),
    "os.system by protocol 4": pickle.dumps(Trap(os.system, "exit 1"), 4),
    "eval": pickle.dumps(Trap(eval, "__import__('sys').exit(1)"), 2),
    "exec": pickle.dumps(Trap(exec, "raise SystemExit"), 4),
    "getattr": pickle.dumps(Trap(getattr, "", "join"), 2),
    "nested": pickle.dumps({"a": [1, (2, Trap(os.system, "exit 1"))]}, 2),
    "a name of ours": pickle.dumps(Trap(read, b""), 4),
    "a dotted name": pickled(text("torch") + text("serialization.os.system") + b"\x93" + text("exit 1") + b"\x85R"),
    "a name made of no text": pickled(b"]]\x93)R"),
    "a name with a backslash": pickled(named("o\\s", "\\x41") + b")R"),
    "a call of a text": pickled(text("os.system") + text("exit 1") + b"\x85R"),
    "a call of a list": pickled(b"])R"),
    "BUILD of a name": pickled(named("collections", "OrderedDict") + b"}b"),
    "BUILD of a list": pickled(b"]}b"),
    "BUILD with slots": pickled(b"](}}\x86b"),
    "NEWOBJ": pickled(named("subprocess", "Popen") + b")\x81"),
    "NEWOBJ of a known name": pickled(named("collections", "OrderedDict") + b")\x81"),
    "NEWOBJ_EX": pickled(named("collections", "OrderedDict") + b")}\x92"),
    "INST": b"(S'exit 1'\nios\nsystem\n.",
    "OBJ": pickled(b"(" + named("os", "system") + text("exit 1") + b"o"),
    "an extension code": pickled(b"\x82\x01"),
    "a persistent id as text": b"Pos.system\n.",
    "a persistent id": pickled(text("os.system") + b"Q"),
    "an exception": pickled(named("builtins", "SystemExit") + b")R"),
    "a codec": pickled(named("_codecs", "encode") + text("a") + b"\x85R"),
    "a name in the table of names alone": pickled(named("torch", "float32") + b")R"),
    "a call without arguments": pickled(named("collections", "OrderedDict") + b"NR"),
    "a buffer": pickled(b"\x97"),
    "a set": pickle.dumps({1}, 4),
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_pickle_that_would_do_something(kind):
    known = {"collections.OrderedDict": Known("collections.OrderedDict", lambda _: {}), "torch.float32": Known("f")}
    with pytest.raises(BrokenPickleError, match=r"^a pickle (that|with) ") as raised, WATCH:
        read(MALICIOUS[kind], known)
    assert WATCH.seen == []
    assert "\n" not in str(raised.value)


def test_what_would_have_been_run_is_named():
    with pytest.raises(BrokenPickleError, match=r"names 'posix\.system', which is not run"):
        read(pickled(SHELL))


BROKEN = {
    "empty": b"",
    "cut": pickle.dumps(list(range(50)), 2)[:-1],
    "cut in a number": pickle.dumps(70_000, 2)[:-3],
    "cut in a text": pickle.dumps("a" * 50, 2)[:20],
    "a text that claims the world": b"X\xff\xff\xff\xffabc.",
    "a longer claim": b"\x8d" + b"\xff" * 7 + b"\x7fabc.",
    "a number that claims the world": b"\x8b\xff\xff\xff\x7fabc.",
    "a negative length": b"\x8b\xff\xff\xff\xffabc.",
    "not UTF-8": b"X\x01\x00\x00\x00\xff.",
    "nothing left at the end": pickled(b""),
    "nothing to duplicate": pickled(b"2"),
    "a mark that was not set": pickled(b"t"),
    "a memo that was not put": pickled(b"h\x05"),
    "nothing to put": pickled(b"q\x00"),
    "a pair too few": pickled(b"}K\x01s"),
    "an odd dict": pickled(b"(K\x01d"),
    "items of no dict": pickled(b"](K\x01K\x02u"),
    "items of no list": pickled(b"}K\x01a"),
    "a key that is a list": pickled(b"}]K\x01s"),
    "a key that is a tuple": pickled(b"}K\x01\x85K\x01s"),
    "an opcode that is none": pickled(b"\xff"),
    "a name that does not end": b"cos",
    "a name that is not UTF-8": b"cos\n\xff\n.",
    "numbers as text": b"I12\n.",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_pickle(kind):
    with pytest.raises(BrokenPickleError, match="a pickle"):
        read(BROKEN[kind])


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02N" + b"\x85" * 500_000 + b".",  # tuples, each in another
        b"\x80\x02" + b"(" * 500_000 + b".",
        b"\x80\x02]q\x00" + b"h\x00a" * 200_000 + b".",  # a list of itself
        b"\x80\x02]" + b"q\x00h\x00h\x00\x86" * 100_000 + b".",  # 2^100000 leaves, were it unfolded
    ],
)
def test_depth_and_sharing_cost_no_more_than_their_bytes(content):
    began = time.process_time()
    with suppress(BrokenPickleError):
        read(content)
    assert time.process_time() - began < 10


def test_a_deep_key_is_refused_before_it_is_hashed():
    with pytest.raises(BrokenPickleError, match="a key of type tuple"):
        read(b"\x80\x02}N" + b"\x85" * 300_000 + b"Ns.")


def test_every_opcode_that_the_machine_knows_is_harmless_by_its_description():
    # What could import or call has these names; the three that stay go through the table.
    calling = {"REDUCE", "GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
    from numtx.checkpoints.pickle_machine import _STEPS

    assert set(_STEPS) <= {opcode.name for opcode in pickletools.opcodes}
    assert calling & set(_STEPS) == {"REDUCE", "GLOBAL", "STACK_GLOBAL"}
