"""`qwenvl convert SRC DST`: between Hugging Face folders and checkpoints, or OpenCLIP and Qwen-7B to a start of stage 1."""

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from qwenvl_jax.conversion.convert import convert


@dataclass(frozen=True)
class ConvertOptions:
    """Converts weights; what SRC holds decides into what.

    qwenvl convert HUGGING_FACE DST: a folder of Qwen-VL or Qwen2-VL (safetensors or .bin) becomes a checkpoint, to train
    or ask.
    qwenvl convert RUN DST: a run's newest checkpoint, or one of its checkpoints, becomes a Hugging Face folder.
    qwenvl convert OPENCLIP QWEN7B DST: ViT-bigG (file or folder) and a folder of Qwen-7B become the start of stage 1.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SRC [SRC] DST")]
    """One source or two, and the folder to make; it must not be there yet, or be empty."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type of all that is written. By default types stay, and a model trained in bfloat16 goes to PyTorch in bfloat16."""


def main(arguments: list[str]) -> None:
    """The command; errors of the user are ValueError and FileNotFoundError with one sentence."""
    options = tyro.cli(ConvertOptions, args=arguments, prog="qwenvl convert")
    if len(options.folders) not in (2, 3):
        raise ValueError("give SRC DST, or OPENCLIP QWEN7B DST; qwenvl convert --help tells more")
    *sources, destination = options.folders
    meter = Meter()
    try:
        convert(sources, destination, options.dtype, print, meter.add)
    finally:
        meter.close()
    print(f"{destination}: {meter.summary()}")


class Meter:
    """Counts what was written; on a terminal, one line that grows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tensors: set[str] = set()
        self._bytes = 0
        self._began = time.perf_counter()
        self._shown = 0.0

    def add(self, name: str, size: int) -> None:
        """A part of a tensor was written."""
        with self._lock:
            self._tensors.add(name)
            self._bytes += size
            now = time.perf_counter()
            if sys.stderr.isatty() and now - self._shown > 0.2:
                self._shown = now
                print(f"\r{self.summary()}, {name:60.60}", end="", file=sys.stderr, flush=True)

    def summary(self) -> str:
        """How much, how fast."""
        seconds = time.perf_counter() - self._began
        rate = self._bytes / 1e6 / seconds
        return f"{len(self._tensors)} tensors, {self._bytes / 1e9:.2f} GB in {seconds:.1f} s, {rate:.0f} MB/s"

    def close(self) -> None:
        """Ends the line."""
        if self._shown:
            print(file=sys.stderr)
