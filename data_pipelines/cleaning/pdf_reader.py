"""The program that reads one PDF: `python -m data_pipelines.cleaning.pdf_reader FILE FIRST_PAGE THRESHOLDS`.

It runs apart (`data_pipelines.cleaning.pdf_process`), because a damaged file may crash PDFium or keep it busy for ever. It
writes messages to its standard output, each as 8 bytes of length and msgpack: one when it is ready, one on the file, then
one for each page. Memory and time of the processor are limited by the system; where a limit is met, the process ends.

Everything that a page becomes is decided here: no process is needed to test `read_page`.
"""

import io
import json
import math
import os
import resource
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgpack
from PIL import Image

from data_pipelines.cleaning.pages import (
    FOREIGN_FONT,
    LOCKED,
    NO_PAGE,
    NO_PDF,
    NO_TEXT,
    PAGE_TOO_LARGE,
    TOO_MANY,
    Page,
    PageThresholds,
    judge_page,
)
from data_pipelines.cleaning.pdf_text import lines_of, page_to_picture, read_text, upright
from data_pipelines.records import TextLine

LENGTH = struct.Struct("<Q")
POINTS_PER_INCH = 72
QUALITY = 90
"""Of the pictures' JPEG."""
CONTRAST = 32
"""Steps of grey between the lightest and the darkest pixel of a line's box from which something is written there."""
MOST_MARKS = 10
"""Times the most characters of a page, above which its text is not read: spaces and line breaks are not that many."""
MEMORY = 4 << 30
"""Bytes of address space. The picture of a page takes 12 MB; pictures in it are decoded whole."""
SECONDS = 60
"""Of processor time a page: hundreds of times what a page of text takes."""


def open_pdf(file: Path) -> Any:
    """The `pypdfium2.PdfDocument` of a file.

    Raises:
      ValueError: it cannot be opened; the sentence is a reason of `UNREADABLE_PAGE`.
    """
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        raise ValueError(LOCKED if error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD else NO_PDF) from error


def read_page(document: Any, number: int, thresholds: PageThresholds) -> dict[str, Any]:
    """`reason` for a page that is left out, else `width`, `height`, `data` (JPEG) and `lines` (text, corners)."""
    import pypdfium2

    try:
        page = document[number]
        points = page.get_size()
        most = thresholds.max_inches * POINTS_PER_INCH
        if not all(math.isfinite(side) and 0 < side <= most for side in points):
            return {"reason": PAGE_TOO_LARGE}
        scale = min(
            thresholds.dots_per_inch / POINTS_PER_INCH, math.sqrt(thresholds.max_pixels / (points[0] * points[1]))
        )
        width, height = (math.ceil(side * scale) for side in points)
        text = page.get_textpage()
        if text.count_chars() > MOST_MARKS * thresholds.max_characters:
            return {"reason": TOO_MANY}
        found = read_text(text, page_to_picture(page, width, height))
        lines = lines_of(found, width, height)
        reason = FOREIGN_FONT if found.foreign else _judge(width, height, lines, thresholds)
        if reason:
            return {"reason": reason}
        # What is laid over a page (marks, fields) is not in its text, so it is not drawn either.
        picture = page.render(scale=scale, draw_annots=False, rev_byteorder=True).to_pil()
    except pypdfium2.PdfiumError:
        return {"reason": NO_PAGE}
    # Text under a picture or in the colour of the paper cannot be read by anybody, so nobody shall learn it.
    lines = [line for line in lines if _is_seen(picture, line)]
    if reason := _judge(picture.width, picture.height, lines, thresholds):
        return {"reason": reason}
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return {
        "width": picture.width,
        "height": picture.height,
        "data": file.getvalue(),
        "lines": [(line.text, line.quad) for line in lines],
    }


def _judge(width: int, height: int, lines: list[TextLine], thresholds: PageThresholds) -> str:
    if not lines:
        return NO_TEXT
    return judge_page(Page(width, height, [(line.text, upright(line.quad)) for line in lines]), thresholds)


def _is_seen(picture: Image.Image, line: TextLine) -> bool:
    left, top, right, bottom = upright(line.quad)
    box = (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(picture.width, math.ceil(right)),
        min(picture.height, math.ceil(bottom)),
    )
    if box[2] <= box[0] or box[3] <= box[1]:
        return False
    darkest, lightest = cast(tuple[int, int], picture.crop(box).convert("L").getextrema())
    return lightest - darkest >= CONTRAST


def read_file(file: Path, first: int, thresholds: PageThresholds, output: BinaryIO) -> None:
    """Writes the message on the file and those on its pages from number `first` on."""
    try:
        document = open_pdf(file)
    except ValueError as error:
        return _write(output, {"reason": str(error)})
    pages = len(document)
    _write(output, {"pages": pages})
    for number in range(first, min(pages, thresholds.max_pages)):
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + SECONDS, hard))
        _write(output, read_page(document, number, thresholds))
    return None


def _write(output: BinaryIO, message: dict[str, Any]) -> None:
    packed: bytes = msgpack.packb(message)
    output.write(LENGTH.pack(len(packed)) + packed)
    output.flush()


def main() -> None:
    """Reads the file named on the command line."""
    import pypdfium2  # noqa: F401  # if it is missing, there is no message

    file, first, numbers = sys.argv[1:]
    # PDFium may print; whatever it prints must not come between the messages.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    _write(output, {"ready": True})
    read_file(Path(file), int(first), PageThresholds(**json.loads(numbers)), output)


def arguments(file: Path, first: int, thresholds: PageThresholds) -> list[str]:
    """The command line that reads a file from page `first` on."""
    return [sys.executable, "-m", __name__, str(file), str(first), json.dumps(asdict(thresholds))]


if __name__ == "__main__":
    main()
