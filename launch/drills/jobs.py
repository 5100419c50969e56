"""The runs of a drill: the same command in one or several processes, what can be seen of it, and what is done to it."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STAGE, STEPS, EVERY = "language", 90, 4
OPTIONS = (
    "tiny", "--stage", STAGE, f"--{STAGE}.steps", str(STEPS), f"--{STAGE}.rows", "4", f"--{STAGE}.sequence-length", "384",
    "--model.language.layers", "1", "--precision.unroll", "1", "--checkpoint.every", str(EVERY), "--checkpoint.keep", "3",
    "--log-every", "1",
)  # fmt: skip
HANG_SECONDS = 20.0
"""What a loader that hangs is given, in place of the ten minutes of real runs."""
FILE_LIMIT = 200
"""Bytes of a file at most, while the disk is full."""
PATIENCE = 600.0
"""Seconds after which a process that neither ends nor goes on counts as hanging."""
HANGING = 124
"""In place of its exit code; as `timeout` has it."""


@dataclass
class Job:
    """The processes of a run that was started once."""

    processes: list[subprocess.Popen]
    collector: subprocess.Popen
    """Writes down what they print: it has room where they have none."""
    folder: Path
    rng: np.random.Generator

    @property
    def log(self) -> Path:
        """What its processes have printed."""
        return self.folder.with_suffix(".log")

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints" / STAGE

    @property
    def saving(self) -> bool:
        return any(self.checkpoints.glob("*.orbax-checkpoint-tmp*"))

    @property
    def ended(self) -> bool:
        return any(process.poll() is not None for process in self.processes)

    def saved(self) -> list[int]:
        """The steps of its whole checkpoints, in order."""
        return sorted(int(path.name) for path in self.checkpoints.glob("*") if path.name.isdigit())

    def wait_until(self, ready: Callable[[], bool]) -> bool:
        """False where a process ends before; polls as fast as it can, as a save takes milliseconds.

        Raises:
          TimeoutError: neither happens.
        """
        until = time.monotonic() + PATIENCE
        while not self.ended:
            if ready():
                return True
            if time.monotonic() > until:
                raise TimeoutError(f"{self.folder}: the run does not go on")
            time.sleep(0.001)
        return False

    def trains(self, steps: int = 1) -> bool:
        """Waits until it has trained so many steps that were not trained when it was started."""
        before = len(lines(self.folder, "metrics.jsonl"))
        return self.wait_until(lambda: len(lines(self.folder, "metrics.jsonl")) >= before + steps)

    def send(self, number: int, process: int = 0) -> None:
        """A signal to one of its processes."""
        if self.processes[process].poll() is None:
            self.processes[process].send_signal(number)

    def limit_files(self, most: int) -> None:
        """No file of its processes may grow beyond so many bytes; for those that write already, too."""
        for process in self.processes:
            if process.poll() is None:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    def codes(self) -> list[int]:
        """How its processes end; HANGING for those that do not, which are killed."""
        until, found = time.monotonic() + PATIENCE, []
        for process in self.processes:
            try:
                found.append(process.wait(max(0.0, until - time.monotonic())))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                found.append(HANGING)
        self.collector.wait()
        return found


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """Whole lines of a list of JSON that may be in the middle of being written."""
    file = folder / name
    text = file.read_bytes().decode(errors="replace") if file.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def start(
    data: Path,
    folder: Path,
    rng: np.random.Generator,
    processes: int = 1,
    devices: int = 1,
    hangs_at: int | None = None,
) -> Job:
    """The command, in so many processes with so many devices each; their output goes to a log beside the run's folder."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(data.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "launch.drills.poisoned", str(-1 if hangs_at is None else hangs_at), *OPTIONS]
    command += ["--workdir", str(folder), "--data.root", str(data)]
    if hangs_at is not None:
        command += ["--hang-seconds", str(HANG_SECONDS)]
    if processes > 1:
        command += ["--coordinator", f"localhost:{_free_port()}", "--processes", str(processes), "--process"]
    with folder.with_suffix(".log").open("a") as log:
        collector = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
    pipe: Any = collector.stdin
    running = [
        subprocess.Popen([*command, *number], stdout=pipe, stderr=pipe, cwd=data.parent, env=environment)
        for number in ([[]] if processes == 1 else [[str(index)] for index in range(processes)])
    ]
    pipe.close()  # theirs stay open
    return Job(running, collector, folder, rng)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port
