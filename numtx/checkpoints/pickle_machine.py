"""A reader of pickles that builds plain values and calls nothing but the functions it was given.

A pickle is a program for a small stack machine, and Python's own unpickler lets that program import and call whatever
it names. This machine knows the opcodes of protocol 2 and later that build numbers, text, tuples, lists and dicts. A
name of a global is looked up in a table of ours, and is an error if it is not there: no import ever happens.

The opcodes and their arguments are described in the standard library's `pickletools`.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

_KEY_TYPES = (str, int, float, bool, type(None), bytes)  # hashing a deep tuple could overflow C's stack
_CODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


class BrokenPickleError(ValueError):
    """What a pickle does that it should not, without the file's name."""


class Known(NamedTuple):
    """What stands for a global: its name, and the function of the arguments' tuple to run where it is called."""

    name: str
    function: Callable[[tuple[Any, ...]], Any] | None = None


def read_pickle(
    file: BinaryIO,
    known: Mapping[str, Known],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle from where the file stands, and leave the file after it.

    Parameters
    ----------
    file : binary file
        Whose `read` gives no more than there is, whatever the pickle claims.
    known : mapping of "module.name" to Known
        The globals that the pickle may name.
    persistent : callable, optional
        Function of a persistent id, for pickles that have such.

    Raises
    ------
    BrokenPickleError
        If the pickle is cut or not well formed, names another global, calls anything else, or uses an opcode that
        plain values do not need.

    Examples
    --------
    >>> import io, pickle
    >>> read_pickle(io.BytesIO(pickle.dumps({"x": [1, 2.5]}, 2)), {})
    {'x': [1, 2.5]}
    >>> read_pickle(io.BytesIO(pickle.dumps(print, 2)), {})
    Traceback (most recent call last):
    numtx.checkpoints.pickle_machine.BrokenPickleError: a pickle that names '__builtin__.print', which is not run
    """
    machine = _Machine(known, persistent)
    try:
        while True:
            code = file.read(1)
            if not code:
                raise BrokenPickleError("a pickle that is cut")
            opcode = _CODES.get(code)
            if opcode is None or (opcode.name != "STOP" and opcode.name not in _STEPS):
                raise BrokenPickleError(f"a pickle with the opcode {opcode.name if opcode else code!r}")
            argument = _argument(opcode, file)
            if opcode.name == "STOP":
                return machine.stack.pop()
            _STEPS[opcode.name](machine, argument)
    except BrokenPickleError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, EOFError):
        # Of the readers of arguments: cut, or not UTF-8. Of the steps: more taken off the stack or memo than was put.
        raise BrokenPickleError("a pickle that is not well formed") from None


def _argument(opcode: pickletools.OpcodeInfo, file: BinaryIO) -> Any:
    if opcode.arg is None:
        return None
    if opcode.name == "GLOBAL":  # pickletools would look for escapes in its two lines, where Python sees none
        return f"{_line(file)}.{_line(file)}"
    return opcode.arg.reader(file)


def _line(file: BinaryIO) -> str:
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return line[:-1].decode("utf-8")


def refuse_key(key: Any) -> None:
    """Raise if a dict's key is anything but a plain scalar."""
    if not isinstance(key, _KEY_TYPES):
        raise BrokenPickleError(f"a pickle of a dict with a key of type {type(key).__name__}")


class _Machine:
    """The stack, the stacks below its marks, the memo."""

    def __init__(self, known: Mapping[str, Known], persistent: Callable[[Any], Any] | None) -> None:
        self.known = known
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def pop_to_mark(self, _: Any) -> None:
        self.since_mark()

    def memoize(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def extend(self, items: list[Any]) -> None:
        self._top(list, "APPEND").extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._top(dict, "SETITEM")
        for key, value in zip(items[::2], items[1::2], strict=True):
            refuse_key(key)
            target[key] = value

    def new_dict(self, items: list[Any]) -> None:
        self.push({})
        self.set_items(items)

    def name(self, name: Any) -> None:
        if not isinstance(name, str) or name not in self.known:
            raise BrokenPickleError(f"a pickle that names {name!r:.100}, which is not run")
        self.push(self.known[name])

    def name_of_two(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise BrokenPickleError("a pickle that names a global by something that is not text")
        self.name(f"{module}.{name}")

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Known) or function.function is None or not isinstance(arguments, tuple):
            called = function.name if isinstance(function, Known) else f"something of type {type(function).__name__}"
            raise BrokenPickleError(f"a pickle that calls {called}, which is not run")
        self.push(function.function(arguments))

    def build(self, _: Any) -> None:
        # An OrderedDict has attributes beside its items (PyTorch's `_metadata`), of which no array depends.
        self.stack.pop()
        self._top(dict, "BUILD")

    def persistent_id(self, _: Any) -> None:
        if self.persistent is None:
            raise BrokenPickleError("a pickle with a persistent id, which has no meaning here")
        self.push(self.persistent(self.stack.pop()))

    def _top(self, kind: type, opcode: str) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise BrokenPickleError(f"a pickle with {opcode} of something of type {type(self.stack[-1]).__name__}")
        return self.stack[-1]


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_to_mark,
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), _Machine.push),
    # Python 2 wrote its text as bytes; pickletools reads them as Latin-1.
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _Machine.push),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.take(3))),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "APPEND": lambda m, _: m.extend(m.take(1)),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.new_dict(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items(m.take(2)),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.memoize),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, index: m.push(m.memo[index])),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_of_two,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
}
