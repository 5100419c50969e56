"""Tars of pictures with their texts as `img2dataset` writes them, read where they lie.

`00000.tar` holds `KEY.jpg`, `KEY.txt` (the caption) and `KEY.json` (what is known of it) for every sample, behind
each other; `00000.parquet` beside it holds the same as columns, also for what could not be fetched. Nothing is
unpacked: a member's name is a key and never a path. Sizes come from the Parquet where it is, else from the
pictures' headers. Columns `ref_exps` (GRIT's expressions with boxes) become grounded captions and regions.
"""

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as parquet

from data_pipelines.cleaning.grounding import grounded_caption, read_expressions, regions, without_nested
from data_pipelines.records import Question, Record, Region, StoredImage
from data_pipelines.sources.captions import caption_question, decode_text
from data_pipelines.sources.index import Entry, Place
from data_pipelines.sources.source import Problem
from qwenvl_jax.json_text import read_json
from qwenvl_jax.processing.images import image_size

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
EXPRESSIONS = "ref_exps"
COLUMNS = ("key", "caption", "width", "height", EXPRESSIONS)
"""Of the Parquet beside a tar: what an outline needs."""
MAX_TEXT = 1 << 20
"""Bytes of a text or JSON member; a longer one is damage, not a caption."""


class TarSample(NamedTuple):
    """The members of a tar that share a key: extension -> (offset of the bytes, number of bytes)."""

    number: int
    key: str
    members: dict[str, tuple[int, int]]


def tar_samples(file: Path) -> Iterator[TarSample | Problem]:
    """The samples of a tar in their order. Where a tar is cut, the samples before the cut are there.

    Raises:
      OSError: it cannot be opened.
      ValueError: it is no tar.
    """
    size = file.stat().st_size
    number, key = -1, None
    members: dict[str, tuple[int, int]] = {}
    end = 0
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else every header of the tar stays in memory
                if not member.isreg():
                    if not member.isdir():
                        yield Problem(str(file), max(number, 0), "a member is a link or a device, not a file")
                    continue
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                found, _, extension = _split(member.name)
                if ".." in member.name.split("/") or member.name.startswith("/"):
                    yield Problem(str(file), max(number, 0), "a member's name leaves the tar's folder")
                    continue
                if found != key:
                    if key is not None:
                        yield TarSample(number, key, members)
                    number, key, members = number + 1, found, {}
                if member.offset_data + member.size > size:
                    yield Problem(str(file), number, "the tar is cut off inside this sample")
                    return
                members[extension] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        if key is None:
            raise ValueError(f"this is no tar, or it is cut off ({error})") from error
        yield Problem(str(file), number + 1, f"the tar is cut off or damaged from here on ({error})")
        end = -tarfile.BLOCKSIZE  # it is said already
    if key is not None:
        yield TarSample(number, key, members)
    if size < end + tarfile.BLOCKSIZE:
        yield Problem(str(file), number + 1, "the tar has no end mark: it is cut off behind this sample")


def _split(name: str) -> tuple[str, str, str]:
    """Key, dot and lower-case extension; the key ends at the first dot of the last part, as in webdataset."""
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    return folder + slash + stem, dot, extension.lower()


def read_member(file: Path, place: Place) -> bytes:
    """The bytes of a member. The file is opened for this read alone, so no descriptor stays, however many tars."""
    offset, size = int(place[0]), int(place[1])
    descriptor = os.open(file, os.O_RDONLY)
    try:
        data = os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise ValueError(f"{size} bytes were asked for and {len(data)} are there: the tar is shorter than its index")
    return data


def metadata_beside(file: Path, columns: tuple[str, ...] = COLUMNS) -> dict[str, dict[str, Any]] | None:
    """Key -> columns of the Parquet beside a tar; None where there is none, or none with keys.

    Raises:
      ValueError: the Parquet cannot be read.
    """
    path = file.with_suffix(".parquet")
    if not path.is_file():
        return None
    try:
        present = parquet.read_schema(path).names
        if "key" not in present:
            return None
        table = parquet.read_table(path, columns=[name for name in columns if name in present])
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise ValueError(f"{path.name} beside it cannot be read ({error})") from error
    return {row["key"]: row for row in table.to_pylist()}


