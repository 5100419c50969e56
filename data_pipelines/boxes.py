"""Boxes as annotations give them, checked once where they come in."""

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]


def checked_box(box: Sequence[float], width: float, height: float) -> Box:
    """(x1, y1, x2, y2), cut to the picture where it reaches over its edge.

    Raises:
      ValueError: not four finite numbers, the corners are swapped, or nothing of the box lies in the picture.
    """
    try:
        x1, y1, x2, y2 = (float(value) for value in box)
    except (TypeError, ValueError):
        raise ValueError("a box is not four numbers") from None
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError("a box holds a number that is not finite")
    if x2 <= x1 or y2 <= y1:
        raise ValueError("a box is reversed or has no area")
    cut = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise ValueError("a box lies outside its picture")
    return cut
