"""The contract between data and model: what one training step receives.

Shape legend: B packed rows, S tokens of a row, M image slots of a row, R pixels of a side.

A row holds several samples behind each other. Everything that a sample needs lies in its own row (its pixels too), so
that every gather stays on the device that holds the row. Arrays are NumPy on the host and one pytree on the devices.
"""

from typing import Any, NamedTuple

import numpy as np

IGNORED = -1
"""`vision_index` of a text position."""


class Batch(NamedTuple):
    """B packed rows of static shape. See the module docstring for the letters.

    Attributes:
      tokens: [B, S] int32, ids; the tokenizer's end-of-document id where nothing stands.
      targets: [B, S] int32, the next token of the same sample (already shifted).
      loss_weights: [B, S] float32, 0 where nothing is learned.
      segment_ids: [B, S] int32, 0 for padding, 1.. for the sample; attention never crosses it.
      positions: [B, S] int32, rotary position, 0 at the start of each sample.
      vision_index: [B, S] int32, -1 for text, else the row's vision token (image slot * queries + query) placed here.
      task_ids: [B, S] int32, the mixture component that a position comes from; for the loss per task.
      images: [B, M, R, R, 3] uint8, M image slots of a row, zeros where unused. M may be 0 in text-only stages.
    """

    tokens: Any
    targets: Any
    loss_weights: Any
    segment_ids: Any
    positions: Any
    vision_index: Any
    task_ids: Any
    images: Any


def empty_batch(rows: int, length: int, images: int, resolution: int, pad_id: int) -> Batch:
    """A host batch in which every position is padding: the canvas that rows are written on."""
    ints = np.zeros((rows, length), np.int32)
    return Batch(
        tokens=np.full((rows, length), pad_id, np.int32),
        targets=np.full((rows, length), pad_id, np.int32),
        loss_weights=np.zeros((rows, length), np.float32),
        segment_ids=ints,
        positions=ints.copy(),
        vision_index=np.full((rows, length), IGNORED, np.int32),
        task_ids=ints.copy(),
        images=np.zeros((rows, images, resolution, resolution, 3), np.uint8),
    )
