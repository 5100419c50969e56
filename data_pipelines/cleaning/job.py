"""A cleaning from tars to shards, in steps that any engine can run.

Each step is a function of a number (of a tar, or of a shard to write) that leaves its result in a file, whole or not at
all. So an engine only has to call it for every number; a stopped cleaning goes on where it was, and the result does
not depend on the engine, on its processes or on the order:

1. survey every tar (only where the corpus needs it): scores, and texts of the same picture;
2. select every tar's pairs: rules, decoding; the outlines of what is kept;
3. compare their pictures (only where near-duplicates are to be left out), a part of a table at a time;
4. write every shard: exactly 8,192 records each, pictures copied from the tars.
"""

import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from data_pipelines.cleaning.calibration import calibrate, merge
from data_pipelines.cleaning.funnel import (
    NEAR_DUPLICATE,
    Funnel,
    funnel_json,
    funnel_svg,
    funnel_table,
    make_funnel,
)
from data_pipelines.cleaning.near_duplicates import SIGNATURE, alike_to_earlier, part_of, tables
from data_pipelines.cleaning.pages import PageThresholds
from data_pipelines.cleaning.tars import Survey, select, shorter_texts, survey
from data_pipelines.cleaning.thresholds import CLIP, Thresholds, thresholds_of
from data_pipelines.records import Record
from data_pipelines.sources.array_record import (
    RECORDS_PER_SHARD,
    WrittenShard,
    finish_folder,
    shard_name,
    write_shard,
)
from data_pipelines.sources.index import MappedIndex, read_pictures, write_index
from data_pipelines.sources.webdataset import WebDataset
from qwenvl_jax.folder_lock import only_writer

Numbers = TypeVar("Numbers", Thresholds, PageThresholds)

Engine = Callable[[str, Callable[[int], None], Sequence[int]], None]
"""Called with what is done ("survey"), a picklable function, and the numbers to call it with, each at least once."""

FUNNEL, FUNNEL_TABLE, FUNNEL_PICTURE, QUARANTINE = "funnel.json", "funnel.md", "funnel.svg", "quarantine.jsonl"
WORK, SIGNATURES = "work", "signatures"
COMPARED_AT_ONCE = 1 << 25
"""Signatures, about, that a process compares at once: 2.3 GB, at the 68 bytes that `launch/benchmarks/cleaning.py` found."""
READ_AT_ONCE = 1 << 22


def run_here(what: str, function: Callable[[int], None], numbers: Sequence[int]) -> None:
    """The plain loop."""
    for number in numbers:
        function(number)


@dataclass(frozen=True)
class Job(Generic[Numbers]):
    """What every step needs to know; picklable.

    Attributes:
      source: the folder of the files.
      files: their names in it (tars, Parquet of addresses, or PDFs).
      partial: the folder that becomes the destination; results of steps lie in `work/` below it.
      thresholds: of the corpus.
    """

    source: Path
    files: tuple[str, ...]
    partial: Path
    thresholds: Numbers

    def file(self, number: int) -> Path:
        return self.source / self.files[number]

    def result(self, step: str, number: int, suffix: str) -> Path:
        return self.partial / WORK / f"{step}-{number:06d}{suffix}"


def survey_tar(job: Job[Thresholds], number: int) -> None:
    """Step 1 for one tar."""
    save_survey(job, number, survey(job.file(number), job.thresholds))


def save_survey(job: Job, number: int, found: Survey) -> None:
    """Writes the result of step 1."""
    write_arrays(
        job.result("survey", number, ".npz"),
        pairs=np.asarray(found.pairs),
        scores=np.asarray([*found.steps.items()], np.int64).reshape(-1, 2),
        pictures=found.pictures,
        lengths=found.lengths,
        numbers=found.numbers,
    )


def load_survey(job: Job, number: int) -> Survey:
    """The result of step 1."""
    with np.load(job.result("survey", number, ".npz")) as s:
        steps = {int(step): int(count) for step, count in s["scores"]}
        return Survey(int(s["pairs"]), steps, s["pictures"], s["lengths"], s["numbers"])


def select_tar(job: Job[Thresholds], shorter: dict[int, list[int]], number: int) -> None:
    """Step 2 for one tar. The JSON is written last: where it lies, the step is done."""
    counts: Counter[str] = Counter()
    signatures: list[np.ndarray] = []
    entries = select(job.file(number), job.thresholds, frozenset(shorter.get(number, ())), counts, signatures)
    kept, _, problems = write_index(job.result("kept", number, ".index"), entries)
    if job.thresholds.near_duplicate_bits is not None:
        write_arrays(job.result("kept", number, ".npz"), signatures=np.asarray(signatures, SIGNATURE))
    listed = [[problem.index, problem.reason] for problem in problems]
    write_json(job.result("kept", number, ".json"), {"kept": kept, "counts": counts, "problems": listed})


