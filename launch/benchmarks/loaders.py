"""What the data way costs beside a bare decode-and-resize loop, and beside others:

    python -m launch.benchmarks.loaders

prints tables in Markdown. Its environment: requirements.txt, torch, then
`pip install --no-deps -r launch/benchmarks/loaders-requirements.txt`; what is missing there is left out, and said.

Made photographs of 512 pixels with captions lie in tars of img2dataset's form; our shards, Parquet and MosaicML's MDS hold
the same. Contenders take turns, each in a process of its own with as many workers as there are cores, and all with the
decoder, the resizing and the tokenizer of this package, so that ways of data are compared and not decoders; the others a
second time as they come, with PIL, which gives the same bits. The bare loop has the JPEGs in memory, and runs both ways. No
other program should run meanwhile; rates by CPU time are there for when one does.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet as parquet
import tyro
from PIL import Image

from data_pipelines.loader import open_loader
from data_pipelines.records import Record, StoredImage
from data_pipelines.sources.array_record import MANIFEST, write_shards
from data_pipelines.sources.captions import caption_question
from launch.benchmarks.cleaning import WORDS, write_tars
from launch.benchmarks.loader_contenders import (
    BARE,
    BARE_PIL,
    BY_PIL,
    CONTENDERS,
    MDS,
    OTHERS,
    OURS,
    PARQUET,
    SHAPES,
    SHARDS,
    SIDE,
    TARS,
    WINDOWS,
    ContenderOptions,
    Measured,
    mosaic_package,
    resumed_windows,
    shaped_run,
)

FILES = 16
"""Tars and Parquet files, of which workers of the others take whole ones."""
SHARD_RECORDS = 512
ROW_GROUP = 100
"""As the Hugging Face hub has for pictures."""
TIMEOUT = 300
Pair = tuple[bytes, str]


@dataclass(frozen=True)
class LoadersOptions:
    """Sizes of the measurement."""

    records: int = 8192
    pictures: int = 256
    """Different ones among them."""
    workers: int = len(os.sched_getaffinity(0))
    repeats: int = 3
    seconds: float = 4.0
    """Of each measurement."""
    memory_shards: int = 500
    """Of 100 tiny records each, read by a worker whose memory is watched; 10,000 are a million records."""
    data: Path | None = None
    """Folder for the data, which stays; otherwise a temporary one."""


def photograph(rng: np.random.Generator, side: int = SIDE) -> bytes:
    """A JPEG whose spectrum falls as that of photographs, and which so has their size, about 60 KB at 512 pixels."""
    pixels, amplitude = np.full((side, side, 3), 128.0, np.float32), 40.0
    for cells in (4, 16, 64, 256, side):
        noise = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        noise = (noise // 3 + noise[..., :1] // 3 * 2).astype(np.uint8)  # more light than colour
        large = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
        pixels += (np.asarray(large, np.float32) - 128) * (amplitude / 64)
        amplitude *= 0.5
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def made_pairs(records: int, pictures: int) -> Iterator[Pair]:
    """JPEGs with captions of 4 to 24 words; no caption comes twice."""
    rng = np.random.default_rng(0)
    files = [photograph(rng) for _ in range(min(records, pictures))]
    for number in range(records):
        words = " ".join(rng.choice(WORDS, int(rng.integers(4, 25))))
        yield files[number % len(files)], f"{words} {number}"


def write_data(folder: Path, pairs: Sequence[Pair]) -> None:
    """The pairs in every format; MDS where its package is installed."""
    write_tars(folder / TARS, pairs, FILES)
    write_shards(folder / SHARDS, map(record_of, range(len(pairs)), *zip(*pairs)), SHARD_RECORDS)
    (folder / PARQUET).mkdir()
    for file in range(FILES):
        jpegs, captions = zip(*pairs[file::FILES])
        table = pyarrow.table({"jpg": jpegs, "txt": captions})
        parquet.write_table(
            table, folder / PARQUET / f"{file:05d}.parquet", row_group_size=ROW_GROUP, use_dictionary=False
        )
    try:
        package = mosaic_package()
    except ImportError:
        return
    with package.MDSWriter(out=str(folder / MDS), columns={"jpg": "bytes", "txt": "str"}) as writer:
        for jpeg, caption in pairs:
            writer.write({"jpg": jpeg, "txt": caption})


def record_of(number: int, jpeg: bytes, caption: str) -> Record:
    return Record(f"{number:09d}", (StoredImage(jpeg, SIDE, SIDE),), (caption_question(caption),))


def prepare(folder: Path, workers: int) -> None:
    """Index and lengths, which a user makes once with `qwenvl data index`, and where a resumed run starts."""
    windows = {}
    for name, shape in SHAPES.items():
        for source in (TARS, SHARDS):
            with open_loader(*shaped_run(shape, folder, source, 0)) as loader:
                windows[name] = [tuple(window) for window in resumed_windows(loader)]
    (folder / WINDOWS).write_text(json.dumps(windows))


def measured(options: ContenderOptions) -> Measured | str:
    """Runs a contender; the name of the package that it lacks, if any.

    Raises:
      RuntimeError: it fails.
    """
    command = [sys.executable, "-m", "launch.benchmarks.loader_contenders"]
    for name, value in asdict(options).items():
        flag = name.replace("_", "-")
        command += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WDS_VERBOSE_CACHE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=os.environ | offline)
    lines = done.stderr.splitlines()
    if done.returncode and lines and lines[-1].startswith("ModuleNotFoundError"):
        return lines[-1].split("'")[1]
    if done.returncode:
        raise RuntimeError(f"{options.contender} failed: {' / '.join(lines[-4:])}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def out_of_cache(folder: Path) -> None:
    """Asks the system to forget the files' pages."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def throughput(folder: Path, options: LoadersOptions) -> tuple[dict[str, dict[str, list[Measured]]], dict[str, str]]:
    """Shape -> contender -> its repeats; and what is missing for the others."""
    found: dict[str, dict[str, list[Measured]]] = {shape: {} for shape in SHAPES}
    missing: dict[str, str] = {}
    for _ in range(options.repeats):
        for shape in SHAPES:
            for name in (BARE, BARE_PIL, *CONTENDERS):
                if name in missing:
                    continue
                run = measured(ContenderOptions(name, shape, folder, options.workers, options.seconds))
                if isinstance(run, str):
                    missing[name] = run
                else:
                    found[shape].setdefault(name, []).append(run)
    return found, missing


