"""The folder that a conversion writes: under another name until it is whole."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]
Progress = Callable[[str, int], None]
"""Called from the threads with each piece's tensor and the bytes that were written."""


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder beside the destination that gets its name when the block ends well, and is removed otherwise."""
    destination = destination.resolve()
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}-unfinished-", dir=destination.parent))
    try:
        folder.chmod(0o777 & ~_umask())
        yield folder
        os.replace(folder, destination)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def need_space(folder: Path, size: int) -> None:
    """Raises ValueError where the disk has not that many bytes left."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ValueError(f"{folder.parent} has {free / 1e9:.1f} GB left, and {size / 1e9:.1f} GB are to be written")
