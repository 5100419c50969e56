"""The unit of conversion: some rows of one tensor of the original, and the regions of our arrays that hold them.

Every piece is read, turned and written on its own, so that memory stays bounded whatever the model's size, and several
threads work at once. A piece has at most about `PIECE_ELEMENTS` elements, except where the original fuses several of our
arrays in its rows (`c_attn`: 50 M elements at full size).
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from qwenvl_jax.config import ModelConfig, PrecisionConfig
from qwenvl_jax.conversion.stored_tensor import FLOATS, empty
from qwenvl_jax.models.parameters import build, layout_of
from qwenvl_jax.models.weights import Entry, join, original_names, split, to_original

PIECE_ELEMENTS = 16 << 20
ROWS_UNIT = 16
"""Pieces begin at multiples of so many rows: whole blocks of the disk at the widths of the released model."""
STRIP = 16
"""Elements of a strip of `copy_blocked`: one cache line of 32 bits, half a line of 16."""
WORKERS = 3
"""Threads: on two cores two can turn arrays while one waits for the disk. Each holds a piece three times at most."""

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Piece:
    """Rows start..stop of the original's tensor `name`.

    Attributes:
      layer: of our stacked arrays; None where they stand alone.
      shape: of these rows.
      index: where they lie in each of our arrays (`entry.paths`).
    """

    name: str
    entry: Entry
    layer: int | None
    start: int
    shape: tuple[int, ...]
    index: Index


def original_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the original; nothing is allocated."""
    tensors = jax.eval_shape(lambda p: to_original(p, layout_of(config)), parameter_shapes(config))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def parameter_shapes(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape of every parameter of ours."""
    return build(config, PrecisionConfig()).shapes


def rows_per_piece(entry: Entry, shape: tuple[int, ...]) -> int:
    """Rows of all of the tensor's pieces but the last; all rows where the pattern fuses its first axis."""
    if entry.pattern[0] == "(" or len(shape) < 2:
        return shape[0]
    rows = math.ceil(shape[0] / math.ceil(math.prod(shape) / PIECE_ELEMENTS))
    return min(-(-rows // ROWS_UNIT) * ROWS_UNIT, shape[0])


def pieces(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Piece]:
    """Every tensor in pieces, in the order of the table; `shapes` as `original_shapes` gives them."""
    for name, entry, layer in original_names(layout_of(config)):
        shape = shapes[name]
        stack: Index = () if layer is None else (layer,)
        rows = rows_per_piece(entry, shape)
        axis = rows_axis(entry)
        for start in range(0, shape[0], rows):
            stop = min(start + rows, shape[0])
            region: Index = (*[slice(None)] * axis, slice(start, stop)) if rows < shape[0] else ()
            yield Piece(name, entry, layer, start, (stop - start, *shape[1:]), (*stack, *region))


def rows_axis(entry: Entry) -> int:
    """The axis of ours (of one layer) that runs over the original's rows, where they are not fused."""
    original, ours = entry.pattern.split(" -> ")
    axes = re.sub(r"\([^)]*\)", "fused", ours).split()
    return axes.index(original[0]) if original[0] != "(" else 0


def to_ours(piece: Piece, rows: np.ndarray, config: ModelConfig) -> list[np.ndarray]:
    """The rows as regions of our arrays, in C order, one per path of the entry."""
    regions = split(piece.entry, rows, layout_of(config))
    copies = [empty(region.shape, region.dtype) for region in regions]
    for copy, region in zip(copies, regions):
        copy_blocked(copy, region)
    return copies


def to_rows(piece: Piece, regions: Sequence[np.ndarray], dtype: np.dtype, config: ModelConfig) -> np.ndarray:
    """The inverse of `to_ours`, rounded to `dtype`."""
    rows = empty(piece.shape, dtype)
    views = split(piece.entry, rows, layout_of(config))
    if not all(np.shares_memory(view, rows) for view in views):  # the convolution's pattern cannot be a view
        rows[...] = join(piece.entry, regions, layout_of(config))
        return rows
    for view, region in zip(views, regions):
        copy_blocked(view, region)
    return rows


def copy_blocked(target: np.ndarray, source: np.ndarray) -> None:
    """`target[...] = source`, in strips of `STRIP` where the two differ in their fastest axis.

    A whole transposed copy misses the cache at every element: on [11008, 4096] of 16 bits 0.19 GB/s of one core, strips
    of 8 or 16 2.6 GB/s, of 32 1.7 GB/s.
    """
    target, source = _merged(target, source)
    fast_in_target, fast_in_source = (int(np.argmin(_steps(a))) if a.ndim else 0 for a in (target, source))
    if fast_in_target == fast_in_source:
        target[...] = source
        return
    choices: list[Iterable[Any]] = [range(n) for n in target.shape]
    choices[fast_in_source] = [slice(None)]
    choices[fast_in_target] = [slice(i, i + STRIP) for i in range(0, target.shape[fast_in_target], STRIP)]
    for strip in itertools.product(*choices):
        target[strip] = source[strip]


def _merged(target: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays with neighbouring axes made one wherever both can, e.g. heads and head size."""
    shape: list[int] = []
    for axis, size in enumerate(target.shape):
        together = shape and all(a.strides[axis - 1] == size * a.strides[axis] for a in (target, source))
        shape[-1:] = [shape[-1] * size] if together else [*shape[-1:], size]
    return target.reshape(shape), source.reshape(shape)  # views: the strides allow it


def _steps(array: np.ndarray) -> list[float]:
    """Strides, where axes of one element count as the slowest."""
    return [step if n > 1 else math.inf for step, n in zip(array.strides, array.shape)]


def differences(found: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is missing, unexpected, misshapen or of another type, one line each. `found` has .shape and .dtype."""
    lines = [f"{name} is missing" for name in expected if name not in found]
    lines += [f"{name} is unexpected" for name in found if name not in expected]
    for name in expected:
        if name not in found:
            continue
        shape, dtype = tuple(found[name].shape), np.dtype(found[name].dtype)
        if shape != tuple(expected[name]):
            lines.append(f"{name} has shape {list(shape)} instead of {list(expected[name])}")
        if dtype not in FLOATS.values():
            lines.append(f"{name} has type {dtype} instead of one of {', '.join(FLOATS)}")
    return lines


def refuse(place: object, lines: Sequence[str]) -> None:
    """Raises one ValueError that names everything wrong with a model's tensors; nothing where all is well."""
    if lines:
        raise ValueError(f"{place} does not hold this model, {len(lines)} problems:\n  " + "\n  ".join(lines))


def run_all(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Does `work` on every item, on `WORKERS` threads; the first error ends it, as does Ctrl-C."""
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
