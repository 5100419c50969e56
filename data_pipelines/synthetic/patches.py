"""What the patches of a picture of the world show: labels for a vision encoder that is trained alone.

Each patch is labelled with the object or the character that covers most of it: what it is, its colour, and where the edges
of its box lie. All of it follows from what a record holds.

A ViT that knows where in the picture a patch lies learns in which tenth of the picture each edge is. One with rotary
positions alone learns as well how many patches an edge is away from the patch itself, and needs a picture whose border can
be seen (`rendering.draw_frame`). Shares of the labels of scenes that the ViT of `tiny-qwen2` told at the end of stage
`vision`:

| | shapes | tenths | patches away |
|---|---|---|---|
| tenths alone, no frame, 2,000 steps of half as many scenes | 0.86 | 0.22 to 0.51 | |
| patches away alone, no frame, 1,000 steps | 0.95 | | 0.85 |
| tenths alone, frame, 1,000 steps | 0.86 | 0.65 | |
| both, frame, 1,000 steps | 0.91 | 0.69 | 0.85 |
| both, frame, 3,400 steps of smaller pictures, two layers of six heads instead of three of three | 0.97 | 0.80 | 0.95 |
"""

from functools import lru_cache

import numpy as np

from data_pipelines.records import Record
from data_pipelines.synthetic.documents import CHARACTERS, advance
from data_pipelines.synthetic.scenes import COLOURS, SHAPES

PLACES = 10
"""Places of an edge: tenths of the picture, or distances of -5 to 4 patches."""
WHAT = ("nothing", *SHAPES, *CHARACTERS)
CLASSES = (len(WHAT), len(COLOURS), *[PLACES] * 4)
"""Classes of each kind of label: what it is, its colour, its left, upper, right and lower edge in the picture."""
RELATIVE_CLASSES = (*CLASSES, *[PLACES] * 4)
"""With the same edges seen from the patch."""
WEIGHTS = (1.0, 0.5, *[0.25] * 8)
"""Of the kinds in the loss."""
UNLABELLED = -1
LEAST_COVER = 0.3
"""Overlap of a patch with a thing, as a share of the smaller of the two, from which on the patch shows it."""


def things(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """The objects of a scene or the characters of a document. T things.

    Returns:
      [T, 2] int32, what and colour (`UNLABELLED` for characters), and [T, 4] float, the boxes as shares of the sides.
    """
    labels: list[tuple[int, int]] = []
    boxes: list[tuple[float, ...]] = []
    for region in record.regions:
        _, colour, shape = region.phrase.split()
        labels.append((WHAT.index(shape), list(COLOURS).index(colour)))
        boxes.append(region.boxes[0])
    for line in record.lines:
        corners = np.asarray(line.quad)
        ends = _ends(line.text)
        for character, start, end in zip(line.text, ends, ends[1:]):
            labels.append((WHAT.index(character), UNLABELLED))
            top, bottom = corners[1] - corners[0], corners[2] - corners[3]
            points = [corners[0] + s * top for s in (start, end)] + [corners[3] + s * bottom for s in (start, end)]
            boxes.append((*np.min(points, axis=0), *np.max(points, axis=0)))
    size = np.array([record.images[0].width, record.images[0].height] * 2)
    return np.array(labels, np.int32).reshape(-1, 2), np.array(boxes, float).reshape(-1, 4) / size


@lru_cache(maxsize=4096)
def _ends(text: str) -> tuple[float, ...]:
    """Where the characters of a line begin and end, as shares of its length: by the widths of one font, near enough."""
    widths = np.cumsum([0.0, *map(advance, text)])
    return tuple((widths / widths[-1]).tolist())


def label_patches(record: Record, rows: int, columns: int, relative: bool) -> np.ndarray:
    """[rows * columns, K] int32, the class of each kind, or `UNLABELLED`; patches in rows from the top left.

    Args:
      relative: K is that of `RELATIVE_CLASSES`, else that of `CLASSES`.
    """
    labels, boxes = things(record)
    across, down = _overlaps(boxes[:, 0], boxes[:, 2], columns), _overlaps(boxes[:, 1], boxes[:, 3], rows)
    overlap = (down[:, :, None] * across[:, None, :]).reshape(len(boxes), rows * columns)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    most = overlap.argmax(0)
    seen = overlap.max(0) >= LEAST_COVER * np.minimum(areas[most], 1 / (rows * columns))
    edges = [np.floor(boxes[most] * PLACES)]
    if relative:
        edges.append(_patches_away(boxes[most], rows, columns))
    found = np.concatenate([labels[most], np.clip(np.hstack(edges), 0, PLACES - 1).astype(np.int32)], axis=1)
    nothing = np.array([0] + [UNLABELLED] * (found.shape[1] - 1), np.int32)
    return np.where(seen[:, None], found, nothing)


def _patches_away(boxes: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[P, 4]: of the box [P, 4] that each patch shows, the edges' distances from the patch's middle in patches, behind
    `PLACES` / 2 for none."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    middles = np.stack([column, row, column, row], axis=1) + 0.5
    return np.round(boxes * np.array([columns, rows] * 2) - middles) + PLACES // 2


def _overlaps(low: np.ndarray, high: np.ndarray, parts: int) -> np.ndarray:
    """[T, parts]: overlap of the T intervals with each of so many equal parts of [0, 1]."""
    starts = np.arange(parts) / parts
    return np.clip(np.minimum(high[:, None], starts + 1 / parts) - np.maximum(low[:, None], starts), 0, None)
