"""Folders of pictures, each with its caption in a text file of the same name: `a/b.jpg` and `a/b.txt`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.records import Record, StoredImage
from data_pipelines.sources.captions import caption_question, decode_text
from data_pipelines.sources.index import Entry, Place
from data_pipelines.sources.paths import file_below
from data_pipelines.sources.source import Problem
from data_pipelines.sources.webdataset import PICTURES
from qwenvl_jax.processing.images import image_size


def has_pictures(folder: Path) -> bool:
    """Whether a folder, or one below it, holds a picture with a text."""
    return any(picture.with_suffix(".txt").is_file() for picture in _pictures(folder))


def _pictures(folder: Path) -> Iterator[Path]:
    """All pictures in a fixed order; links to folders are not followed, so the walk ends and stays inside."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / n for n in sorted(files) if n.rpartition(".")[2].lower() in PICTURES)


@dataclass(frozen=True)
class ImageFolder:
    """The format of this file; see `data_pipelines.sources.index.Format`. Its one file is the folder itself."""

    def scan(self, file: Path) -> Iterator[Entry | Problem]:
        """Every picture below the folder."""
        for number, picture in enumerate(_pictures(file)):
            name = picture.relative_to(file).as_posix()
            try:
                text = picture.with_suffix(".txt")
                if not text.is_file():
                    raise ValueError(f"{name} has no {text.name}")
                question = caption_question(decode_text(text.read_bytes()))
                image = StoredImage(b"", *image_size(picture.read_bytes()))
            except (OSError, ValueError) as error:
                yield Problem(str(picture), number, str(error))
            else:
                yield Entry(number, Record(name, images=(image,), captions=(question,)), ((name,),))

    def read(self, file: Path, place: Place) -> bytes:
        """Raises ValueError or OSError where the picture is gone."""
        return file_below(file, str(place[0])).read_bytes()