def compare_part(job: Job[Thresholds], bits: int, parts: int, number: int) -> None:
    """Step 3 for one part of one table: the places, among all kept pairs, of those that are alike to an earlier one."""
    table, part = divmod(number, parts)
    mask = tables(bits)[table]
    stored = np.memmap(job.partial / WORK / SIGNATURES, SIGNATURE, "r")
    places = np.concatenate(
        [
            begin + np.flatnonzero(part_of(stored["hash"][begin : begin + READ_AT_ONCE], mask, parts) == part)
            for begin in range(0, len(stored), READ_AT_ONCE)
        ]
    )
    left_out = alike_to_earlier(np.asarray(stored[places]), mask, bits)
    write_arrays(job.result("alike", number, ".npz"), places=places[left_out])


def leave_out_alike(job: Job[Thresholds], bits: int, engine: Engine, ends: Sequence[int]) -> list[int]:
    """Step 3 and what follows from it: writes which pairs of each tar are left, and counts them as `ends` does.

    Args:
      ends: kept pairs up to and with each tar.
    """
    if not ends[-1]:
        return [*ends]
    # One file, in the order of the tars: every part of every table reads all of it.
    with (job.partial / WORK / SIGNATURES).open("wb") as together:
        for file in range(len(job.files)):
            with np.load(job.result("kept", file, ".npz")) as stored:
                together.write(stored["signatures"].tobytes())
    parts = ends[-1] // COMPARED_AT_ONCE + 1
    count = len(tables(bits)) * parts
    run(job, engine, "compare pictures", "alike", partial(compare_part, job, bits, parts), count, ".npz")
    stays = np.ones(ends[-1], bool)
    for number in range(count):
        with np.load(job.result("alike", number, ".npz")) as found:
            stays[found["places"]] = False
    left = []
    for file, (begin, end) in enumerate(zip([0, *ends], ends)):
        chosen = np.flatnonzero(stays[begin:end])
        write_arrays(job.result("chosen", file, ".npz"), chosen=chosen)
        left.append(len(chosen))
    return [*accumulate(left)]


def chosen_of(job: Job, file: int) -> Sequence[int]:
    """The positions, in the index of a file, of what step 3 has left, or of all where it was not asked."""
    path = job.result("chosen", file, ".npz")
    if not path.is_file():
        return range(len(MappedIndex(job.result("kept", file, ".index"))))
    with np.load(path) as stored:
        chosen: list[int] = stored["chosen"].tolist()
    return chosen


Pictures = Callable[[Job, int], Path]
"""The file in which the pictures of a source's file lie, at the places that its index tells."""


def write_output(job: Job, pictures: Pictures, ends: Sequence[int], per_shard: int, number: int) -> None:
    """Step 4 for one shard. `ends` counts the kept records up to and with each file."""
    first, last = number * per_shard, min((number + 1) * per_shard, ends[-1])
    path = job.partial / shard_name(number)
    shard = write_shard(path, _records(job, pictures, ends, first, last))
    write_json(job.result("shard", number, ".json"), shard._asdict())


def _records(job: Job, pictures: Pictures, ends: Sequence[int], first: int, last: int) -> Iterator[Record]:
    """The kept records first .. last - 1 of all files."""
    source = WebDataset()
    while first < last:
        file = bisect_right(ends, first)
        begin = ends[file - 1] if file else 0
        kept, chosen = MappedIndex(job.result("kept", file, ".index")), chosen_of(job, file)
        for position in range(first, min(last, ends[file])):
            yield read_pictures(source, pictures(job, file), kept[chosen[position - begin]])
        first = ends[file]


def clean(
    source: Path,
    destination: Path,
    corpus: str,
    engine: Engine = run_here,
    per_shard: int = RECORDS_PER_SHARD,
    near_duplicate_bits: int | None = None,
) -> Funnel:
    """Cleans the tars of `source` into shards in the new folder `destination`, with funnel and quarantine list.

    Args:
      near_duplicate_bits: instead of the corpus's own (`Thresholds`).

    Raises:
      FileExistsError: the destination exists.
      ValueError: an unknown corpus, no tars, another cleaning in the destination's place, stopped or not, or nothing kept.
    """
    tars = tuple(sorted(entry.relative_to(source).as_posix() for entry in source.rglob("*.tar")))
    if not tars:
        raise ValueError(f"{source} holds no .tar: give the output folder of img2dataset (PDFs are --corpus pdf)")
    thresholds = thresholds_of(corpus)
    if near_duplicate_bits is not None:
        tables(near_duplicate_bits)
        thresholds = replace(thresholds, near_duplicate_bits=near_duplicate_bits)
    with opened(source, destination, thresholds, tars) as job:
        job, shorter = decide(job, engine, survey_tar)
        run(job, engine, "select pairs", "kept", partial(select_tar, job, shorter), len(tars))
        counts, ends = selected(job)
        if (bits := thresholds.near_duplicate_bits) is not None:
            kept = ends[-1]
            ends = leave_out_alike(job, bits, engine, ends)
            counts[NEAR_DUPLICATE] = kept - ends[-1]
        funnel = make_funnel(corpus, counts, ends[-1], job.thresholds.clip_cut, job.thresholds.keep_rate)
        write_kept(job, destination, funnel, engine, Job.file, ends, per_shard)
    return funnel


