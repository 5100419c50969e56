"""The folder that a conversion writes: under another name until it is whole."""

import fcntl
import glob
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
def new_folder(destination: Path, say: Say) -> Iterator[Path]:
    """A folder beside the destination that gets its name when the block ends well, and is removed otherwise.

    What a killed process left of the same destination is removed first.
    """
    destination = destination.resolve()
    destination.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{destination.name}-unfinished-"
    for leftover in destination.parent.glob(f"{glob.escape(prefix)}*"):
        with _locked(leftover) as ours:
            if ours:
                say(f"{leftover} is left of a conversion that was killed, and is removed")
                shutil.rmtree(leftover, ignore_errors=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=destination.parent))
        with _locked(folder):
            if not folder.exists():
                continue  # another conversion took it for a leftover, before it was locked
            try:
                folder.chmod(0o777 & ~_umask())
                yield folder
                os.replace(folder, destination)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            return


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the folder is locked by this process alone until the block ends. The system unlocks what a killed process
    held. Where the file system has no locks the answer is no, so that nothing is removed.
    """
    try:
        opened = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(opened)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def need_space(folder: Path, size: int) -> None:
    """Raises ValueError where the disk has not that many bytes left."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ValueError(f"{folder.parent} has {free / 1e9:.1f} GB left, and {size / 1e9:.1f} GB are to be written")
