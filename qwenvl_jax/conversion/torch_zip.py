"""State dicts in PyTorch's zip format (`torch.save` since 1.6), read without PyTorch and without running their content.

A `.bin` file is a zip of one pickle and the raw storages. A pickle is a program; `_interpret` knows only the
instructions that build containers, and three torch functions, which it replaces by plain records. Everything else is
refused by name before anything happens.
Source of the format: `torch/serialization.py`, `torch/_utils.py` of PyTorch.
"""

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from qwenvl_jax.conversion.stored_tensor import BFLOAT16, StoredTensor

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
PICKLE_LIMIT = 64 << 20
"""Bytes of the pickle; that of the full model has 100 thousand."""


@dataclass(frozen=True)
class _Global:
    """A name that the pickle imports; it stays a name."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    elements: int


@dataclass(frozen=True)
class _View:
    """A tensor: a view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where a container begins on the stack."""


def read_state_dict(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, by name. Only the zip's directory and the pickle are read.

    Raises:
      ValueError: the file is older than the zip format, truncated, asks for anything but tensors, or is no flat
        dictionary of tensors.
    """
    with file.open("rb") as opened:
        if opened.read(4) != b"PK\x03\x04":
            raise ValueError(
                f"{file} is not in PyTorch's zip format (1.6 and later); load it in PyTorch and save it again, "
                "best as safetensors"
            )
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
            if len(pickles) != 1 or entries[pickles[0]].file_size > PICKLE_LIMIT:
                raise ValueError(f"{file} holds no state dict of PyTorch (a zip with one data.pkl of some kilobytes)")
            folder = pickles[0].removesuffix("data.pkl")
            order = entries.get(f"{folder}byteorder")
            if order is not None and (order.file_size != 6 or archive.read(order) != b"little"):
                raise ValueError(f"{file} was saved on a big-endian machine; save it again on another")
            program = archive.read(pickles[0])
        found = _interpret(program)
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise ValueError("it is no dictionary by name")
        others = [name for name, value in found.items() if not isinstance(value, _View)]
        if others:
            raise ValueError(f"{others[0]!r} is no tensor; save the bare state_dict of the model")
        return {name: _locate(name, view, file, folder, entries) for name, view in found.items()}
    except (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError) as error:
        raise ValueError(f"{file} is truncated or damaged ({error}); fetch it again") from error
    except ValueError as error:
        if str(file) in str(error):
            raise
        raise ValueError(f"{file} is refused: {error}") from error


def _locate(name: str, view: _View, file: Path, folder: str, entries: dict[str, zipfile.ZipInfo]) -> StoredTensor:
    """The view's bytes in the file, after comparing every size with the zip's directory."""
    storage = view.storage
    info = entries.get(f"{folder}data/{storage.key}")
    if info is None:
        raise ValueError(f"the bytes of {name} are missing")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"the bytes of {name} are compressed or encrypted, which PyTorch never does")
    last = view.offset + sum((n - 1) * step for n, step in zip(view.shape, view.strides))
    numbers = (view.offset, storage.elements, *view.shape, *view.strides)
    sound = len(view.shape) == len(view.strides) and all(type(n) is int and n >= 0 for n in numbers)
    if not sound or info.file_size != storage.elements * storage.dtype.itemsize:
        raise ValueError(f"the sizes of {name} contradict each other")
    if math.prod(view.shape) and last >= storage.elements:
        raise ValueError(f"{name} reaches beyond its storage")
    contiguous, expected = True, 1
    for size, step in zip(reversed(view.shape), reversed(view.strides)):
        contiguous &= size == 1 or step == expected
        expected *= size
    # Overlapping views (expand) would ask for more memory than the file has bytes.
    if not contiguous and math.prod(view.shape) > storage.elements:
        raise ValueError(f"{name} repeats its elements; save a contiguous copy")
    with file.open("rb") as opened:
        opened.seek(info.header_offset)
        header = opened.read(30)
        if header[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"no entry where the directory has {name}")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.file_size > file.stat().st_size:
        raise zipfile.BadZipFile(f"the bytes of {name} lie beyond the end")
    strides = None if contiguous else view.strides
    return StoredTensor(name, file, start + view.offset * storage.dtype.itemsize, storage.dtype, view.shape, strides)


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    """`collections.OrderedDict`, empty or of a list of pairs."""
    return dict(pairs)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    """`torch._utils._rebuild_tensor_v2`; gradients and hooks are left out."""
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise ValueError("a tensor is not made of a storage, a shape and strides")
    return _View(storage, offset, shape, strides)


def _parameter(data: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_parameter`: the tensor itself."""
    return data


CALLS: dict[_Global, Callable[..., Any]] = {
    _Global("collections", "OrderedDict"): _dictionary,
    _Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Global("torch._utils", "_rebuild_parameter"): _parameter,
}


def _import(module: Any, name: Any) -> _Global:
    known = _Global(str(module), str(name))
    if known not in CALLS and not (module == "torch" and name in STORAGES):
        raise ValueError(f"it would run {module}.{name}; a state dict needs nothing but tensors")
    return known


def _storage(reference: Any) -> _Storage:
    """('storage', type, key, device, number of elements)."""
    if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
        raise ValueError("a storage is described in an unknown way")
    _, kind, key, _, elements = reference
    if not isinstance(kind, _Global) or kind.name not in STORAGES or type(elements) is not int:
        raise ValueError(f"storage {key!r} has no known type")
    return _Storage(str(key), STORAGES[kind.name], elements)


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Global) or function not in CALLS or not isinstance(arguments, tuple):
        raise ValueError("it calls what is no function of a state dict")
    return CALLS[function](*arguments)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpret(program: bytes) -> Any:
    """The value of a pickle that only builds containers of tensors; see `pickletools` for the instructions.

    Raises:
      ValueError: any other instruction, or one that does not find what it needs.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = [i for i, value in enumerate(stack) if isinstance(value, _Mark)][-1]
        taken = stack[start + 1 :]
        del stack[start:]
        return taken

    try:
        for opcode, value, _ in pickletools.genops(program):
            name, argument = opcode.name, cast(Any, value)
            if name in ("PROTO", "FRAME"):
                continue
            if name == "STOP":
                return stack.pop()
            if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                stack.append(argument)
            elif name == "MARK":
                stack.append(_Mark())
            elif name in ("EMPTY_DICT", "EMPTY_LIST"):
                stack.append({} if name == "EMPTY_DICT" else [])
            elif name == "TUPLE":
                stack.append(tuple(since_mark()))
            elif name in _TUPLES:
                count = _TUPLES[name]
                stack[-count:] = [tuple(stack[-count:])]
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "GLOBAL":
                stack.append(_import(*argument.split(" ", 1)))
            elif name == "STACK_GLOBAL":
                imported = stack.pop()
                stack.append(_import(stack.pop(), imported))
            elif name == "BINPERSID":
                stack.append(_storage(stack.pop()))
            elif name == "REDUCE":
                arguments = stack.pop()
                stack.append(_call(stack.pop(), arguments))
            elif name == "BUILD":  # attributes of the dictionary (`_metadata`): not needed
                stack.pop()
            elif name in ("SETITEM", "SETITEMS"):
                items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            elif name in ("APPEND", "APPENDS"):
                stack[-1].extend(since_mark() if name == "APPENDS" else [stack.pop()])
            else:
                raise ValueError(f"its pickle uses {name}, which no state dict needs")
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its pickle is damaged ({error!r})") from error
    raise ValueError("its pickle has no end")
