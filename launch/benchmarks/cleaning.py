"""What cleaning and indexing cost: `python -m launch.benchmarks.cleaning [--engine beam]` prints rows per second of CPU.

Made data of one seed: pairs as LAION publishes them (a third breaks a rule), and tars of 512-pixel JPEGs of about 60 KB.
For near-duplicates, hashes of pictures and comparison of random hashes in one table, and how many bits separate a picture
from itself stored smaller and worse. With pypdfium2, pages of A4 with forty lines of text.
With `--engine beam` in the environment of `data_pipelines/cleaning/requirements.txt`, the addresses are cleaned by Beam.
"""

import io
import math
import os
import resource
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
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
from data_pipelines.cleaning.near_duplicates import SIGNATURE, alike_to_earlier, signature
from data_pipelines.cleaning.pdfs import clean_pdfs
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
    hashes: int = 8_000_000
    """About as many in groups of equal blocks as 1.4 billion have, so the cost of a hash is the same."""
    pages: int = 40


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
        near(rng, options.pictures, options.hashes)
        if find_spec("pypdfium2") and find_spec("matplotlib"):
            write_pages(root / "pdfs", options.pages)
            show("pages of PDFs to shards", options.pages, lambda: clean_pdfs(root / "pdfs", root / "p", engine))
        show("index of tars", options.pictures, lambda: open_source(root, "tars"))
        source = open_source(root, "tars")
        show("outlines", len(source), lambda: [source.outline(n) for n in range(len(source))])
        show("records from tars", len(source), lambda: [source[n] for n in range(len(source))])


def near(rng: np.random.Generator, pictures: int, hashes: int) -> None:
    """Signatures of pictures, the comparison of signatures, and the bits that storing a picture again changes."""
    made = [blots(rng) for _ in range(100)]
    pixels = [np.asarray(picture) for picture in made]
    show("signatures of 512 px", pictures, lambda: [signature(pixels[n % 100]) for n in range(pictures)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    random = np.zeros(hashes, SIGNATURE)
    # As many equal bits as leave groups of the size that 1.4 billion have where 32 of their bits are equal.
    random["hash"] = rng.integers(0, 1 << 63, hashes, np.uint64)
    mask = (1 << max(1, round(math.log2(hashes / 1.4e9 * 2**32)))) - 1
    show("signatures compared, one table of 2 bits", hashes, lambda: alike_to_earlier(random, mask, 2))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"| bytes of memory for a signature compared | {peak / hashes:,.0f} |", flush=True)
    for side, quality in ((384, 60), (256, 90), (160, 50)):
        changed = [
            int(np.bitwise_count(signature(np.asarray(again(picture, side, quality)))["hash"] ^ signature(p)["hash"]))
            for picture, p in zip(made, pixels)
        ]
        shares = ", ".join(f"{np.mean(np.asarray(changed) <= bits):.0%} in {bits}" for bits in (0, 2, 4))
        print(f"| bits changed at {side} px, quality {quality} | {shares} |", flush=True)


def blots(rng: np.random.Generator) -> Image.Image:
    """A picture with detail of every size, less of the finer."""
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((512, 512)), float) * n**-0.7
        for n in (3, 6, 12, 24, 48)
    ]
    pixels: np.ndarray = sum(layers, np.zeros(()))
    return Image.fromarray((255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8))


def again(picture: Image.Image, side: int, quality: int) -> Image.Image:
    """The picture at another size, as a JPEG."""
    file = io.BytesIO()
    picture.resize((side, side)).save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def write_pages(folder: Path, pages: int) -> None:
    """Files of ten pages, as matplotlib writes them."""
    from matplotlib.backends.backend_pdf import PdfPages  # not where Beam's requirements are
    from matplotlib.figure import Figure

    folder.mkdir()
    for number in range(pages // 10):
        with PdfPages(folder / f"{number}.pdf") as file:
            for _ in range(10):
                figure = Figure((8.27, 11.69))
                for line in range(40):
                    text = " ".join(WORDS[(number + line + n) % len(WORDS)] for n in range(16))
                    figure.text(0.1, 0.95 - 0.022 * line, text, size=8)
                file.savefig(figure)


def show(what: str, rows: int, run: Callable[[], object]) -> None:
    """A line of the table."""
    began = processor_time()
    run()
    print(f"| {what} | {rows / (processor_time() - began):,.{1 if rows < 1000 else 0}f} |", flush=True)


def processor_time() -> float:
    """Seconds of this process and of those that it has started and that have ended."""
    times = os.times()
    return sum(times[:4])


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
