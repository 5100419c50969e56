"""A cleaning of the user's own PDFs: a folder of files becomes shards of pages with their lines of text.

The steps are those of `data_pipelines.cleaning.job`, one file at a time instead of one tar: read and judge the pages of
every file, whose pictures are kept beside their index, then write every shard. A page becomes a record with its picture
and its lines, from which the task `ocr` makes "OCR with grounding" (paper, appendix A.4).
"""

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from data_pipelines.cleaning.funnel import PAGES, Funnel, make_funnel
from data_pipelines.cleaning.job import Engine, Job, opened, run, run_here, selected, write_json, write_kept
from data_pipelines.cleaning.pages import PDF, UNREADABLE_PAGE, PageThresholds
from data_pipelines.cleaning.pdf_process import read_pdf, require_pdfium
from data_pipelines.records import Record, StoredImage, TextLine
from data_pipelines.sources.array_record import RECORDS_PER_SHARD
from data_pipelines.sources.index import Entry, write_index
from data_pipelines.sources.source import Problem

CORPUS = "pdf"
"""What `--corpus` calls it."""


def pictures_of(job: Job, number: int) -> Path:
    """Where the pictures of a file's kept pages lie, behind each other."""
    return job.result("kept", number, ".jpegs")


def select_pages(job: Job[PageThresholds], number: int) -> None:
    """Step 2 for one file. The JSON is written last: where it lies, the step is done."""
    require_pdfium()
    counts: Counter[str] = Counter()
    target = pictures_of(job, number)
    written = target.with_name(f".{target.name}.{os.getpid()}")
    with written.open("wb") as pictures:
        kept, _, problems = write_index(job.result("kept", number, ".index"), _entries(job, number, pictures, counts))
    written.replace(target)
    listed = [[problem.index, problem.reason] for problem in problems]
    write_json(job.result("kept", number, ".json"), {"kept": kept, "counts": counts, "problems": listed})


def _entries(
    job: Job[PageThresholds], number: int, pictures: BinaryIO, counts: Counter[str]
) -> Iterator[Entry | Problem]:
    """The pages of a file that are kept, with their pictures written, and those that could not be read."""
    position = 0
    for page, reason, content, pages in read_pdf(job.file(number), job.thresholds):
        if reason:
            counts[reason] += pages
            if reason in UNREADABLE_PAGE:
                yield Problem(str(job.file(number)), page, reason)
            continue
        data = content["data"]
        pictures.write(data)
        image = StoredImage(b"", content["width"], content["height"])
        lines = tuple(TextLine(text, quad) for text, quad in content["lines"])
        # Pages count from 1 here, as in the address of a page of a PDF.
        yield Entry(
            page, Record(f"{job.files[number]}#page={page + 1}", (image,), lines=lines), ((position, len(data)),)
        )
        position += len(data)


def holds_pdfs(source: Path) -> bool:
    """Whether a folder, or one below it, has a PDF."""
    return bool(_pdfs(source))


def _pdfs(source: Path) -> tuple[str, ...]:
    found = (entry for entry in source.rglob("*") if entry.suffix.lower() == ".pdf" and entry.is_file())
    return tuple(sorted(entry.relative_to(source).as_posix() for entry in found))


def clean_pdfs(
    source: Path, destination: Path, engine: Engine = run_here, per_shard: int = RECORDS_PER_SHARD
) -> Funnel:
    """Makes shards in the new folder `destination` of the pages of the PDFs in `source`, with funnel and quarantine list.

    Raises:
      FileExistsError: the destination exists.
      ValueError: pypdfium2 is missing, no PDFs, another cleaning in the destination's place, stopped or not, or nothing
        kept.
    """
    require_pdfium()
    files = _pdfs(source)
    if not files:
        raise ValueError(f"{source} holds no .pdf")
    with opened(source, destination, PDF, files) as job:
        run(job, engine, "read pages", "kept", partial(select_pages, job), len(files))
        counts, ends = selected(job)
        funnel = make_funnel(CORPUS, counts, ends[-1], unit=PAGES)
        write_kept(job, destination, funnel, engine, pictures_of, ends, per_shard)
    return funnel
