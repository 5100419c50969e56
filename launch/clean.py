"""`qwenvl data clean SRC DST`: tars of img2dataset, or PDFs, through the paper's rules into shards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from data_pipelines.cleaning.addresses import clean_addresses, holds_addresses
from data_pipelines.cleaning.engines import beam, processes
from data_pipelines.cleaning.funnel import NOT_FETCHED, PAGES, Funnel, funnel_table
from data_pipelines.cleaning.job import QUARANTINE, clean
from data_pipelines.cleaning.pdfs import CORPUS, clean_pdfs


@dataclass(frozen=True)
class CleanOptions:
    """Cleans a folder of tars into shards, or Parquet of addresses into Parquet with fewer of them, before they are
    fetched; or makes shards of the pages of PDFs, with their lines of text. A stopped cleaning goes on where it was."""

    source: tyro.conf.Positional[Path]
    """Output folder of img2dataset: tars, with Parquet beside them. Or a folder of Parquet that it is yet to fetch,
    or, with --corpus pdf, of PDFs."""
    destination: tyro.conf.Positional[Path]
    """New folder for shards (manifest, sizes) or Parquet, with funnel and list of damaged entries."""
    corpus: str = "web"
    """Whose thresholds: a name of data_pipelines/cleaning/thresholds.py, or pdf."""
    near_duplicates: int | None = None
    """Leaves out pictures whose perceptual hash differs from that of an earlier one in at most so many of 64 bits; 2 finds
    most copies of other sizes and qualities. Off by default."""
    engine: Literal["local", "beam"] = "local"
    """`beam` passes options that are unknown here on to Apache Beam."""
    workers: int = 1
    """Processes of the local engine; the result is the same for every number."""


def main(arguments: list[str]) -> None:
    """Raises ValueError, FileExistsError or FileNotFoundError with one sentence."""
    options, rest = tyro.cli(CleanOptions, args=arguments, prog="qwenvl data clean", return_unknown_args=True)
    if rest and options.engine == "local":
        raise ValueError(f"unknown options {' '.join(rest)}: only --engine beam takes options of its own")
    if not options.source.is_dir():
        raise FileNotFoundError(f"{options.source}: there is no such folder")
    engine = beam(rest) if options.engine == "beam" else processes(options.workers)
    before = options.corpus != CORPUS and holds_addresses(options.source)
    if options.near_duplicates is not None and (before or options.corpus == CORPUS):
        what = "these are addresses: give it when their tars are cleaned" if before else "pages of text all look alike"
        raise ValueError(f"--near-duplicates compares pictures, and {what}")
    if options.corpus == CORPUS:
        funnel = clean_pdfs(options.source, options.destination, engine)
    elif before:
        funnel = clean_addresses(options.source, options.destination, options.corpus, engine)
    else:
        funnel = clean(
            options.source,
            options.destination,
            options.corpus,
            engine,
            near_duplicate_bits=options.near_duplicates,
        )
    print(funnel_table(funnel))
    print(summary(funnel))
    print(f"{'addresses' if before else 'shards'}: {options.destination}; damaged entries: {QUARANTINE} there")


def summary(funnel: Funnel) -> str:
    """What the table does not say: the cut, and the paper's rate."""
    if funnel.unit == PAGES:
        return f"kept {funnel.kept:,} of {funnel.fetched:,} pages"
    cut = "no CLIP cut" if funnel.clip_cut is None else f"CLIP scores from {funnel.clip_cut:.4f}"
    published = "" if funnel.published is None else f"; the paper kept {funnel.published:.0%} of this corpus"
    missing = funnel.rejected.get(NOT_FETCHED, 0)
    fetched = f" ({missing:,} more could not be fetched)" if missing else ""
    return f"kept {funnel.kept:,} of {funnel.fetched:,} pairs{fetched}, {cut}{published}"
