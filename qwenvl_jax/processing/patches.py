"""Images and videos of any size as patches for Qwen2-VL, bit by bit as the original's image processor.

Shape legend: F frames, Y and X pixels of a frame; a grid of T pairs of frames and H x W patches in each, P = T H W patches,
K = 3 * 2 * 14 * 14 values of a patch.

Patches come in merge order: those of a vision token (two rows, two columns) stand behind each other, tokens row by row,
pairs of frames in time. The values of a patch are ordered (channel, frame, row, column).
Source: `image_processing_qwen2_vl.py` of transformers.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from qwenvl_jax.config import RELEASED_IMAGES, PixelLimits
from qwenvl_jax.processing.images import MEAN, STD
from qwenvl_jax.processing.resize import resize_bicubic

PATCH, TEMPORAL_PATCH, MERGE = 14, 2, 2
"""Pixels of a patch's side, frames of a patch, patches of a vision token's side: the same in all published sizes."""
MAX_ASPECT = 200
"""Longer pictures are refused, as originally."""

IMAGE_LIMITS = {
    # name: where these limits stand; a vision token has 28 x 28 pixels
    "released": RELEASED_IMAGES,
    "transformers": PixelLimits(4 * 784, 1280 * 784),  # default of the processor's class: 3,136 and 1,003,520
}


class Grid(NamedTuple):
    """Patches of an image (one pair of equal frames) or of a video.

    Attributes:
      frames: T pairs of frames.
      rows: H, patches of the height; even.
      columns: W, patches of the width; even.
    """

    frames: int
    rows: int
    columns: int

    @property
    def patches(self) -> int:
        return self.frames * self.rows * self.columns

    @property
    def tokens(self) -> int:
        return self.patches // MERGE**2


def smart_resize(height: int, width: int, limits: PixelLimits, unit: int = PATCH * MERGE) -> tuple[int, int]:
    """The height and width, in pixels, that a picture is resized to: multiples of `unit`, aspect ratio nearly kept.

    Rounding is Python's, to even numbers of units. A side that shrinks below a unit keeps one, so that a very long picture
    may have more than `limits.max_pixels`.

    Raises:
      ValueError: one side is more than 200 times the other, or empty.
    """
    if min(height, width) < 1 or max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"picture of {width}x{height}: a side is more than {MAX_ASPECT} times the other; crop it")
    new_height, new_width = round(height / unit) * unit, round(width / unit) * unit
    if new_height * new_width > limits.max_pixels:
        shrink = math.sqrt(height * width / limits.max_pixels)
        new_height = max(unit, math.floor(height / shrink / unit) * unit)
        new_width = max(unit, math.floor(width / shrink / unit) * unit)
    elif new_height * new_width < limits.min_pixels:
        grow = math.sqrt(limits.min_pixels / (height * width))
        new_height = math.ceil(height * grow / unit) * unit
        new_width = math.ceil(width * grow / unit) * unit
    return new_height, new_width


def resize_within(height: int, width: int, limits: PixelLimits, unit: int = PATCH * MERGE) -> tuple[int, int]:
    """As `smart_resize`, but never with more than `limits.max_pixels`, which comes before `min_pixels`: a picture whose
    short side cannot shrink loses length instead.

    Raises:
      ValueError: as `smart_resize`, or the limit leaves no room for one vision token.
    """
    if limits.max_pixels < unit**2:
        raise ValueError(f"max_pixels={limits.max_pixels} has no room for a vision token of {unit}x{unit} pixels")
    size = smart_resize(height, width, limits, unit)
    if size[0] * size[1] <= limits.max_pixels:
        return size
    short = min(*size, limits.max_pixels // unit**2 * unit)
    longest = limits.max_pixels // (short * unit) * unit
    return (short, longest) if height <= width else (longest, short)


def grid_of(height: int, width: int, frames: int = 1, patch: int = PATCH) -> Grid:
    """The grid of frames of a resized picture; an odd number of frames has its last one twice."""
    return Grid(-(-frames // TEMPORAL_PATCH), height // patch, width // patch)


def resize_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """[Y, X, 3] uint8 -> [height, width, 3] uint8 by PIL's bicubic; in memory (3, Y, X), which `patchify` wants."""
    return frame if frame.shape[:2] == (height, width) else resize_bicubic(frame, height, width, planar=True)


def patchify(frames: np.ndarray, patch: int = PATCH, out: np.ndarray | None = None) -> np.ndarray:
    """[F, Y, X, 3] uint8 frames of one image (F = 1) or video -> [P, K] uint8 patches in merge order.

    Y and X are multiples of two patches. The last frame is repeated where F is odd.

    Args:
      out: [P, K], where they are written; a new array without it.
    """
    count, height, width, channels = frames.shape
    grid = grid_of(height, width, count, patch)
    if out is None:
        out = np.empty((grid.patches, channels * TEMPORAL_PATCH * patch**2), frames.dtype)
    # A patch's line of a channel (the q values of a row) is copied as one: an eighth of the time that single values take.
    line = np.dtype((np.void, patch * frames.itemsize))
    lines = np.ascontiguousarray(rearrange(frames, "F Y X c -> F c Y X")).view(line)
    sizes = {"m": MERGE, "n": MERGE, "p": patch}
    tokens = (grid.frames, grid.rows // MERGE, grid.columns // MERGE)
    places = out.view(line).reshape(*tokens, MERGE, MERGE, channels, TEMPORAL_PATCH, patch)
    for f in range(TEMPORAL_PATCH):
        own = lines[f::TEMPORAL_PATCH]
        places[: len(own), ..., f, :] = rearrange(own, "t c (y m p) (x n) -> t y x m n c p", **sizes)
        places[len(own) :, ..., f, :] = places[len(own) :, ..., 0, :]
    return out


def patch_positions(grid: Grid) -> np.ndarray:
    """[P, 2] int32: row and column of every patch in its frame, in merge order."""
    frames, rows, columns = grid
    places = np.empty((frames, rows // MERGE, columns // MERGE, MERGE, MERGE, 2), np.int32)  # [t, y, x, m, n, 2]
    places[..., 0] = rearrange(np.arange(rows), "(y m) -> y 1 m 1", m=MERGE)
    places[..., 1] = rearrange(np.arange(columns), "(x n) -> x 1 n", n=MERGE)
    return places.reshape(-1, 2)


def frame_numbers(grid: Grid) -> np.ndarray:
    """[P] int32: the pair of frames, 0 .. T - 1, of every patch: what attention of the vision tower stays in."""
    return np.repeat(np.arange(grid.frames, dtype=np.int32), grid.rows * grid.columns)


def normalize_patches(patches: Any) -> Any:
    """[..., K] uint8 -> [..., K] float32, (x / 255 - mean) / std per channel; of NumPy or of JAX arrays."""
    values = patches.shape[-1] // 3
    return (patches.astype(np.float32) / 255 - np.repeat(MEAN, values)) / np.repeat(STD, values)
