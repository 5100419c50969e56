"""What 1.4 billion pairs need: `python -m launch.benchmarks.full_size` measures the inputs on made data and prints a table.

Rates are of CPU time, which other programs on the machine change less than the clock's. What cannot be measured here is an
assumption, and stands in the table as one.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from data_pipelines.lanes import LaneShuffle
from data_pipelines.lengths import measure
from data_pipelines.packing import pack
from data_pipelines.records import Question, Record, StoredImage, pack_record
from data_pipelines.sources.array_record import MANIFEST, RECORDS_PER_SHARD, SIZES, ArrayRecordSource, write_shards
from data_pipelines.sources.opening import open_source
from data_pipelines.sources.shard_cache import ShardCache
from data_pipelines.sources.source import RecordSource
from data_pipelines.sources.transfer import BLOCK
from data_pipelines.tasks import TASKS
from launch.benchmarks.cleaning import plain_pairs, write_tars
from qwenvl_jax.processing.encoders import ImageSlotEncoder
from qwenvl_jax.processing.tokenizer import load_tokenizer

PAIRS = 1_400_000_000
SAMPLE_BYTES = "8 B record, 4 B tokens, 4 B vision"
PICTURE_BYTES = 41_000
"""Assumed: the mean of img2dataset's published runs at 256 to 384 pixels."""
HOSTS, LANES, WINDOW = 64, 1024, 8
SAMPLES_PER_SECOND = 6_000
"""Assumed: what a pod of 512 chips takes in stage 1."""
CAPTION = "a photo of the small red house near the river with white clouds on a blue sky"


@dataclass(frozen=True)
class SizeOptions:
    """Sizes of what is measured."""

    records: int = 400
    shards: int = 10_000
    """Tiny shards that are read through a cache of fifty."""


@dataclass(frozen=True)
class Inputs:
    """What is measured: bytes, seconds and rates; per record where nothing else is said."""

    record_bytes: float
    manifest_bytes_per_shard: float
    sizes_bytes: float
    lengths_bytes: float
    index_bytes: float
    draw_seconds: float
    epoch_seconds: float
    shards_touched: int
    """By 20,000 draws of one of as many streams as hosts."""
    pack_seconds: float
    lengths_rate: float
    pixels_rate: float


def main() -> None:
    options = tyro.cli(SizeOptions)
    with tempfile.TemporaryDirectory() as folder:
        inputs = measured(Path(folder), options.records)
        print(table(inputs))
        print("\n" + through_the_cache(Path(folder), options.shards))


