"""`map` over processes of this machine that keeps the order of what it is given."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any

_shared: tuple = ()
"""In a worker process: what it was started with."""


def _share(*values: Any) -> None:
    global _shared
    _shared = values


def _call(function: Callable, job: Any) -> Any:
    return function(*_shared, job)


@contextmanager
def ordered_map(workers: int, *shared: Any) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """`map`, in whose place `function(*shared, job)` is called for each job.

    Args:
      workers: processes; 1 works in this one.
      shared: what every call needs. Each process gets it once, and not with each job.
    """
    if workers <= 1:
        yield lambda function, jobs: map(partial(function, *shared), jobs)
        return
    # Spawned, as the caller may hold threads (JAX does), which a fork would copy in any state.
    with get_context("spawn").Pool(workers, _share, shared) as pool:
        yield lambda function, jobs: pool.imap(partial(_call, function), jobs)
