"""The contract between data and model: what one training step receives.

Shape legend: B packed rows, S tokens of a row; of Qwen-VL M image slots of a row, R pixels of a side; of Qwen2-VL P patches
of a row, K values of a patch.

A row holds several samples behind each other. Everything that a sample needs lies in its own row (its pixels too), so
that every gather stays on the device that holds the row. Arrays are NumPy on the host and one pytree on the devices.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from qwenvl_jax.config import ModelConfig, Qwen2VLConfig, QwenVLConfig, Stage

IGNORED = -1
"""`vision_index` of a text position."""
NewArray = Callable[[tuple[int, ...], Any], np.ndarray]
"""From shape and type to an array: `np.zeros`, or one in memory that processes share, which may hold anything."""


class Batch(NamedTuple):
    """B packed rows of static shape. See the module docstring for the letters.

    Attributes:
      tokens: [B, S] int32, ids; the tokenizer's end-of-document id where nothing stands.
      targets: [B, S] int32, the next token of the same sample (already shifted).
      loss_weights: [B, S] float32, 0 where nothing is learned.
      segment_ids: [B, S] int32, 0 for padding, 1.. for the sample; attention never crosses it.
      positions: [B, S] int32, rotary position, 0 at the start of each sample; [B, 3, S] (time, row, column) for M-RoPE.
      vision_index: [B, S] int32, -1 for text, else the row's vision token placed here: image slot * queries + query, or
        the number of the merged group of patches.
      task_ids: [B, S] int32, the mixture component that a position comes from; for the loss per task.
      images: [B, M, R, R, 3] uint8, M image slots of a row, zeros where unused. M may be 0 in text-only stages. None for
        Qwen2-VL.
      patches: [B, P, K] uint8, (channel, frame, row, column) of each patch, in merge order, behind each other for all
        images and videos of the row. P may be 0 in text-only stages. This and the two below are None for Qwen-VL.
      patch_positions: [B, P, 2] int32, row and column of the patch in its image.
      patch_segments: [B, P] int32, 0 for padding, 1.. for the image, or the pair of frames of a video; attention of the
        vision tower never crosses it.
    """

    tokens: Any
    targets: Any
    loss_weights: Any
    segment_ids: Any
    positions: Any
    vision_index: Any
    task_ids: Any
    images: Any = None
    patches: Any = None
    patch_positions: Any = None
    patch_segments: Any = None


class OwnRows(NamedTuple):
    """The rows of a global batch that a process makes, by their numbers in it.

    Attributes:
      made: rows that its devices hold, in order; several processes hold a row that is split over `context` or
        `tensor` between them.
      counted: those of them that no other process counts.
    """

    made: tuple[int, ...]
    counted: tuple[int, ...]


def joined_fingerprint(fingerprints: Iterable[str]) -> str:
    """The fingerprint of a batch from those of its parts (16 hexadecimal digits each); their order does not matter."""
    return f"{sum(int(part, 16) for part in fingerprints) % 2**64:016x}"


def empty_batch(rows: int, length: int, images: int, resolution: int, pad_id: int, new: NewArray = np.zeros) -> Batch:
    """A host batch of Qwen-VL in which every position is padding: the canvas that rows are written on. `new` makes the
    pictures' array, nearly all of its bytes."""
    pictures = new((rows, images, resolution, resolution, 3), np.uint8)
    return _empty_text(rows, length, pad_id)._replace(images=pictures)


def empty_patch_batch(
    rows: int, length: int, patches: int, patch_size: int, pad_id: int, new: NewArray = np.zeros
) -> Batch:
    """As `empty_batch` for Qwen2-VL: `patches` patches of `patch_size` values in each row, positions for M-RoPE."""
    return _empty_text(rows, length, pad_id)._replace(
        positions=np.zeros((rows, 3, length), np.int32),
        patches=new((rows, patches, patch_size), np.uint8),
        patch_positions=np.zeros((rows, patches, 2), np.int32),
        patch_segments=np.zeros((rows, patches), np.int32),
    )


STAGE_BATCHES: Mapping[type, Callable[[Any, Stage, int, int], Batch]] = {
    # a model's configuration: the empty rows of one of its stages; arguments as `stage_batch`
    QwenVLConfig: lambda model, stage, rows, pad_id: empty_batch(
        rows, stage.sequence_length, stage.images_per_row, stage.resolution, pad_id
    ),
    Qwen2VLConfig: lambda model, stage, rows, pad_id: empty_patch_batch(
        rows, stage.sequence_length, stage.patches_per_row, model.vision.patch_size, pad_id
    ),
}


def stage_batch(model: ModelConfig, stage: Stage, rows: int, pad_id: int) -> Batch:
    """Empty rows of a stage of this model: what its step is compiled for, and what data is written on."""
    return STAGE_BATCHES[type(model)](model, stage, rows, pad_id)


def row_of(batch: Batch, number: int) -> Batch:
    """One row without its leading axis; of a host batch, views of its arrays."""
    return Batch(*(None if field is None else field[number] for field in batch))


def _empty_text(rows: int, length: int, pad_id: int) -> Batch:
    ints = np.zeros((rows, length), np.int32)
    return Batch(
        tokens=np.full((rows, length), pad_id, np.int32),
        targets=np.full((rows, length), pad_id, np.int32),
        loss_weights=np.zeros((rows, length), np.float32),
        segment_ids=ints,
        positions=ints.copy(),
        vision_index=np.full((rows, length), IGNORED, np.int32),
        task_ids=ints.copy(),
    )
