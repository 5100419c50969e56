"""Long arrays that all processes of a machine share: they lie in a file that each of them maps, and its pages are in memory
once.

1.4 billion samples take 22.4 GB; every worker process would have its own.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

MAPPED_FROM = 1 << 20
"""Elements from which on an array is mapped: 8 MB of numbers of records."""


class MappedArray(np.memmap):
    """An array in a .npy file, to read. To another process it goes as its path; a part of it goes as its numbers."""

    path: Path | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.path is None:
            return np.asarray(self).__reduce_ex__(protocol)
        return load_mapped, (self.path,)


def load_mapped(path: Path) -> MappedArray:
    """The array of a .npy file, mapped."""
    array = np.load(path, mmap_mode="r").view(MappedArray)
    array.path = path
    return array


def shared(array: np.ndarray, path: Path) -> np.ndarray:
    """The array, mapped from the file of that name where it is long; the file is written once.

    Where it cannot be written, a warning says so, and every process has an array of its own.

    Args:
      path: ends in .npy; its name tells all that the array depends on.
    """
    if len(array) < MAPPED_FROM:
        return array
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.save(file, array)
            partial.replace(path)
        return load_mapped(path)
    except (OSError, ValueError) as error:
        logger.warning(
            "%s cannot be written or read (%s): every process of this machine holds its %.1f GB",
            path, error, array.nbytes / 1e9,
        )  # fmt: skip
        with suppress(OSError):
            partial.unlink()
        return array
