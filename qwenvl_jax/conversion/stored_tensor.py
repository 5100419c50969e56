"""A tensor in a file: where its bytes lie, and how rows of it are read.

Files are read by position, never mapped: pages of a mapped file count as resident memory, and a full checkpoint has 19 GB.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ml_dtypes
import numpy as np

from qwenvl_jax.conversion import direct

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = {"float32": np.dtype(np.float32), "bfloat16": BFLOAT16, "float16": np.dtype(np.float16)}
"""Types that parameters may have in a file."""

_EXPONENT = {4: np.uint32(0x7F800000)}  # all ones: infinite, or not a number
_HALF_EXPONENT = {BFLOAT16: np.uint16(0x7F80), np.dtype(np.float16): np.uint16(0x7C00)}
_BLOCK = 1 << 18  # elements that stay in the cache while they are looked at


class Tensor(Protocol):
    """What conversion reads: rows of a tensor that lies in a file, or in memory."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
      offset: bytes from the file's start to the first element.
      strides: elements between neighbours along each axis; None for C order.
    """

    name: str
    file: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start..stop of the first axis, in memory (the whole tensor by default).

        Raises:
          ValueError: the file ends before the tensor does.
        """
        if self.strides is not None and self.size:
            span = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides))
            flat = self._read(self.offset, span)
            steps = [step * self.dtype.itemsize for step in self.strides]
            whole = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
            return np.ascontiguousarray(whole[start:stop])
        if not self.shape:
            return self._read(self.offset, 1).reshape(())
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        row = math.prod(self.shape[1:])
        flat = self._read(self.offset + start * row * self.dtype.itemsize, (stop - start) * row)
        return flat.reshape(stop - start, *self.shape[1:])

    def _read(self, offset: int, elements: int) -> np.ndarray:
        return direct.read(self.file, offset, elements * self.dtype.itemsize).view(self.dtype)


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that can be written directly."""
    return direct.aligned(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


def finite(array: np.ndarray) -> bool:
    """Whether no element is infinite or not a number; looks at exponents, so that bfloat16 is as fast as float32."""
    unsigned = np.dtype(f"u{array.dtype.itemsize}").type
    mask = _EXPONENT.get(array.dtype.itemsize) or _HALF_EXPONENT[array.dtype]
    bits = array.reshape(-1).view(unsigned)
    block = np.empty(min(_BLOCK, bits.size), unsigned)
    for start in range(0, bits.size, _BLOCK):
        part = bits[start : start + _BLOCK]
        if np.bitwise_and(part, mask, out=block[: part.size]).max() == mask:
            return False
    return True
