"""Several processes, one on each host, that train one model together: start, agreement and end.

The same command is started on every host. Under SLURM, on GKE, on TPU VMs and under Open MPI, JAX finds the others by
itself; elsewhere each process is told the address of the first one, how many there are, and its own number. Process 0
writes what a run has once; see `own_log` for what the others say.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

AUTOMATIC = "auto"
START_SECONDS = 300
"""Within which all processes must have started; the machines of a large job come up minutes apart."""
RESTART = 75
"""Exit code of a process that was stopped by something outside it (EX_TEMPFAIL of sysexits.h): start all of them again."""
SIGNS_OF_LOSS = ("Connection closed by peer", "Connection reset by peer", "UNAVAILABLE")
"""In errors of collectives, of gloo and of XLA's coordination service."""
LAST_SECONDS = 3.0
"""Process 0 ends so much later: with it goes the coordination service, and JAX aborts those that are still there."""
LEAST_BYTES = 1 << 12
"""What is gathered is padded to a power of two, at least this: each size is compiled once."""


def start_processes(coordinator: str | None, count: int | None, index: int | None, lost_after: int) -> None:
    """Joins the other processes; before anything asks JAX for its devices.

    Args:
      coordinator: HOST:PORT that process 0 listens on, `auto` where a cluster tells, None for a run of one process.
      count: processes; with HOST:PORT only.
      index: number of this one, from 0; with HOST:PORT only.
      lost_after: seconds without a sign of life from one of them, after which JAX ends the others.

    Raises:
      ValueError: the arguments do not fit together, or `auto` finds no cluster, or not all came in time.
    """
    if coordinator is None or coordinator == AUTOMATIC:
        if (count, index) != (None, None):
            raise ValueError("--processes and --process belong to --coordinator HOST:PORT; a cluster tells them itself")
        if coordinator is None:
            return
    elif count is None or index is None or not 0 <= index < count:
        raise ValueError(
            f"--coordinator {coordinator} needs --processes N, how many there are, and --process I, this one's number "
            f"from 0 to N - 1; they are {count} and {index}"
        )
    try:
        jax.distributed.initialize(
            None if coordinator == AUTOMATIC else coordinator,
            count,
            index,
            cluster_detection_method=None if coordinator == AUTOMATIC else "deactivate",
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=lost_after,
        )
    except (ValueError, RuntimeError) as error:
        [reason, *_] = str(error).splitlines()
        told = "no cluster was found, or" if coordinator == AUTOMATIC else f"at {coordinator}"
        raise ValueError(
            f"--coordinator {coordinator}: {told} the processes did not come together: {reason}"
        ) from error


def writes() -> bool:
    """Whether this process writes what a run has once."""
    return jax.process_index() == 0


@contextlib.contextmanager
def own_log(workdir: Path) -> Iterator[None]:
    """What processes other than 0 print goes to `logs/process-I.log` in the run's folder; errors still go to stderr."""
    if writes():
        yield
        return
    file = workdir / "logs" / f"process-{jax.process_index()}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", buffering=1) as log, contextlib.redirect_stdout(log):
        yield


def tell_as(command: str, sentence: str) -> None:
    """Tells it with the command's name, and the process where there are several."""
    described = f"process {jax.process_index()} of {jax.process_count()}" if jax.distributed.is_initialized() else ""
    tell(": ".join(filter(None, (command, described, sentence))))


def tell(sentence: str) -> None:
    """Prints a sentence on stderr, for what goes wrong while training goes on. Its log may lie on the disk that is full."""
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)


def gather(value: Any) -> list[Any]:
    """The values of all processes in their order. Every process must call it, at the same point of its work.

    Args:
      value: what JSON can hold; tuples come back as lists.
    """
    if jax.process_count() == 1:
        return [value]
    written = json.dumps(value).encode()
    sizes = multihost_utils.process_allgather(np.int32(len(written)))
    room = max(LEAST_BYTES, 1 << int(sizes.max() - 1).bit_length())
    padded = np.frombuffer(written.ljust(room), np.uint8)
    return [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def is_lost(error: Exception) -> bool:
    """Whether an error of the devices says that another process has ended: its connections were closed."""
    return jax.distributed.is_initialized() and any(sign in str(error) for sign in SIGNS_OF_LOSS)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of the devices or of the compiler says that a program does not fit."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def leave(code: int) -> NoReturn:
    """Ends the program because of an error. Where there are several processes this one does not wait for the others, which
    may be waiting for it: they notice its connections closing, or its silence after `lost_after` seconds, and end too."""
    if jax.distributed.is_initialized():
        abandon(code)
    sys.exit(code)


def abandon(code: int) -> NoReturn:
    """Ends the program at once, from any thread, whatever the others wait for."""
    if jax.distributed.is_initialized() and writes():
        time.sleep(LAST_SECONDS)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
