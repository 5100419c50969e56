"""Rows for a stage that trains the ViT alone: pictures, and a label of each kind for each of their patches.

A row's positions hold the labels: picture after picture, patch after patch (in the order that the model has them), kind
after kind. So such a stage reads, packs, shuffles and resumes as all others do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.components import Samples, shard_cache, shards_of
from data_pipelines.lengths import measure, record_sizes
from data_pipelines.packing import Item
from data_pipelines.reading import read_record
from data_pipelines.records import Record
from data_pipelines.rows import RowInfo, write_row, write_rows
from data_pipelines.sources.opening import open_source
from data_pipelines.synthetic.patches import CLASSES, RELATIVE_CLASSES, UNLABELLED, WEIGHTS, label_patches
from data_pipelines.tasks import Task
from qwenvl_jax.batch import Batch, NewArray
from qwenvl_jax.config import DataConfig, Stage
from qwenvl_jax.processing.encoders import Encoder
from qwenvl_jax.processing.patches import patch_positions
from qwenvl_jax.processing.sample import Image, Sample

TASK = "patches"


def picture(record: Record) -> Sample | None:
    """The picture alone of a record that has one."""
    return Sample((Image(0),), (record.images[0].data,)) if len(record.images) == 1 else None


PICTURES: Mapping[str, Task] = {TASK: picture}


def open_pictures(stage: Stage, data: DataConfig, encoder: Encoder, grid: int) -> tuple[Samples, ...]:
    """The components of a stage of patch labels; every record has one picture.

    Args:
      grid: patches of a side, the same for every picture and P = grid * grid of them in a slot; 0 where a picture has a
        grid of its own, and a row counts patches.

    Raises:
      ValueError: a component of another task, or a stage whose classes or row length are not those of the labels.
    """
    classes = CLASSES if grid else RELATIVE_CLASSES
    labels = max(1, grid**2) * len(classes)
    if stage.patch_classes != classes:
        raise ValueError(f"stage {stage.name}: patch_classes must be {classes}, the labels of the synthetic world")
    if stage.sequence_length != stage.vision_per_row * labels:
        room = "images_per_row" if grid else "patches_per_row"
        raise ValueError(f"stage {stage.name}: sequence_length must be {room} x {labels}, one position for each label")
    if other := [component.task for component in stage.mixture if component.task != TASK]:
        raise ValueError(f"stage {stage.name} learns labels of patches: its task is {TASK!r}, not {other[0]!r}")
    opened = []
    for component in stage.mixture:
        source = open_source(data.root, component.source, shard_cache(data))
        records, vision = np.arange(len(source)), np.ones(len(source), np.int32)
        problems, reduced = source.problems, 0
        if not grid:
            lengths = measure(source, (TASK,), PICTURES, encoder)[TASK]
            records = np.flatnonzero(lengths.tokens)
            vision, reduced = lengths.vision[records], int(lengths.reduced.sum())
            problems = (*problems, *lengths.problems)
        shards = shards_of(component, source, records)
        opened.append(Samples(component, source, records, vision * labels, vision, 0, reduced, {}, problems, shards))
    return tuple(opened)


class LabelledPicture(NamedTuple):
    """A picture as the encoder gives it, its labels [P, K], and the number of its record."""

    encoded: Any
    pixels: Any
    labels: np.ndarray
    record: int


@dataclass(frozen=True)
class PatchRowMaker:
    """Makes the rows of a stage of patch labels; as `data_pipelines.rows.RowMaker`. Picklable. `grid` as `open_pictures`."""

    components: Sequence[Samples]
    encoder: Encoder
    sequence_length: int
    vision_per_row: int
    grid: int

    def make_rows(
        self, rows: Sequence[Sequence[Item]], new: NewArray = np.zeros, following: Sequence[Item] = ()
    ) -> tuple[Batch, list[RowInfo]]:
        """As `RowMaker.make_rows`."""
        batch = self.encoder.empty(len(rows), self.sequence_length, self.vision_per_row, new)
        return batch, write_rows(batch, rows, following, self._write_row, self.encoder)

    def _write_row(self, row: Batch, items: Sequence[Item], following: Sequence[Item]) -> RowInfo:
        row.targets[:] = 0
        return write_row(row, items, following, self.components, self._load, self._place)

    def _place(self, row: Batch, loaded: LabelledPicture, start: int, vision: int) -> tuple[int, int]:
        self.encoder.place_pixels(row, vision, loaded.encoded, loaded.pixels)
        place = slice(start, start + loaded.labels.size)
        weights = np.array(WEIGHTS[: loaded.labels.shape[1]], np.float32)
        row.targets[place] = np.maximum(loaded.labels, 0).ravel()
        row.loss_weights[place] = (weights * (loaded.labels != UNLABELLED)).ravel()
        return loaded.labels.size, loaded.encoded.vision

    def _load(self, samples: Samples, sample: int) -> LabelledPicture:
        """Raises ValueError where the record or its picture cannot be read."""
        number = int(samples.records[sample])
        record = read_record(samples.source, number)
        shown = picture(record)
        if shown is None:
            raise ValueError("the record has not one picture")
        encoded = self.encoder.encode(shown, record_sizes(record))
        if encoded.vision != samples.vision[sample]:
            raise ValueError("the record is not the one that was measured")
        return LabelledPicture(encoded, self.encoder.pixels(shown, encoded), self._labels(record, encoded), number)

    def _labels(self, record: Record, encoded: Any) -> np.ndarray:
        """[P, K] in the order of the model's patches: in rows where pictures have one grid, else in merge order.

        A model with one grid has learned positions, one with a grid for each picture has rotary ones.
        """
        if self.grid:
            return label_patches(record, self.grid, self.grid, relative=False)
        [grid] = encoded.grids
        rows, columns = patch_positions(grid).T
        labels = label_patches(record, grid.rows, grid.columns, relative=True)
        return labels[rows * grid.columns + columns]