@dataclass(frozen=True)
class WebDataset:
    """The format of this file; see `data_pipelines.sources.index.Format`."""

    def scan(self, file: Path) -> Iterator[Entry | Problem]:
        """Every sample of a tar; its texts are read, its pictures only where no Parquet tells their sizes."""
        metadata = metadata_beside(file) or {}
        for sample in tar_samples(file):
            if isinstance(sample, Problem):
                yield sample
                continue
            try:
                known = metadata.get(sample.key) or member_json(file, sample)
                entry, reasons = outline(file, sample, known)
            except ValueError as error:
                yield Problem(str(file), sample.number, str(error))
            else:
                yield from (Problem(str(file), sample.number, reason) for reason in reasons)
                yield entry

    def read(self, file: Path, place: Place) -> bytes:
        """See `read_member`."""
        return read_member(file, place)


def member_json(file: Path, sample: TarSample) -> dict[str, Any]:
    """What the sample's JSON member says; empty where there is none.

    Raises:
      ValueError: it is no JSON object.
    """
    if "json" not in sample.members:
        return {}
    try:
        known = read_json(_text(file, sample, "json"))
    except ValueError as error:
        raise ValueError(f"its JSON is not readable ({error})") from error
    if not isinstance(known, dict):
        raise ValueError(f"its JSON holds a {type(known).__name__}, not what is known of a picture")
    return known


def _text(file: Path, sample: TarSample, extension: str) -> str:
    if sample.members[extension][1] > MAX_TEXT:
        raise ValueError(f"its .{extension} has {sample.members[extension][1]} bytes, more than a text can have")
    return decode_text(read_member(file, sample.members[extension]))


def caption_of(file: Path, sample: TarSample, known: Mapping[str, Any]) -> str:
    """The caption, as it is stored: the .txt, else what the JSON or Parquet says.

    Raises:
      ValueError: there is none, or it is no UTF-8.
    """
    text = _text(file, sample, "txt") if "txt" in sample.members else known.get("caption")
    if not isinstance(text, str):
        raise ValueError("it has no caption: neither .txt nor a text under caption")
    return text


def picture_of(sample: TarSample) -> tuple[int, int]:
    """Where the sample's picture lies.

    Raises:
      ValueError: there is none.
    """
    place = next((sample.members[extension] for extension in PICTURES if extension in sample.members), None)
    if place is None:
        raise ValueError(f"it has no picture, only {', '.join(sample.members) or 'nothing'}")
    return place


def outline(file: Path, sample: TarSample, known: Mapping[str, Any]) -> tuple[Entry, list[str]]:
    """The sample's entry, and why expressions of it were left out.

    Raises:
      ValueError: it cannot be used.
    """
    place = picture_of(sample)
    caption = caption_of(file, sample, known)
    question = caption_question(caption)
    width, height = known.get("width"), known.get("height")
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        width, height = image_size(read_member(file, place))
    image = StoredImage(b"", width, height)
    reasons: list[str] = []
    grounded: tuple[Question, ...] = ()
    found: tuple[Region, ...] = ()
    if expressions := known.get(EXPRESSIONS):
        phrases, reasons = read_expressions(_as_list(expressions), len(caption))
        if chosen := without_nested(phrases):
            grounded, found = (grounded_caption(caption, chosen),), regions(caption, chosen, width, height)
    record = Record(key=sample.key, images=(image,), captions=(question,), grounded_captions=grounded, regions=found)
    return Entry(sample.number, record, (place,)), reasons


def _as_list(value: Any) -> Any:
    """Lists of a Parquet column come as lists; other writers store them as JSON text."""
    try:
        return read_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"its {EXPRESSIONS} are no list ({error})") from error
