"""Datasets that TensorFlow Datasets prepared as ArrayRecord, read through its `data_source`, without TensorFlow.

Taken from an example: the picture's bytes as they are stored; `caption` (or `captions`, `text`); `question` with
`answer` (or `answers`); and `objects` with `bbox` and a phrase: RefCOCO's `refexp`, else `label` where it is text.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from data_pipelines.boxes import checked_box
from data_pipelines.cleaning.answers import most_frequent
from data_pipelines.records import Question, Record, Region, StoredImage
from data_pipelines.sources.captions import caption_question, decode_text
from data_pipelines.sources.index import Entry, Place
from data_pipelines.sources.source import Problem
from qwenvl_jax.processing.images import image_size

INFO = "dataset_info.json"
FEATURES = "features.json"
PICTURE = "image"


def is_prepared(folder: Path) -> bool:
    """Whether TFDS prepared a dataset in this folder (`NAME/VERSION`)."""
    return (folder / INFO).is_file() and (folder / FEATURES).is_file()


def _builder(folder: Path) -> Any:
    import tensorflow_datasets  # takes a second: only where such a dataset is read

    try:
        return tensorflow_datasets.builder_from_directory(str(folder))
    except Exception as error:  # its readers of JSON and of protocol buffers raise many kinds
        raise ValueError(f"{folder} is no dataset that TFDS can read ({error})") from error


def splits(folder: Path) -> list[str]:
    """The splits that are there."""
    return sorted(_builder(folder).info.splits)


@cache
def _data_source(folder: str, split: str, thread: int) -> Any:
    # One for each thread: whether its readers may be shared is not documented.
    import tensorflow_datasets

    builder = _builder(Path(folder))
    if PICTURE not in builder.info.features:
        raise ValueError(f"its examples have {', '.join(builder.info.features)}, and no feature {PICTURE}")
    try:
        return builder.as_data_source(split, decoders={PICTURE: tensorflow_datasets.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise ValueError(f"{folder} is stored in a form without random access: prepare it as array_record") from error


@dataclass(frozen=True)
class Prepared:
    """The format of this file; see `data_pipelines.sources.index.Format`. Its one file is `dataset_info.json`."""

    split: str

    def _examples(self, file: Path) -> Any:
        return _data_source(str(file.parent), self.split, threading.get_ident())

    def scan(self, file: Path) -> Iterator[Entry | Problem]:
        """Every example of the split."""
        examples = self._examples(file)
        for number in range(len(examples)):
            try:
                example = examples[number]
                image = StoredImage(b"", *image_size(bytes(example[PICTURE])))
                record, reasons = record_of(f"{self.split}/{number}", example, image)
            except (ValueError, RuntimeError, KeyError, TypeError) as error:
                yield Problem(str(file), number, str(error).splitlines()[0])
            else:
                yield from (Problem(str(file), number, reason) for reason in reasons)
                yield Entry(number, record, ((number,),))

    def read(self, file: Path, place: Place) -> bytes:
        """Raises ValueError where the example cannot be read."""
        try:
            return bytes(self._examples(file)[int(place[0])][PICTURE])
        except (RuntimeError, KeyError, IndexError) as error:
            raise ValueError(str(error).splitlines()[0]) from error


def _texts(value: Any) -> list[str]:
    """Text features are bytes, lists of bytes, or maps of lists."""
    if isinstance(value, Mapping):
        return [text for name in ("text", "raw", "caption") if name in value for text in _texts(value[name])]
    if isinstance(value, bytes):
        return [decode_text(value).strip()]
    if isinstance(value, str):
        return [value.strip()]
    return [text for item in value for text in _texts(item)] if isinstance(value, Sequence) else []


def record_of(key: str, example: Mapping[str, Any], image: StoredImage) -> tuple[Record, list[str]]:
    """The example as a record, and why objects of it were left out.

    Raises:
      ValueError: nothing in it can be used.
    """
    captions = [text for name in ("caption", "captions", "text") if name in example for text in _texts(example[name])]
    answers = [text for name in ("answer", "answers") if name in example for text in _texts(example[name])]
    asked = _texts(example["question"]) if "question" in example else []
    questions = (Question(asked[0], most_frequent(answers)),) if asked and any(answers) else ()
    regions, reasons = _regions(example.get("objects", {}), image)
    record = Record(
        key,
        (image,),
        captions=(caption_question(max(captions, key=len)),) if any(captions) else (),
        questions=questions,
        regions=regions,
    )
    if not (record.captions or record.questions or record.regions):
        raise ValueError(f"the example has no caption, question or named box, only {', '.join(example)}")
    return record, reasons


def _regions(objects: Any, image: StoredImage) -> tuple[tuple[Region, ...], list[str]]:
    """Boxes are (ymin, xmin, ymax, xmax) in shares of the picture."""
    if not isinstance(objects, Mapping) or "bbox" not in objects:
        return (), []
    names = objects.get("refexp", objects.get("label", ()))
    if isinstance(names, Mapping):  # a sequence of maps comes as a map of sequences
        names = names.get("raw", ())
    regions, reasons = [], []
    for (top, left, bottom, right), name in zip(objects["bbox"], names):
        try:
            corners = (left * image.width, top * image.height, right * image.width, bottom * image.height)
            box = checked_box(corners, image.width, image.height)
            regions += [Region(text, (box,)) for text in _texts(name) if text]
        except ValueError as error:
            reasons.append(str(error))
    return tuple(regions), reasons