def shares(runs: Sequence[Measured], of: Sequence[Measured], rate: Callable[[Measured], float]) -> float:
    """The median over the repeats of one contender's rate over another's."""
    return statistics.median(rate(one) / rate(other) for one, other in zip(runs, of))


def throughput_table(shape: str, found: dict[str, list[Measured]], workers: int) -> Iterator[str]:
    """The table of a shape, and how far ours is ahead of the best of the others."""
    yield f"| {shape} | samples/s a core: best | median | of the bare loop | a CPU second | of the bare loop |"
    yield "|---|--:|--:|--:|--:|--:|"
    for name, runs in found.items():
        rates = [run.rate / workers for run in runs]
        cpu = statistics.median(run.cpu_rate for run in runs)
        wall_share = shares(runs, found[BARE], lambda run: run.rate)
        cpu_share = shares(runs, found[BARE], lambda run: run.cpu_rate)
        yield (
            f"| {name} | {max(rates):.0f} | {statistics.median(rates):.0f} | {wall_share:.2f} | {cpu:.0f} "
            f"| {cpu_share:.2f} |"
        )
    same = [runs for name, runs in found.items() if name in OTHERS]
    pil = [runs for name, runs in found.items() if name.endswith(BY_PIL) and name != BARE_PIL]
    for what, beside in (
        (f"the {BARE_PIL}", [found[BARE_PIL]]),
        ("the best of the others", same),
        (f"the best of the others{BY_PIL}", pil),
    ):
        if beside:
            wall = min(shares(found[OURS[0]], runs, lambda run: run.rate) for runs in beside)
            cpu = min(shares(found[OURS[0]], runs, lambda run: run.cpu_rate) for runs in beside)
            yield f"\nOurs over {what}: {wall:.2f} by the clock, {cpu:.2f} by CPU time."