def selected(job: Job) -> tuple[Counter[str], list[int]]:
    """What step 2 has counted, and how many records it has kept up to and with each file."""
    found = [_selected(job, number) for number in range(len(job.files))]
    return merge(each["counts"] for each in found), [*accumulate(each["kept"] for each in found)]


def _selected(job: Job, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(job.result("kept", number, ".json").read_text())
    return found


def write_kept(
    job: Job, destination: Path, funnel: Funnel, engine: Engine, pictures: Pictures, ends: Sequence[int], per_shard: int
) -> None:
    """Step 4 and the reports; then the folder takes its name.

    Raises:
      ValueError: nothing is kept.
    """
    if not funnel.kept:
        raise ValueError(f"{job.source}: nothing passes the rules of corpus {funnel.corpus}:\n{funnel_table(funnel)}")
    shards = -(-ends[-1] // per_shard)
    run(job, engine, "write shards", "shard", partial(write_output, job, pictures, ends, per_shard), shards)
    written = [json.loads(job.result("shard", n, ".json").read_text()) for n in range(shards)]
    write_reports(job, funnel, [_selected(job, number)["problems"] for number in range(len(job.files))])
    remove_work(job)
    finish_folder(job.partial, destination, [WrittenShard(**shard) for shard in written])


@contextmanager
def opened(source: Path, destination: Path, thresholds: Numbers, files: tuple[str, ...]) -> Iterator[Job[Numbers]]:
    """Makes the folder, or finds the one of the same cleaning that was stopped; no other cleaning writes there meanwhile.

    Raises:
      FileExistsError, ValueError: as `clean`.
    """
    if destination.exists():
        raise FileExistsError(f"{destination} exists already: remove it first, or choose another name")
    partial_folder = destination.with_name(f".{destination.name}.cleaning")
    job = Job(source.absolute(), files, partial_folder.absolute(), thresholds)
    sizes: list[int] = [job.file(number).stat().st_size for number in range(len(files))]
    settings = json.dumps({"source": str(job.source), "files": [*zip(files, sizes)], **asdict(job.thresholds)})
    file = job.partial / WORK / "settings.json"
    with only_writer(job.partial):
        if file.is_file() and file.read_text() != settings:
            raise ValueError(
                f"{job.partial} holds an unfinished cleaning with other settings or files: remove it first"
            )
        file.parent.mkdir(exist_ok=True)
        file.write_text(settings)
        yield job


def decide(
    job: Job[Thresholds], engine: Engine, step: Callable[[Job[Thresholds], int], None]
) -> tuple[Job[Thresholds], dict[int, list[int]]]:
    """Step 1 and what follows from it: the job with its CLIP cut, and the texts that are not the longest."""
    thresholds = job.thresholds
    calibrated = CLIP in thresholds.rules and thresholds.keep_rate is not None and thresholds.clip_cut is None
    if not (calibrated or thresholds.longest_text):
        return job, {}
    run(job, engine, "survey", "survey", partial(step, job), len(job.files), ".npz")
    surveys = [load_survey(job, number) for number in range(len(job.files))]
    if calibrated and thresholds.keep_rate is not None:
        total = sum(found.pairs for found in surveys)
        cut = calibrate(merge(found.steps for found in surveys), total, thresholds.keep_rate)
        job = replace(job, thresholds=replace(thresholds, clip_cut=cut.score))
    return job, shorter_texts(surveys) if thresholds.longest_text else {}


def run(
    job: Job, engine: Engine, what: str, step: str, function: Callable[[int], None], count: int, suffix: str = ".json"
) -> None:
    """Has the engine do what is not done yet."""
    missing = [number for number in range(count) if not job.result(step, number, suffix).is_file()]
    if missing:
        engine(what, function, missing)


def write_reports(job: Job, funnel: Funnel, problems: Sequence[Sequence[tuple[int, str]]]) -> None:
    """Writes the funnel in three forms, and the list of damaged entries (index and reason of each file's)."""
    (job.partial / FUNNEL).write_text(json.dumps(funnel_json(funnel), indent=1))
    (job.partial / FUNNEL_TABLE).write_text(funnel_table(funnel))
    (job.partial / FUNNEL_PICTURE).write_text(funnel_svg([funnel]))
    with (job.partial / QUARANTINE).open("w") as file:
        for name, found in zip(job.files, problems):
            for index, reason in found:
                file.write(json.dumps({"source": name, "index": index, "reason": reason}, ensure_ascii=False) + "\n")


def remove_work(job: Job) -> None:
    """Removes the results of the steps."""
    work = job.partial / WORK
    for file in work.iterdir():
        file.unlink()
    work.rmdir()


def write_arrays(target: Path, **arrays: np.ndarray) -> None:
    """As `write_json`, an .npz."""
    written = target.with_name(f".{target.name}.{os.getpid()}")
    with written.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    written.replace(target)


def write_json(target: Path, value: Any) -> None:
    """Writes a file that is there whole or not at all."""
    written = target.with_name(f".{target.name}.{os.getpid()}")
    written.write_text(json.dumps(value))
    written.replace(target)
