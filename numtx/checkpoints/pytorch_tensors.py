"""What PyTorch's pickles name, as plain descriptions: a tensor is a storage, an offset, sizes and strides."""

import math
import mmap
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from numtx.checkpoints.pickle_machine import BrokenPickleError, Known, refuse_key
from numtx.checkpoints.stored import StoredArray, release, widened

# What torch.save calls a storage of each type, and the bytes as NumPy reads them.
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
_UNSIGNED = ("uint16", "uint32", "uint64")  # newer types, which have no storage of their own
_MOST_AXES = 32
_UNTYPED = "untyped"


class Storage(NamedTuple):
    """Numbers in a row in the file: `numel` of them under the file's key `key`."""

    key: str
    dtype: str
    numel: int
    first: int = 0  # where this part of the file's storage begins, in numbers (the legacy form has such parts)


class Tensor(NamedTuple):
    """A view of a storage, in numbers, not bytes."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def itemsize(dtype: str) -> int:
    """Bytes of a number of this type in the file."""
    return 1 if dtype == _UNTYPED else np.dtype(_as_numpy(dtype)).itemsize


def _as_numpy(dtype: str) -> str:
    return "uint16" if dtype == "bfloat16" else dtype


def storage_of(identity: Any) -> Storage:
    """Return what the persistent id of a pickle of PyTorch's stands for."""
    if not isinstance(identity, tuple) or not identity or identity[0] != "storage":
        raise BrokenPickleError("a pickle with a persistent id that is no storage's")
    if len(identity) not in (5, 6):
        raise BrokenPickleError("a storage that is not type, key, device and size")
    kind, key, _, count = identity[1:5]
    if not isinstance(kind, Known) or kind.name not in _STORAGE_TYPES:
        raise BrokenPickleError("a storage of no known type")
    if not isinstance(key, str) or not _is_size(count):
        raise BrokenPickleError("a storage whose key is not text or whose size is not a number")
    storage = Storage(key, _STORAGE_TYPES[kind.name], count)
    part = identity[5] if len(identity) == 6 else None
    if part is None:
        return storage
    if not isinstance(part, tuple) or len(part) != 3 or not all(map(_is_size, part[1:])) or sum(part[1:]) > count:
        raise BrokenPickleError("a part of a storage that is not within it")
    return storage._replace(first=part[1])


def known_globals(most: int) -> dict[str, Known]:
    """Return the globals that PyTorch's pickles of tensors name, by name.

    Parameters
    ----------
    most : int
        How many items may be copied from list to dict in all, so that a small file cannot ask for the square of its
        size; its number of bytes.
    """
    functions: dict[str, Callable[[tuple[Any, ...]], Any]] = {
        **_REBUILDS,
        "torch._tensor._rebuild_from_type_v2": _of_a_subclass,
        "torch.Size": _size,
        "torch.device": lambda arguments: "device",
        "collections.OrderedDict": partial(_ordered, [most]),
    }
    names = [*_STORAGE_TYPES, *_DTYPES, "torch.Tensor", "torch.nn.parameter.Parameter"]
    return {**{name: Known(name) for name in names}, **{name: Known(name, run) for name, run in functions.items()}}


_STORAGE_TYPES = {f"torch.{kind}Storage": dtype for kind, dtype in _STORAGES.items()}
_STORAGE_TYPES |= dict.fromkeys(("torch.UntypedStorage", "torch.storage.UntypedStorage"), _UNTYPED)
_DTYPES = {f"torch.{dtype}": dtype for dtype in (*_STORAGES.values(), *_UNSIGNED)}


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**60


