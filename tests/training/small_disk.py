"""A disk without room, as far as this process is concerned."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def file_limit() -> Iterator[Callable[[int], None]]:
    """(bytes) -> no file of this process may grow beyond them; -1, and the end of the context, lift it. Nothing may fail
    within it but what is tested: the test runner cannot write either."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