def first_batches(folder: Path, workers: int, names: Iterable[str]) -> Iterator[str]:
    """Seconds from the start of the process, with cold files, in stage 1."""
    yield "| stage 1 | seconds to the first batch, cold | after a resume, cold |\n|---|--:|--:|"
    shape = next(iter(SHAPES))
    for name in names:
        cells = []
        for resumed in (False, True)[: 1 + (name in OURS)]:
            out_of_cache(folder)
            run = measured(ContenderOptions(name, shape, folder, workers, 0.0, resumed))
            cells.append(f"{run.first:.1f}" if isinstance(run, Measured) else "")
        yield f"| {name} | {' | '.join([*cells, ''][:2])} |"


def flat_memory(folder: Path, shards: int) -> str:
    """Memory of a worker process that reads tiny pictures out of many shards, all links to one."""
    picture = photograph(np.random.default_rng(0), 32)
    records = [Record(f"{n}", (StoredImage(picture, 32, 32),), (caption_question(f"dog {n}"),)) for n in range(100)]
    write_shards(folder / "tiny", records)
    [shard] = (folder / "tiny").glob("*.array_record")
    manifest = json.loads((folder / "tiny" / MANIFEST).read_text())
    entry = manifest["shards"][0]
    for n in range(shards):
        (folder / "tiny" / f"copy-{n}").hardlink_to(shard)
    (folder / "tiny" / MANIFEST).write_text(
        json.dumps(manifest | {"shards": [{**entry, "file": f"copy-{n}"} for n in range(shards)]})
    )
    total = 100 * shards
    with open_loader(*shaped_run(SHAPES[next(iter(SHAPES))], folder, "tiny", 1)) as loader:
        seen, private = 0, list[float]()
        for _, info in loader:
            seen += info.samples
            if seen >= (len(private) + 1) * total / 10:
                private.append(worker_memory())
            if len(private) == 10:
                break
    grown = private[-1] / private[0] - 1
    return (
        f"{total:,} records of {shards:,} shards read by one worker: {private[0]:.0f} MB of its own after the first tenth, "
        f"{private[-1]:.0f} MB at the end ({grown:+.1%})."
    )


def worker_memory() -> float:
    """Megabytes that the largest process below this one has for itself."""
    below = [one.memory_info() for one in psutil.Process().children(recursive=True)]
    return max(memory.rss - memory.shared for memory in below) / 1e6


def main() -> None:
    options = tyro.cli(LoadersOptions)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or Path(temporary)
        if not (folder / WINDOWS).is_file():
            write_data(folder, list(made_pairs(options.records, options.pictures)))
            prepare(folder, options.workers)
        found, missing = throughput(folder, options)
        print(f"{options.workers} workers each, {options.repeats} repeats of {options.seconds:g} s, taking turns\n")
        for shape, contenders in found.items():
            print("\n".join(throughput_table(shape, contenders, options.workers)) + "\n")
        print(
            "\n".join(
                first_batches(folder, options.workers, (name for name in (*OURS, *OTHERS) if name not in missing))
            )
        )
        for name, package in missing.items():
            print(f"\n{name} is left out: package {package} is not installed in this environment.")
    with tempfile.TemporaryDirectory() as temporary:
        print("\n" + flat_memory(Path(temporary), options.memory_shards))


if __name__ == "__main__":
    main()
