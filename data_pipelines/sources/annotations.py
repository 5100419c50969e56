"""Annotations that name their pictures by path: the format behind the readers of `data_pipelines.sources.academic`.

A reader yields `Annotated` entries; here their pictures are found below the annotations' folder, their headers read,
and their boxes checked, once, when the index is made.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_pipelines.boxes import checked_box
from data_pipelines.records import Question, Record, Region, StoredImage
from data_pipelines.sources.index import Entry, Place
from data_pipelines.sources.paths import file_below
from data_pipelines.sources.source import Problem
from qwenvl_jax.processing.images import image_size


@dataclass(frozen=True)
class Annotated:
    """All that annotations say of one picture.

    Attributes:
      key: names it among the records.
      picture: its path below the reader's picture folder.
      captions: texts with prompt and language.
      questions: questions with answers.
      regions: phrases with boxes in pixels.
    """

    key: str
    picture: str
    captions: tuple[Question, ...] = ()
    questions: tuple[Question, ...] = ()
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """Everything a reader finds: its entries, and why others cannot be used."""

    pictures: Path
    """The folder that the entries' pictures lie in."""
    entries: Iterator[Annotated]
    problems: tuple[str, ...] = field(default=())


Reader = Callable[[Path], Annotations]
"""From the annotation file to what it says. Raises ValueError, KeyError, TypeError where it has another shape."""


@dataclass(frozen=True)
class AnnotationFormat:
    """See `data_pipelines.sources.index.Format`; its one file is the annotation file."""

    reader: Reader

    def scan(self, file: Path) -> Iterator[Entry | Problem]:
        """Every picture that the annotations speak of.

        Raises:
          ValueError: the annotations have another shape than their owners give them.
        """
        try:
            found = self.reader(file)
            for reason in found.problems:
                yield Problem(str(file), 0, reason)
            # Relative, so that the index stays true when all of it is copied.
            folder = os.path.relpath(found.pictures, _base(file))
            for number, item in enumerate(found.entries):
                try:
                    path = file_below(found.pictures, item.picture)
                    width, height = image_size(path.read_bytes())
                except (OSError, ValueError) as error:
                    yield Problem(str(file), number, str(error))
                    continue
                regions, reasons = _checked(item.regions, width, height)
                yield from (Problem(str(file), number, reason) for reason in reasons)
                if not (item.captions or item.questions or regions):
                    yield Problem(str(file), number, "nothing about the picture can be used")
                    continue
                image = StoredImage(b"", width, height)
                record = Record(item.key, (image,), item.captions, (), item.questions, regions)
                yield Entry(number, record, ((folder, item.picture),))
        except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError(
                f"the annotations have another shape than expected ({type(error).__name__}: {error})"
            ) from error

    def read(self, file: Path, place: Place) -> bytes:
        """Raises ValueError or OSError where the picture is gone."""
        folder, picture = map(str, place)
        return file_below(_base(file) / folder, picture).read_bytes()


def _base(file: Path) -> Path:
    return file if file.is_dir() else file.parent


def _checked(regions: tuple[Region, ...], width: int, height: int) -> tuple[tuple[Region, ...], list[str]]:
    """The regions with a phrase and usable boxes, and why others are left out."""
    kept, reasons = [], []
    for region in regions:
        try:
            boxes = tuple(checked_box(box, width, height) for box in region.boxes)
            if not region.phrase.strip():
                raise ValueError("a region's phrase is empty")
        except ValueError as error:
            reasons.append(str(error))
        else:
            kept.append(replace(region, boxes=boxes))
    return tuple(kept), reasons
