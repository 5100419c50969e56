"""What cleaning and indexing cost: `python -m launch.benchmarks.cleaning [--engine beam]` prints rows per second of CPU.

Made data of one seed: pairs as LAION publishes them (a third breaks a rule), and tars of 512-pixel JPEGs of about 60 KB.
With `--engine beam` in the environment of `data_pipelines/cleaning/requirements.txt`, the addresses are cleaned by Beam.
"""

import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import tyro
from PIL import Image

from data_pipelines.cleaning.addresses import clean_addresses
from data_pipelines.cleaning.engines import beam
from data_pipelines.cleaning.job import clean, run_here
from data_pipelines.cleaning.rules import Pair, judge
from data_pipelines.cleaning.thresholds import CORPORA
from data_pipelines.sources.opening import open_source

WORDS = (
    "a", "photo", "of", "the", "red", "green", "small", "big", "dog", "cat", "house", "on", "table", "near", "river",
    "with", "blue", "sky", "and", "white", "clouds",
)  # fmt: skip
SPOILED = ("собака ", "<b>sale</b> &amp; ", "http://x.org/a.jpg ", "dog 😀 ", "!!!!! ", "une façade ")
FILES = 4


@dataclass(frozen=True)
class BenchmarkOptions:
    """Rows per second of CPU time, which other programs on the machine change less than the clock's."""

    engine: Literal["local", "beam"] = "local"
    pairs: int = 200_000
    pictures: int = 1_000


def main() -> None:
    options = tyro.cli(BenchmarkOptions)
    rng = np.random.default_rng(0)
    rows = [made_pair(rng, n) for n in range(options.pairs)]
    pairs = [Pair(row["caption"], row["width"], row["height"], row["similarity"]) for row in rows]
    thresholds = CORPORA["web"]
    engine = beam([]) if options.engine == "beam" else run_here
    print("| | rows per CPU second |\n|---|--:|")
    show("rules alone", len(pairs), lambda: [judge(pair, thresholds) for pair in pairs])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_addresses(root / "addresses", rows)
        what = f"addresses, Parquet to Parquet, calibrated, {options.engine}"
        show(what, len(rows), lambda: clean_addresses(root / "addresses", root / "kept", "coyo", engine))
        write_tars(root / "tars", plain_pairs(rng, options.pictures))
        show(
            "tars of 512 px to shards, with decoding",
            options.pictures,
            lambda: clean(root / "tars", root / "c", "web", engine),
        )
        show("index of tars", options.pictures, lambda: open_source(root, "tars"))
        source = open_source(root, "tars")
        show("outlines", len(source), lambda: [source.outline(n) for n in range(len(source))])
        show("records from tars", len(source), lambda: [source[n] for n in range(len(source))])


def show(what: str, rows: int, run: Callable[[], object]) -> None:
    """A line of the table."""
    began = time.process_time()
    run()
    print(f"| {what} | {rows / (time.process_time() - began):,.0f} |", flush=True)


def made_pair(rng: np.random.Generator, number: int) -> dict:
    """A row of a corpus; every third text breaks or needs a rule."""
    text = " ".join(rng.choice(WORDS, int(rng.integers(2, 16))))
    if number % 3 == 0:
        text = SPOILED[number // 3 % len(SPOILED)] + text
    width, height = (int(side) for side in rng.integers(150, 1200, 2))
    score = float(rng.normal(0.3, 0.04))
    return {"url": f"http://x/{number}.jpg", "caption": text, "width": width, "height": height, "similarity": score}


def write_addresses(folder: Path, rows: list[dict]) -> None:
    folder.mkdir()
    for file in range(FILES):
        parquet.write_table(pyarrow.Table.from_pylist(rows[file::FILES]), folder / f"{file}.parquet")


def write_tars(folder: Path, pairs: Sequence[tuple[bytes, str]], files: int = FILES) -> None:
    """JPEGs of 512 pixels with their captions, as img2dataset writes them."""
    folder.mkdir()
    for number in range(files):
        known = []
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for place, (jpeg, caption) in enumerate(pairs[number::files]):
                key = f"{number:05d}{place:04d}"
                for extension, content in (("jpg", jpeg), ("json", b"{}"), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                known.append({"key": key, "caption": caption, "status": "success", "width": 512, "height": 512})
        parquet.write_table(pyarrow.Table.from_pylist(known), folder / f"{number:05d}.parquet")


def plain_pairs(rng: np.random.Generator, count: int) -> list[tuple[bytes, str]]:
    """A smooth JPEG of 512 pixels, again and again, with captions of eight words."""
    file = io.BytesIO()
    small = rng.integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(small).resize((512, 512), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return [(file.getvalue(), " ".join(rng.choice(WORDS, 8))) for _ in range(count)]


if __name__ == "__main__":
    main()
