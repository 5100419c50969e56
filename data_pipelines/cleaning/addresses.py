"""Parquet of addresses through the rules before anything is fetched: what they reject is never downloaded.

The files are those that corpora are published as and that img2dataset takes: an address, a text, mostly the picture's
size, and CLIP scores. The output holds the kept rows with all their columns, the text cleaned. Rules on sizes are
asked where the corpus tells them; they are asked again, with decoding, when the tars are cleaned.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet as parquet

from data_pipelines.cleaning.calibration import merge
from data_pipelines.cleaning.funnel import DAMAGED, SHORTER, Funnel, make_funnel
from data_pipelines.cleaning.job import (
    Engine,
    Job,
    decide,
    opened,
    remove_work,
    run,
    run_here,
    save_survey,
    write_json,
    write_reports,
)
from data_pipelines.cleaning.rules import Pair, judge, score_step
from data_pipelines.cleaning.tars import SCORES, Survey
from data_pipelines.cleaning.thresholds import ASPECT, CLIP, SMALL, Thresholds, thresholds_of

ADDRESS = ("url",)
TEXT = ("caption", "text", "top_caption")
WIDTH = ("original_width", "width")
HEIGHT = ("original_height", "height")
ROWS = 65_536
"""Rows in memory at once."""


class Columns(NamedTuple):
    """The names under which a file has what the rules look at; None where it has no such column."""

    address: str
    text: str
    width: str | None
    height: str | None
    score: str | None


def columns_of(names: list[str]) -> Columns | None:
    """Capitals do not count (LAION writes URL and TEXT); None where there is no address or no text."""
    by_name = {name.lower(): name for name in reversed(names)}
    found = [
        next((by_name[n] for n in wanted if n in by_name), None) for wanted in (ADDRESS, TEXT, WIDTH, HEIGHT, SCORES)
    ]
    address, text, width, height, score = found
    return None if address is None or text is None else Columns(address, text, width, height, score)


def applicable(thresholds: Thresholds, columns: Columns) -> Thresholds:
    """Without the rules that need what the file does not tell."""
    missing = set() if columns.width and columns.height else {ASPECT, SMALL}
    missing |= set() if columns.score else {CLIP}
    return replace(thresholds, rules=tuple(rule for rule in thresholds.rules if rule not in missing))


def _batches(file: Path) -> Iterator[tuple[pyarrow.Table, Columns]]:
    try:
        with parquet.ParquetFile(file) as opened:
            columns = columns_of(opened.schema_arrow.names)
            if columns is None:
                names = ", ".join(opened.schema_arrow.names)
                raise ValueError(f"{file} has no column url, or none of text (caption, text), but {names}")
            for batch in opened.iter_batches(ROWS):
                yield pyarrow.Table.from_batches([batch]), columns
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is no readable Parquet ({str(error).splitlines()[0]})") from error


def _pairs(table: pyarrow.Table, columns: Columns) -> Iterator[Pair | None]:
    """The rows as pairs; None where the text is missing or the size is none."""
    nothing = [None] * len(table)
    texts, widths, heights, scores = (
        table[name].to_pylist() if name else nothing
        for name in (columns.text, columns.width, columns.height, columns.score)
    )
    sized = columns.width is not None and columns.height is not None
    for text, width, height, score in zip(texts, widths, heights, scores):
        if not isinstance(text, str) or (sized and not (width and height)):
            yield None
        else:
            yield Pair(text, width or 0, height or 0, score)


def _identity(address: Any) -> int:
    return int.from_bytes(hashlib.sha256(str(address).encode()).digest()[:8])


def survey_addresses(job: Job[Thresholds], number: int) -> None:
    """Step 1 for one file; see `data_pipelines.cleaning.tars.Survey`."""
    steps: Counter[int] = Counter()
    kept: list[tuple[int, int, int]] = []
    total = 0
    for table, columns in _batches(job.file(number)):
        thresholds = applicable(job.thresholds, columns)
        others = replace(thresholds, rules=tuple(rule for rule in thresholds.rules if rule != CLIP))
        addresses = table[columns.address].to_pylist() if thresholds.longest_text else []
        for row, pair in enumerate(_pairs(table, columns), start=total):
            left = judge(pair, others)[0] if pair is not None else None
            if pair is None or left is None:
                continue
            if pair.score is not None and np.isfinite(pair.score):
                steps[score_step(pair.score)] += 1
            if thresholds.longest_text:
                kept.append((_identity(addresses[row - total]), len(left.text), row))
        total += len(table)
    pictures = np.asarray([row[0] for row in kept], np.uint64)
    lengths, numbers = np.asarray([row[1:] for row in kept], np.int32).reshape(-1, 2).T
    save_survey(job, number, Survey(total, dict(steps), pictures, lengths, numbers))


def select_addresses(job: Job[Thresholds], shorter: dict[int, list[int]], number: int) -> None:
    """Step 2 for one file: writes the kept rows under the file's name."""
    counts: Counter[str] = Counter()
    losers = frozenset(shorter.get(number, ()))
    target = job.partial / job.files[number]
    target.parent.mkdir(parents=True, exist_ok=True)
    writer, kept_rows, total = None, 0, 0
    for table, columns in _batches(job.file(number)):
        thresholds = applicable(job.thresholds, columns)
        rows, texts = [], []
        for row, pair in enumerate(_pairs(table, columns)):
            kept, reason = judge(pair, thresholds) if pair is not None else (None, DAMAGED)
            if kept is None:
                counts[reason] += 1
            elif total + row in losers:
                counts[SHORTER] += 1
            else:
                rows.append(row)
                texts.append(kept.text)
        place = table.schema.get_field_index(columns.text)
        field = table.schema.field(place)
        chosen = table.take(pyarrow.array(rows, pyarrow.int64()))
        chosen = chosen.set_column(place, field, pyarrow.array(texts, field.type))
        writer = writer or parquet.ParquetWriter(target, chosen.schema)
        writer.write_table(chosen)
        kept_rows, total = kept_rows + len(rows), total + len(table)
    if writer is not None:
        writer.close()
    write_json(job.result("kept", number, ".json"), {"kept": kept_rows, "counts": counts})


def holds_addresses(source: Path) -> bool:
    """Whether a folder has Parquet of addresses and no tars, so that nothing was fetched yet."""
    files = sorted(source.rglob("*.parquet"))
    return (
        bool(files) and not any(source.rglob("*.tar")) and columns_of(parquet.read_schema(files[0]).names) is not None
    )


def clean_addresses(source: Path, destination: Path, corpus: str, engine: Engine = run_here) -> Funnel:
    """Cleans the Parquet files of `source` into files of the same names in the new folder `destination`.

    Raises:
      FileExistsError: the destination exists.
      ValueError: as `data_pipelines.cleaning.job.clean`, or a file is no readable Parquet of addresses.
    """
    files = tuple(sorted(entry.relative_to(source).as_posix() for entry in source.rglob("*.parquet")))
    with opened(source, destination, thresholds_of(corpus), files) as job:
        job, shorter = decide(job, engine, survey_addresses)
        run(job, engine, "select pairs", "kept", partial(select_addresses, job, shorter), len(files))
        selected = [json.loads(job.result("kept", n, ".json").read_text()) for n in range(len(files))]
        counts = merge(found["counts"] for found in selected)
        kept = sum(found["kept"] for found in selected)
        funnel = make_funnel(corpus, counts, kept, job.thresholds.clip_cut, job.thresholds.keep_rate)
        write_reports(job, funnel, [])
        remove_work(job)
        job.partial.rename(destination)
    return funnel