def _sizes(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= _MOST_AXES and all(map(_is_size, value))


def _tensor(storage: Any, dtype: str | None, offset: Any, shape: Any, strides: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise BrokenPickleError("a tensor without a storage")
    if not (_is_size(offset) and _sizes(shape) and _sizes(strides) and len(shape) == len(strides)):
        raise BrokenPickleError("a tensor whose offset, sizes and strides no array has")
    dtype = storage.dtype if dtype is None else dtype
    if dtype == _UNTYPED or (dtype != storage.dtype and storage.dtype != _UNTYPED):
        raise BrokenPickleError(f"a tensor of {dtype} over a storage of {storage.dtype}")
    return Tensor(storage, dtype, offset, shape, strides)


def _tensor_v1(arguments: tuple[Any, ...]) -> Tensor:
    if len(arguments) != 4:
        raise BrokenPickleError("a tensor that is not storage, offset, size and stride")
    storage, offset, shape, strides = arguments
    return _tensor(storage, None, offset, shape, strides)


def _tensor_v2(arguments: tuple[Any, ...]) -> Tensor:
    if len(arguments) not in (6, 7):
        raise BrokenPickleError("a tensor that is not storage, offset, size, stride and three more")
    _refuse_lazy_bits(arguments[6:])
    return _tensor_v1(arguments[:4])


def _tensor_v3(arguments: tuple[Any, ...]) -> Tensor:
    if len(arguments) not in (7, 8) or not isinstance(arguments[6], Known) or arguments[6].name not in _DTYPES:
        raise BrokenPickleError("a tensor whose seventh argument is not its type")
    _refuse_lazy_bits(arguments[7:])
    storage, offset, shape, strides = arguments[:4]
    return _tensor(storage, _DTYPES[arguments[6].name], offset, shape, strides)


def _refuse_lazy_bits(metadata: tuple[Any, ...]) -> None:
    """A view that PyTorch has yet to negate or conjugate says so beside its numbers."""
    if any(isinstance(bits, dict) and (bits.get("neg") or bits.get("conj")) for bits in metadata):
        raise BrokenPickleError("a tensor that is a negated or conjugated view")


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    if len(arguments) not in (3, 4) or not isinstance(arguments[0], Tensor):
        raise BrokenPickleError("a parameter that is not a tensor and whether it is trained")
    return arguments[0]


def _of_a_subclass(arguments: tuple[Any, ...]) -> Tensor:
    """`(function, type, its arguments, attributes)`: a tensor with attributes, of which its numbers do not depend."""
    function, kind, given = arguments[:3] if len(arguments) == 4 else (None, None, None)
    plain = isinstance(kind, Known) and kind.name in ("torch.Tensor", "torch.nn.parameter.Parameter")
    rebuild = _REBUILDS.get(function.name) if isinstance(function, Known) else None
    if not plain or rebuild is None or not isinstance(given, tuple):
        raise BrokenPickleError("a tensor of a class that is neither Tensor nor Parameter")
    return rebuild(given)


_REBUILDS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _tensor_v1,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    sizes = arguments[0] if len(arguments) == 1 else None
    if isinstance(sizes, list) and len(sizes) <= _MOST_AXES:
        sizes = tuple(sizes)
    if not _sizes(sizes):
        raise BrokenPickleError("a torch.Size that is not sizes")
    return sizes  # type: ignore[return-value]  # `_sizes` has looked


def _ordered(left: list[int], arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """A dict; Python 2 gave its items as one list of pairs."""
    items = arguments[0] if len(arguments) == 1 else []
    if len(arguments) > 1 or not isinstance(items, list) or len(items) > left[0]:
        raise BrokenPickleError("an OrderedDict that is not made of pairs")
    left[0] -= len(items)
    made = {}
    for pair in items:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BrokenPickleError("an OrderedDict that is not made of pairs")
        refuse_key(pair[0])
        made[pair[0]] = pair[1]
    return made


def stored_tensor(tensor: Tensor, mapped: mmap.mmap, data: np.ndarray, span: slice, *, big_endian: bool) -> StoredArray:
    """Return the tensor as an array that is read when asked for.

    Parameters
    ----------
    tensor : Tensor
    mapped, data : map of the file, and its bytes as an array
    span : slice
        Where its whole storage lies in them.
    big_endian : bool
        Whether the file's numbers are.

    Raises
    ------
    BrokenPickleError
        If the tensor reaches beyond its storage, or has more numbers than the file has bytes: a stride of 0 makes any
        number of them out of one.
    """
    size = itemsize(tensor.dtype)
    count = math.prod(tensor.shape)
    if any(tensor.shape) and math.prod(n or 1 for n in tensor.shape) >= 2**60:
        raise BrokenPickleError("a tensor of a size that no array has")
    first = tensor.storage.first + tensor.offset
    last = first + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    there = (span.stop - span.start) // size
    if count and (last >= there or count > len(data)):
        raise BrokenPickleError(f"a tensor {tensor.shape} that reaches beyond the {there} numbers of its storage")
    code = np.dtype(_as_numpy(tensor.dtype)).newbyteorder(">" if big_endian else "<")
    begin, end = span.start + first * size, span.start + (last + 1) * size
    read = partial(_read, tensor, mapped, data, code, begin, end)
    return StoredArray(tensor.dtype, tensor.shape, count * size, read)


def _read(tensor: Tensor, mapped: mmap.mmap, data: np.ndarray, code: np.dtype, begin: int, end: int) -> np.ndarray:
    if not math.prod(tensor.shape):
        return widened(np.zeros(tensor.shape, code), tensor.dtype)
    steps = tuple(stride * code.itemsize for stride in tensor.strides)
    view = np.ndarray(tensor.shape, code, buffer=data, offset=begin, strides=steps)
    if _meets_itself(tensor.shape, tensor.strides):
        view = view.copy()  # a parameter whose elements share memory could not be updated
    array = widened(view, tensor.dtype)
    # Over an untyped storage another tensor may be a view of the same bytes; over a typed one all are copies or none.
    if array is not view and tensor.storage.dtype != _UNTYPED:
        release(mapped, begin, end)
    return array


def _meets_itself(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether two elements may lie in one place: an axis that steps less far than the smaller ones reach together."""
    reach = 0
    for stride, n in sorted((stride, n) for n, stride in zip(shape, strides, strict=True) if n > 1):
        if stride <= reach:
            return True
        reach += (n - 1) * stride
    return False
