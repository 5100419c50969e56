"""Safetensors files: the header read with suspicion, and files written piece by piece.

The library's own writer wants a whole file's tensors in memory; here the header is written first, and every tensor's bytes
go to their known position, in any order, from any thread.
Source of the format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON, the tensors' bytes).
"""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from qwenvl_jax.conversion.stored_tensor import BFLOAT16, StoredTensor, read_into, write_at

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_LIMIT = 100 << 20
"""Bytes of a header; the library has the same limit."""


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, by name. Nothing but the header is read.

    Raises:
      ValueError: the file is truncated, damaged, or holds a type that is not known here.
    """
    size = file.stat().st_size
    with file.open("rb", buffering=0) as opened:
        length = np.zeros(1, "<u8")
        read_into(opened.fileno(), length, 0, file)
        start = 8 + int(length[0])
        if length[0] > HEADER_LIMIT or start > size:
            raise ValueError(f"{file} is no safetensors file, or truncated: its header would have {length[0]} bytes")
        text = np.zeros(int(length[0]), np.uint8)
        read_into(opened.fileno(), text, 8, file)
    try:
        header = json.loads(text.tobytes(), object_pairs_hook=_once)
        header.pop("__metadata__", None)
        tensors = {name: _tensor(name, file, start, entry) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"the header of {file} is damaged ({error}); fetch it again") from error
    end = start
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.size)):
        if tensor.offset != end:
            raise ValueError(f"{file} is damaged: the bytes of {tensor.name} overlap others or leave a gap")
        end = tensor.offset + tensor.size * tensor.dtype.itemsize
    if end != size:
        raise ValueError(f"{file} is truncated or damaged: it has {size} bytes, its header tells of {end}")
    return tensors


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object without repeated names."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _tensor(name: str, file: Path, start: int, entry: dict) -> StoredTensor:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"type {entry['dtype']!r} of {name}")
    dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    numbers = (*shape, begin, end)
    if not all(type(n) is int and n >= 0 for n in numbers) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"shape and position of {name}")
    return StoredTensor(name, file, start + begin, dtype, tuple(shape))


class SafetensorsWriter:
    """A file whose tensors are written by position. Use as a context: leaving it whole waits for the disk."""

    def __init__(self, file: Path, tensors: Iterable[tuple[str, np.dtype, tuple[int, ...]]]):
        """Makes the file at its full size.

        Args:
          tensors: name, type and shape, in the order of the file.
        """
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}
        end = 0
        for name, dtype, shape in tensors:
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
            self._places[name] = (begin, dtype, shape)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._start = 8 + len(text)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.ftruncate(self._descriptor, self._start + end)
        write_at(self._descriptor, np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8), 0)

    def write(self, name: str, start: int, rows: np.ndarray) -> None:
        """Puts rows (of the first axis, from `start`) of a tensor to their place."""
        begin, dtype, shape = self._places[name]
        offset = begin + start * math.prod(shape[1:]) * dtype.itemsize
        write_at(self._descriptor, rows, self._start + offset)

    def __enter__(self) -> "SafetensorsWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
