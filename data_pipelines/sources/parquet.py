"""Parquet files that hold the bytes of pictures, as Hugging Face's datasets and many exports do.

A picture stands in a column of bytes, or of `{bytes, path}`, or in a list of either. Beside it stands a caption, a
question with its answer, a conversation, or the texts of a document (see `data_pipelines.sources.interleaved`).
Parquet is read a row group at a time, so a random read costs a whole group: the last few stay in memory, and for a
long run `qwenvl data clean` makes shards of them once.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

from data_pipelines.records import Question, Record, StoredImage, Turn
from data_pipelines.sources.captions import caption_question
from data_pipelines.sources.conversation_forms import as_qwen, numbered_turns, paired_messages
from data_pipelines.sources.index import Entry, Place
from data_pipelines.sources.interleaved import TEXTS, article, is_interleaved
from data_pipelines.sources.source import Problem
from qwenvl_jax.processing.images import image_size

PICTURE_COLUMNS = ("image", "images", "jpg", "jpeg", "png", "webp", "img", "bytes", "image_bytes")
CAPTION_COLUMNS = ("caption", "text", "TEXT", "txt")
CONVERSATION_COLUMNS = ("conversations", "messages", "conversation")
QUESTION, ANSWER = "question", "answer"
KEPT_GROUPS = 4
"""Row groups of pictures that stay in memory."""


def _kind(column: pyarrow.DataType) -> bool:
    """Whether a column can hold pictures."""
    if pyarrow.types.is_list(column) or pyarrow.types.is_large_list(column):
        return _kind(column.value_type)
    if pyarrow.types.is_struct(column):
        return any(field.name == "bytes" and _kind(field.type) for field in column)
    return pyarrow.types.is_binary(column) or pyarrow.types.is_large_binary(column)


def _columns(file: Path, schema: pyarrow.Schema) -> tuple[str, list[str]]:
    """The picture column, and the columns of text.

    Raises:
      ValueError: one is missing; the sentence lists the columns.
    """
    names = ", ".join(schema.names)
    picture = next((n for n in PICTURE_COLUMNS if n in schema.names and _kind(schema.field(n).type)), None)
    if picture is None:
        raise ValueError(f"it has no column of picture bytes ({' or '.join(PICTURE_COLUMNS)}), but {names}")
    texts = [n for n in (*CONVERSATION_COLUMNS, TEXTS, *CAPTION_COLUMNS, QUESTION, ANSWER) if n in schema.names]
    if not texts or texts in ([QUESTION], [ANSWER]):
        raise ValueError(f"it has no caption, question with answer, or conversations, but {names}")
    return picture, texts


def _cell_pictures(value: Any) -> list[bytes | None]:
    """The pictures of a cell; None where one is missing, or only its path is there."""
    items = value if isinstance(value, list) else [value]
    return [(item.get("bytes") if isinstance(item, dict) else item) or None for item in items]


def row_pictures(value: Any, texts: Any) -> list[bytes]:
    """The pictures of a row's cell; between the texts of a document there are none.

    Raises:
      ValueError: a picture is missing, or only its path is there.
    """
    found = _cell_pictures(value)
    # A struct without bytes is a picture that was not fetched, between texts as anywhere else.
    gaps = [item is None for item in value] if is_interleaved(texts, value) else [False] * len(found)
    there = [data for data, gap in zip(found, gaps) if not gap]
    pictures = [data for data in there if data]
    if len(pictures) < len(there) or not pictures:
        raise ValueError("the row has no picture bytes")
    return pictures


def record_of(key: str, row: Mapping[str, Any], picture: str, images: tuple[StoredImage, ...]) -> Record:
    """What a row says about its pictures, which stand in column `picture`.

    Raises:
      ValueError: nothing that can be used.
    """
    messages = next((row[name] for name in CONVERSATION_COLUMNS if row.get(name)), None)
    if is_interleaved(row.get(TEXTS), row[picture]):
        return Record(key, images, text=article(row[TEXTS], row[picture]))
    if pairs := row.get(TEXTS):  # FineVision's and The Cauldron's
        messages = paired_messages(pairs, len(images))
    if messages is not None:
        names = [str(number) for number in range(len(images))]
        texts = numbered_turns(as_qwen({"conversations": messages, "image": names}), len(images))
        return Record(key, images, conversation=tuple(Turn(*turn) for turn in texts))
    if row.get(QUESTION) and isinstance(row.get(ANSWER), str):
        return Record(key, images, questions=(Question(row[QUESTION], row[ANSWER]),))
    caption = next((row[name] for name in CAPTION_COLUMNS if name in row), None)
    if isinstance(caption, list):
        caption = max(caption, key=len, default="")  # the paper keeps the longest of several (appendix A.1)
    if not isinstance(caption, str):
        raise ValueError("the row has no text")
    return Record(key, images, captions=(caption_question(caption),))


class ParquetPictures:
    """The format of this file; see `data_pipelines.sources.index.Format`. Keeps row groups of pictures in memory."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {}

    def __setstate__(self, state: dict) -> None:
        self.__init__()  # type: ignore[misc]

    def scan(self, file: Path) -> Iterator[Entry | Problem]:
        """Every row, one row group in memory at a time."""
        try:
            opened = parquet.ParquetFile(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"it is no readable Parquet ({str(error).splitlines()[0]})") from error
        with opened:
            picture, texts = _columns(file, opened.schema_arrow)
            number = 0
            for group in range(opened.num_row_groups):
                try:
                    rows = opened.read_row_group(group, columns=[picture, *texts]).to_pylist()
                except (pyarrow.ArrowException, OSError, ValueError) as error:
                    yield Problem(str(file), number, f"row group {group} is damaged ({str(error).splitlines()[0]})")
                    number += opened.metadata.row_group(group).num_rows
                    continue
                for place, row in enumerate(rows):
                    try:
                        found = row_pictures(row[picture], row.get(TEXTS))
                        images = tuple(StoredImage(b"", *image_size(data)) for data in found)
                        record = record_of(f"{file.stem}/{number}", row, picture, images)
                        yield Entry(number, record, tuple((group, place, which) for which in range(len(found))))
                    except (ValueError, TypeError, KeyError, AttributeError) as error:
                        yield Problem(str(file), number, str(error))
                    number += 1

    def read(self, file: Path, place: Place) -> bytes:
        """Raises ValueError or OSError where the row group cannot be read."""
        group, row, which = (int(part) for part in place)
        pictures = [data for data in _cell_pictures(self._pictures(file, group)[row].as_py()) if data]
        return pictures[which]

    def _pictures(self, file: Path, group: int) -> Any:
        key = (str(file), group)
        with self._lock:
            found = self._groups.pop(key, None)
            if found is None:
                try:
                    with parquet.ParquetFile(file) as opened:
                        picture, _ = _columns(file, opened.schema_arrow)
                        found = opened.read_row_group(group, columns=[picture]).column(0)
                except pyarrow.ArrowException as error:
                    raise ValueError(f"row group {group} cannot be read ({str(error).splitlines()[0]})") from error
            self._groups[key] = found
            if len(self._groups) > KEPT_GROUPS:
                self._groups.popitem(last=False)
        return found
