"""Safetensors files: the header read with suspicion, and files written piece by piece.

The library's own writer wants a whole file's tensors in memory; here the header is written first, and every tensor's bytes
go to their known position, in any order, from any thread.
Source of the format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON, the tensors' bytes).
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from qwenvl_jax.conversion import direct
from qwenvl_jax.conversion.stored_tensor import BFLOAT16, StoredTensor

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
    length = int.from_bytes(direct.read(file, 0, 8).tobytes(), "little")
    start = 8 + length
    if length > HEADER_LIMIT or start > size:
        raise ValueError(f"{file} is no safetensors file, or truncated: its header would have {length} bytes")
    text = direct.read(file, 8, length)
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
    """A file whose tensors are written by position. Use as a context: leaving it well waits for the disk."""

    def __init__(self, file: Path, tensors: Iterable[tuple[str, np.dtype, tuple[int, ...]]]):
        """Makes the file at its full size.

        Args:
          tensors: name, type and shape. Those of whole disk blocks come first, behind a header of whole blocks, so that
            they can be written directly.
        """
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}
        end = 0
        for name, dtype, shape in sorted(tensors, key=lambda t: math.prod(t[2]) * t[1].itemsize % direct.BLOCK != 0):
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
            self._places[name] = (begin, dtype, shape)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % direct.BLOCK)
        self._start = 8 + len(text)
        self._file = direct.Writer(file, self._start + end)
        self._file.write(0, np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8))

    def write(self, name: str, start: int, rows: np.ndarray) -> None:
        """Puts rows (of the first axis, from `start`) of a tensor to their place."""
        begin, dtype, shape = self._places[name]
        self._file.write(self._start + begin + start * math.prod(shape[1:]) * dtype.itemsize, rows)

    def __enter__(self) -> "SafetensorsWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close(whole=kind is None)
