"""What one stored record is, whatever format it lies in on disk.

A record is a picture (or none, or several) with everything that is known about it. Tasks (`data_pipelines.tasks`) make
training samples from it; a task that needs a field which is empty does not apply to the record. Boxes and quads are in
pixels of the stored picture, so that no rounding happens before a task writes them as tokens.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, get_args, get_origin, get_type_hints

import msgpack

Point = tuple[float, float]


@dataclass(frozen=True)
class StoredImage:
    """An encoded picture (JPEG, PNG, WebP) with the size that its header tells, in pixels."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class StoredVideo:
    """An encoded video (see `qwenvl_jax.processing.video`) with what its header tells; sides in pixels."""

    data: bytes
    frames: int
    frames_per_second: float
    width: int
    height: int


@dataclass(frozen=True)
class Region:
    """A phrase and the boxes (x1, y1, x2, y2) of what it means, in pixels."""

    phrase: str
    boxes: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Question:
    """A question with its answer; `kind` groups scores (colour, count, shape, relation, yes/no, ...)."""

    question: str
    answer: str
    kind: str = ""


@dataclass(frozen=True)
class TextLine:
    """Written text in the picture: its corners clockwise from the text's own top left, in pixels."""

    text: str
    quad: tuple[Point, Point, Point, Point]


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation. `text` may hold `<img>N</img>` for the record's N-th image (from 0), and
    `<video>N</video>` for its N-th video."""

    role: str
    text: str


@dataclass(frozen=True)
class Record:
    """One record; see the module docstring."""

    key: str
    images: tuple[StoredImage, ...] = ()
    captions: tuple[Question, ...] = ()
    """Pairs of prompt ("Generate the caption in English:") and caption; `kind` is the language, en or zh."""
    grounded_captions: tuple[Question, ...] = ()
    """As `captions`, the caption with `<ref>` and `<box>` markup in [0, 1000)."""
    questions: tuple[Question, ...] = ()
    regions: tuple[Region, ...] = ()
    lines: tuple[TextLine, ...] = ()
    conversation: tuple[Turn, ...] = ()
    text: str = ""
    """A text by itself; or a document, which holds `<img>N</img>` where its N-th image stands."""
    videos: tuple[StoredVideo, ...] = ()


def pack_record(record: Record) -> bytes:
    """The record as msgpack bytes (plain maps and lists; nothing that executes when read)."""
    fields = asdict(record)
    if (
        not record.videos
    ):  # so that records without one keep the bytes, and sources the fingerprints, that they had before
        del fields["videos"]
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    return packed


Holds = Callable[[Any], bool]


def _holds(kind: Any) -> Holds:
    """Whether a value is of an annotated type; a float may be written as an integer."""
    if get_origin(kind) is not tuple:
        types = (float, int) if kind is float else (kind,)
        return lambda value: type(value) in types
    inner = get_args(kind)
    first = _holds(inner[0])
    if inner[-1] is Ellipsis:
        return lambda value: type(value) is tuple and all(map(first, value))
    # All parts of a point, a box or a quad are of one type.
    return lambda value: type(value) is tuple and len(value) == len(inner) and all(map(first, value))


# Made once: 2 us a record. Looking at the annotations for each value took many times as long as unpacking.
FIELDS: dict[type, dict[str, Holds]] = {
    cls: {name: _holds(kind) for name, kind in get_type_hints(cls).items()}
    for cls in (StoredImage, StoredVideo, Region, Question, TextLine, Turn, Record)
}


def _build(cls: Any, values: dict) -> Any:
    known = FIELDS[cls]
    if unknown := values.keys() - known.keys():
        raise ValueError(f"record has unknown fields {sorted(unknown)}; {cls.__name__} has {sorted(known)}")
    for name, value in values.items():
        if not known[name](value):
            raise ValueError(f"not a record: {name} of its {cls.__name__} holds a value of another type")
    return cls(**values)


def unpack_record(data: bytes) -> Record:
    """The inverse of `pack_record`.

    Raises:
      ValueError: the bytes are no record; the sentence says why.
    """
    try:
        raw = msgpack.unpackb(data, raw=False, use_list=False)
        nested = {
            "images": StoredImage,
            "captions": Question,
            "grounded_captions": Question,
            "questions": Question,
            "regions": Region,
            "lines": TextLine,
            "conversation": Turn,
            "videos": StoredVideo,
        }
        for name, cls in nested.items():
            raw[name] = tuple(_build(cls, item) for item in raw.get(name, ()))
        return _build(Record, raw)
    except (msgpack.UnpackException, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a record: {error}") from error
