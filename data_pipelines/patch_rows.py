"""Rows for a stage that trains the ViT alone: pictures, and a label of each kind for each of their patches.

A row's positions hold the labels: picture after picture, patch after patch, kind after kind. So such a stage reads,
packs, shuffles and resumes as all others do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_pipelines.components import Samples
from data_pipelines.packing import Item
from data_pipelines.reading import read_record
from data_pipelines.rows import RowInfo, write_row
from data_pipelines.sources.opening import open_source
from data_pipelines.synthetic.patches import CLASSES, UNLABELLED, WEIGHTS, label_patches
from qwenvl_jax.batch import Batch, empty_batch, row_of
from qwenvl_jax.config import DataConfig, Stage
from qwenvl_jax.processing.images import decode_image, resize_image

TASK = "patches"


def open_pictures(stage: Stage, data: DataConfig, grid: int) -> tuple[Samples, ...]:
    """The components of a stage of patch labels; every record has one picture and grid * grid * K labels.

    Raises:
      ValueError: a component of another task, or a stage whose classes or row length are not those of the labels.
    """
    labels = grid**2 * len(CLASSES)
    if stage.patch_classes != CLASSES:
        raise ValueError(f"stage {stage.name}: patch_classes must be {CLASSES}, the labels of the synthetic world")
    if stage.sequence_length != stage.images_per_row * labels:
        raise ValueError(
            f"stage {stage.name}: sequence_length must be images_per_row x {labels}, one position for each label"
        )
    if other := [component.task for component in stage.mixture if component.task != TASK]:
        raise ValueError(f"stage {stage.name} learns labels of patches: its task is {TASK!r}, not {other[0]!r}")
    opened = []
    for component in stage.mixture:
        source = open_source(data.root, component.source)
        count = len(source)
        tokens, images = np.full(count, labels, np.int32), np.ones(count, np.int32)
        opened.append(Samples(component, source, np.arange(count), tokens, images, 0, 0, {}, source.problems))
    return tuple(opened)


class LabelledPicture(NamedTuple):
    """A picture [R, R, 3], its labels [grid * grid * K], and the number of its record."""

    picture: np.ndarray
    labels: np.ndarray
    record: int


@dataclass(frozen=True)
class PatchRowMaker:
    """Makes the rows of a stage of patch labels; as `data_pipelines.rows.RowMaker`. Picklable."""

    components: Sequence[Samples]
    pad_id: int
    sequence_length: int
    vision_per_row: int
    resolution: int
    grid: int

    def make_rows(self, rows: Sequence[Sequence[Item]]) -> tuple[Batch, list[RowInfo]]:
        """A host batch of B = len(rows) rows, and what each of them holds."""
        batch = empty_batch(len(rows), self.sequence_length, self.vision_per_row, self.resolution, self.pad_id)
        return batch, [self._write_row(row_of(batch, b), row) for b, row in enumerate(rows)]

    def _write_row(self, row: Batch, items: Sequence[Item]) -> RowInfo:
        row.targets[:] = 0
        return write_row(row, items, self.components, self._load, self._place)

    def _place(self, row: Batch, loaded: LabelledPicture, start: int, slot: int) -> tuple[int, int]:
        row.images[slot] = loaded.picture
        place = slice(start, start + len(loaded.labels))
        row.targets[place] = np.maximum(loaded.labels, 0)
        row.loss_weights[place] = np.tile(np.array(WEIGHTS, np.float32), self.grid**2) * (loaded.labels != UNLABELLED)
        return len(loaded.labels), 1

    def _load(self, samples: Samples, sample: int) -> LabelledPicture:
        """Raises ValueError where the record or its picture cannot be read."""
        number = int(samples.records[sample])
        record = read_record(samples.source, number)
        picture = resize_image(decode_image(record.images[0].data), self.resolution)
        return LabelledPicture(picture, label_patches(record, self.grid).ravel(), number)
