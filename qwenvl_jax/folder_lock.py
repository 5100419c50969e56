"""One writer per folder: a second command that would write into it is told so, and mixes nothing."""

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
"""In the folder; holds the writer's name. It may stay there: what counts is whether a process has locked it."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other processes of this kind out of it until the block ends.

    The lock is the process's own (POSIX): the system takes it away with the process however that ends, and children that
    outlive a killed process do not hold it, as they would with `flock`. It holds between machines where the file system
    has such locks (NFS does); where it has none (Lustre without them), a sentence says that nothing guards the folder.

    Raises:
      ValueError: another process writes there, which is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # POSIX lets a system answer with either
            file.seek(0)
            raise ValueError(
                f"{folder} is being written by {file.read(100).strip() or 'another process'}: "
                "wait until it ends, or choose another folder"
            ) from error
        except OSError as error:
            print(
                f"{folder} cannot be locked ({error.strerror}): run no second command that writes there",
                file=sys.stderr,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
