"""Full-size conversion, measured: `python -m launch.benchmarks.conversion [--model NAME] [--layers N] [--folder DIR]`.

Makes a Hugging Face folder of random weights, copies it (the disk's speed, in this run), converts it to a checkpoint and
back, each in its own process, compares every byte, prints seconds, MB/s and peak resident memory, and deletes everything.
Before each of the three, files are put out of the page cache, so that all of them read from the disk; all of them end when
the disk has the bytes. Three times the model's bytes lie on the disk for a while: 60 GB of `qwen-vl`.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from configs.qwen2_vl import MODEL_2B, MODEL_7B, MODEL_72B
from configs.qwen_vl import MODEL
from qwenvl_jax.config import ModelConfig, Qwen2VLConfig
from qwenvl_jax.conversion import original_config, qwen2_config
from qwenvl_jax.conversion.carried import write_json
from qwenvl_jax.conversion.hugging_face import find_tensors, read_config
from qwenvl_jax.conversion.pieces import original_shapes
from qwenvl_jax.conversion.safetensors import SafetensorsWriter
from qwenvl_jax.conversion.stored_tensor import FLOATS

ROW_BYTES = 64 << 20
MODELS: dict[str, ModelConfig] = {
    "qwen-vl": MODEL,
    "qwen2-vl-2b": MODEL_2B,
    "qwen2-vl-7b": MODEL_7B,
    "qwen2-vl-72b": MODEL_72B,
}
IMAGE_START, FIRST_SPECIAL = 151857, 151643
"""Ids of special tokens of the two vocabularies; nothing here is tokenized."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """Measures `qwenvl convert` both ways against a copy of the same bytes."""

    model: Literal["qwen-vl", "qwen2-vl-2b", "qwen2-vl-7b", "qwen2-vl-72b"] = "qwen-vl"
    layers: int | None = None
    """Layers of both towers; those of the released model by default."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    shards: int = 10
    folder: Path | None = None
    """Where the temporary folder is made: the disk that is measured."""


def main() -> None:
    """The benchmark; deletes what it made, also when it is stopped."""
    options = tyro.cli(BenchmarkOptions)
    with tempfile.TemporaryDirectory(prefix="conversion-", dir=options.folder) as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: BenchmarkOptions) -> None:
    """Makes, copies, converts, compares; prints one line each."""
    source, copied, ours, back = (folder / name for name in ("source", "copied", "ours", "back"))
    size = make(source, options)
    print(f"{size / 1e9:.2f} GB of {options.dtype} in {options.shards} files", flush=True)
    put_out(source)
    seconds = copy(source, copied)
    print(f"copy: {seconds:.1f} s, {size / 1e6 / seconds:.0f} MB/s", flush=True)
    shutil.rmtree(copied)
    for title, start, end in (("to our checkpoint", source, ours), ("to Hugging Face", ours, back)):
        put_out(start)
        taken, peak = converted(start, end)
        print(
            f"{title}: {taken:.1f} s, {size / 1e6 / taken:.0f} MB/s, {seconds / taken:.2f} of the copy's speed, "
            f"peak resident memory {peak / 2**30:.2f} GiB",
            flush=True,
        )
    print(
        f"{compare(source, back):,} bytes of {len(find_tensors(source, read_config(source))[0])} tensors compared: all equal"
    )


def make(folder: Path, options: BenchmarkOptions) -> int:
    """Random weights, every number finite, in shards; returns their bytes."""
    config = MODELS[options.model]
    if options.layers is not None:
        towers = {
            name: dataclasses.replace(getattr(config, name), layers=options.layers) for name in ("vision", "language")
        }
        config = dataclasses.replace(config, **towers)
    folder.mkdir()
    write_json(folder / "config.json", config_fields(config))
    dtype = FLOATS[options.dtype]
    names = list(original_shapes(config).items())
    total = sum(prod(shape) for _, shape in names) * dtype.itemsize
    shards: list[list] = [[] for _ in range(options.shards)]
    passed = 0
    for name, shape in names:
        shards[min(passed * options.shards // total, options.shards - 1)].append((name, dtype, shape))
        passed += prod(shape) * dtype.itemsize
    generator = np.random.Generator(np.random.SFC64(0))
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with SafetensorsWriter(folder / file, shard) as writer:
            for name, _, shape in shard:
                weight_map[name] = file
                row = prod(shape[1:])
                rows = max(1, ROW_BYTES // (row * dtype.itemsize))
                for start in range(0, shape[0], rows):
                    writer.write(name, start, random_rows(generator, (min(rows, shape[0] - start), *shape[1:]), dtype))
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    return total


def config_fields(config: ModelConfig) -> dict[str, Any]:
    """config.json of a release."""
    if isinstance(config, Qwen2VLConfig):
        return qwen2_config.to_original(config, FIRST_SPECIAL)
    return original_config.to_original(config, image_size=448, image_start_id=IMAGE_START)


def random_rows(generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """All bits random but the exponent's highest, so that every number is finite."""
    count = prod(shape)
    words = generator.integers(0, 2**64, -(-count * dtype.itemsize // 8), np.uint64)
    words &= np.uint64(0xBFFFBFFFBFFFBFFF if dtype.itemsize == 2 else 0xBFFFFFFFBFFFFFFF)
    return words.view(dtype)[:count].reshape(shape)


def put_out(folder: Path) -> None:
    """Puts a folder's files out of the page cache."""
    for file in filter(Path.is_file, folder.rglob("*")):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(source: Path, target: Path) -> float:
    """Seconds to copy a folder until the disk has it."""
    began = time.perf_counter()
    target.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
        with (target / file.name).open("rb") as opened:
            os.fsync(opened.fileno())
    return time.perf_counter() - began


def converted(source: Path, target: Path) -> tuple[float, int]:
    """Seconds and peak resident bytes of `qwenvl convert` in a process of its own."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "launch.main", "convert", str(source), str(target)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"qwenvl convert ended with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def compare(source: Path, back: Path) -> int:
    """Bytes that were compared, tensor by tensor; SystemExit where one differs."""
    first, second = (find_tensors(folder, read_config(folder))[0] for folder in (source, back))
    if first.keys() != second.keys():
        raise SystemExit(f"names differ: {sorted(first.keys() ^ second.keys())}")
    compared = 0
    for name, tensor in first.items():
        other = second[name]
        if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
            raise SystemExit(f"{name} differs in type or shape")
        rows = max(1, ROW_BYTES // (prod(tensor.shape[1:]) * tensor.dtype.itemsize))
        for start in range(0, tensor.shape[0], rows):
            stop = min(start + rows, tensor.shape[0])
            here, there = (t.read(start, stop).reshape(-1).view(np.uint8) for t in (tensor, other))
            if not np.array_equal(here, there):
                raise SystemExit(f"{name} differs between rows {start} and {stop}")
            compared += here.size
    return compared


if __name__ == "__main__":
    main()