def seconds_of(run: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    run()
    return time.process_time() - began


def measured(folder: Path, records: int) -> Inputs:
    """All inputs, from made pictures of 512 pixels with captions of one length."""
    [(picture, _)] = plain_pairs(np.random.default_rng(0), 1)
    overhead = len(pack_record(pair(0, picture))) - len(picture)
    write_shards(folder / "shards", (pair(n, picture) for n in range(records)))
    source = ArrayRecordSource(folder / "shards")
    encoder = ImageSlotEncoder(load_tokenizer("world"), queries=256, resolution=224)
    lengths_seconds = seconds_of(lambda: measure(source, ["caption"], TASKS, encoder))
    [lengths] = (folder / "shards").glob("lengths-*.npz")
    samples = [sample for n in range(records) if (sample := TASKS["caption"](source[n])) is not None]
    encoder.pixels(samples[0], encoder.encode(samples[0]))  # compiles
    pixels_seconds = seconds_of(lambda: [encoder.pixels(sample, encoder.encode(sample)) for sample in samples])
    shard_bytes = len((folder / "shards" / MANIFEST).read_bytes()) - len(json.dumps({"schema": 1, "shards": []}))
    write_tars(folder / "tars", plain_pairs(np.random.default_rng(0), records))
    tars = open_source(folder, "tars")
    index = sum(file.stat().st_size for file in Path(tars.cache_folder).iterdir() if file.suffix != ".json")
    order = LaneShuffle(np.full(-(-PAIRS // RECORDS_PER_SHARD), RECORDS_PER_SHARD), 0, LANES, WINDOW)
    epoch = seconds_of(lambda: order.samples(np.arange(1)))
    draws = seconds_of(lambda: [order.samples(np.arange(n * 1024, (n + 1) * 1024)) for n in range(20)])
    touched = order.samples(np.arange(20_000) * HOSTS) // RECORDS_PER_SHARD
    tokens = np.random.default_rng(0).integers(270, 330, 1024)
    packing = seconds_of(lambda: pack(tokens, np.ones_like(tokens), 2048, 7))
    return Inputs(
        record_bytes=overhead,
        manifest_bytes_per_shard=shard_bytes,
        sizes_bytes=array_bytes(folder / "shards" / SIZES) / records,
        lengths_bytes=array_bytes(lengths) / records,
        index_bytes=index / len(tars),
        draw_seconds=draws / (20 * 1024),
        epoch_seconds=epoch,
        shards_touched=len(np.unique(touched)),
        pack_seconds=packing / len(tokens),
        lengths_rate=records / lengths_seconds,
        pixels_rate=len(samples) / pixels_seconds,
    )


def array_bytes(path: Path) -> int:
    """Bytes of the arrays of a file, without its names, of which there are as many however long it is."""
    with np.load(path) as stored:
        return sum(stored[name].nbytes for name in stored.files if name != "problems")


def pair(number: int, picture: bytes) -> Record:
    """A picture with its caption."""
    caption = Question("Generate the caption in English:", CAPTION, "en")
    return Record(f"{number:012d}", (StoredImage(picture, 512, 512),), (caption,))


def table(found: Inputs) -> str:
    """The arithmetic. Rows that rest on a measurement of this run are marked with an m."""
    shards = -(-PAIRS // RECORDS_PER_SHARD)
    shard_bytes = RECORDS_PER_SHARD * (PICTURE_BYTES + found.record_bytes)
    in_use = LANES // HOSTS * WINDOW
    requests = 1 + -(-shard_bytes // BLOCK)
    per_second = SAMPLES_PER_SECOND / RECORDS_PER_SHARD
    planning = found.draw_seconds + found.pack_seconds

    def hours(rate: float) -> str:
        return f"{PAIRS / rate / 3600:,.0f} core-hours at {rate:,.0f}/s of a core"

    rows = [
        ("shards", "", f"{shards:,} of {RECORDS_PER_SHARD:,} records"),
        ("a shard", "m", f"{shard_bytes / 1e6:,.0f} MB: {PICTURE_BYTES:,} B a picture, {found.record_bytes:,.0f} B of text"),
        ("all shards", "m", f"{shards * shard_bytes / 1e12:,.1f} TB"),
        ("manifest", "m", f"{shards * found.manifest_bytes_per_shard / 1e6:,.0f} MB"),
        ("sizes of pictures", "m", f"{PAIRS * found.sizes_bytes / 1e9:,.1f} GB, {found.sizes_bytes:.1f} B a record"),
        ("lengths of a task", "m", f"{PAIRS * found.lengths_bytes / 1e9:,.1f} GB, {found.lengths_bytes:.1f} B a record"),
        ("index of tars in place", "m", f"{PAIRS * found.index_bytes / 1e9:,.0f} GB, {found.index_bytes:,.0f} B a record"),
        ("page cache of a host, samples of a task", "", f"{PAIRS * 16 / 1e9:,.1f} GB for all its processes: {SAMPLE_BYTES}"),
        ("memory of a process, order", "", f"{shards * 7 * 8 / 1e6:,.0f} MB: seven numbers a shard"),
        ("memory of a process, open shards", "", f"{64 * RECORDS_PER_SHARD * 8 / 1e6:,.1f} MB: 64 of 8 B a record"),
        ("shards in use on a host", "", f"{in_use}: {LANES} lanes over {HOSTS} hosts, windows of {WINDOW}"),
        ("shards that 20,000 draws of a host touch", "m", f"{found.shards_touched:,}"),
        ("cache of a host", "m", f"{in_use * shard_bytes / 1e9:,.0f} GB, twice that with what is fetched ahead"),
        ("shards fetched", "", f"{per_second:.2f}/s by all hosts at {SAMPLES_PER_SECOND:,} samples/s"),
        ("requests", "m", f"{per_second * requests:,.1f}/s by all hosts, {requests:.0f} a shard"),
        ("bytes from the store", "m", f"{per_second * shard_bytes / HOSTS / 1e6:,.1f} MB/s a host"),
        ("order", "m", f"{found.draw_seconds * 1e6:.1f} us a draw, {found.epoch_seconds:.2f} s an epoch"),
        ("planning, order and packing", "m", f"{PAIRS * planning / 3600:,.1f} core-hours an epoch"),
        ("lengths, once a task, by all cores of a machine", "m", hours(found.lengths_rate)),
        ("decoding and resizing 512 -> 224, an epoch", "m", hours(found.pixels_rate)),
    ]  # fmt: skip
    return "\n".join(["| 1.4 G pairs | | |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


def through_the_cache(folder: Path, count: int) -> str:
    """Many tiny shards, one record each, read one after the other from a `file://` folder through a cache of fifty."""
    write_shards(folder / "tiny", [Record("a", text="a")], records_per_shard=1)
    shard = next((folder / "tiny").glob("*.array_record"))
    entry = json.loads((folder / "tiny" / MANIFEST).read_text())["shards"][0]
    for n in range(count):
        (folder / "tiny" / f"copy-{n}").hardlink_to(shard)
    listed = [{**entry, "file": f"copy-{n}"} for n in range(count)]
    (folder / "tiny" / MANIFEST).write_text(json.dumps({"schema": 1, "shards": listed}))
    size = shard.stat().st_size
    source = open_source("", f"file://{folder}/tiny", ShardCache(folder / "cache", 50 * size))
    counts = [*handles(source, count)]
    return (
        f"{count:,} shards of {size:,} bytes through a cache of fifty: {counts[0]} open files after the first tenth, "
        f"{counts[-1]} after the last; {resident():.0f} MB resident"
    )


def handles(source: RecordSource, count: int) -> Iterator[int]:
    """Open files of this process after each tenth of the records."""
    for n in range(count):
        source[n]
        if (n + 1) % max(1, count // 10) == 0:
            yield len([*Path("/proc/self/fd").iterdir()])


def resident() -> float:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main()
