"""Samples for Qwen2-VL: images and videos of any size, their tokens, positions and patches.

Lengths need sizes alone (`measure`), tokens need lengths (`encode_visual_sample`), pixels come last (`sample_frames`). What
a row has no room for is shown smaller (`fit_grids`): what is written follows the grids.
Shape legend: T tokens, V vision tokens, P = 4 V patches, K values of a patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from qwenvl_jax.config import PixelLimits, VideoLimits
from qwenvl_jax.processing.images import decode_image, image_size
from qwenvl_jax.processing.patches import MERGE, PATCH, Grid, grid_of, resize_frame, resize_within
from qwenvl_jax.processing.positions import Piece, mrope_positions
from qwenvl_jax.processing.qwen2_tokens import VIDEO_PAD, to_qwen2_markup
from qwenvl_jax.processing.sample import Image, Sample, Text, Video, visual_span
from qwenvl_jax.processing.tokenizer import Tokenizer
from qwenvl_jax.processing.video import VideoInfo, probe_video, video_frames, video_grid


class VisualSizes(NamedTuple):
    """How large a sample's images and videos are, in their own order: all that their grids follow from.

    Attributes:
      images: (width, height) in pixels.
      videos: what their headers tell.
    """

    images: tuple[tuple[int, int], ...]
    videos: tuple[VideoInfo, ...] = ()


@dataclass(frozen=True)
class EncodedVisualSample:
    """Ids of a sample.

    Attributes:
      tokens: [T] int32; every vision token holds the id of `<|image_pad|>` or `<|video_pad|>`.
      supervised: [T] bool, whether the token at this position is learned (as a target).
      vision_index: [T] int32, -1 for text, else the number of the sample's vision token, 0 .. V - 1.
      positions: [3, T] int32 of M-RoPE.
      grids: of the images and videos, in order of appearance.
      reduced: images and videos whose grids are smaller than the limits allow, for want of room.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    vision_index: np.ndarray
    positions: np.ndarray
    grids: tuple[Grid, ...]
    reduced: int = 0

    @property
    def vision(self) -> int:
        """Patches that it needs."""
        return sum(grid.patches for grid in self.grids)

    def cut(self, count: int) -> "EncodedVisualSample":
        """Its first tokens."""
        return replace(
            self,
            tokens=self.tokens[:count],
            supervised=self.supervised[:count],
            vision_index=self.vision_index[:count],
            positions=self.positions[:, :count],
        )


def visuals_of(sample: Sample) -> tuple[Image | Video, ...]:
    """Images and videos in order of appearance; one that is named twice stands there twice."""
    return tuple(part for part in sample.parts if not isinstance(part, Text))


def sizes_of(sample: Sample) -> VisualSizes:
    """The sizes of a sample's images and videos, from their headers.

    Raises:
      ValueError: an image or video is unreadable.
    """
    return VisualSizes(tuple(map(image_size, sample.images)), tuple(map(probe_video, sample.videos)))


def measure(
    sample: Sample, sizes: VisualSizes, images: PixelLimits, videos: VideoLimits, patch: int = PATCH
) -> tuple[Grid, ...]:
    """The grids of the sample's visuals, in order of appearance.

    Raises:
      ValueError: an image or video is more than 200 times as long as wide.
    """

    def grid(part: Image | Video) -> Grid:
        if isinstance(part, Video):
            return video_grid(sizes.videos[part.index], videos, patch)
        width, height = sizes.images[part.index]
        return grid_of(*resize_within(height, width, images, MERGE * patch), patch=patch)

    return tuple(grid(part) for part in visuals_of(sample))


def fit_grids(
    sample: Sample, sizes: VisualSizes, images: PixelLimits, videos: VideoLimits, patch: int, tokens: int
) -> tuple[Grid, ...]:
    """As `measure`, with at most `tokens` vision tokens for all visuals together.

    Where there are more, one limit on the pixels of an image or frame is lowered for the whole sample until they fit: its
    largest visuals shrink first, and no frame is left out. Those that do not even fit with one token for each image and pair
    of frames have these grids, which are then too many.
    """
    unit = (MERGE * patch) ** 2

    def grids(most: int) -> tuple[Grid, ...]:
        frame = _lowered(videos.frame, most * unit)
        return measure(sample, sizes, _lowered(images, most * unit), replace(videos, frame=frame), patch)

    found = measure(sample, sizes, images, videos, patch)
    if sum(grid.tokens for grid in found) <= tokens:
        return found
    fitting, too_large = 1, max(grid.tokens // grid.frames for grid in found)
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        if sum(grid.tokens for grid in grids(middle)) <= tokens:
            fitting = middle
        else:
            too_large = middle
    return grids(fitting)


def _lowered(limits: PixelLimits, most: int) -> PixelLimits:
    return PixelLimits(min(limits.min_pixels, most), min(limits.max_pixels, most))


def encode_visual_sample(
    sample: Sample, tokenizer: Tokenizer, grids: Sequence[Grid], reduced: int = 0
) -> EncodedVisualSample:
    """Encodes a sample; an image or video becomes `<|vision_start|>`, a pad for each vision token, `<|vision_end|>`.

    Markup is translated from Qwen-VL's tags; in `typed` text only markup is special.

    Args:
      tokenizer: with the special tokens of Qwen2-VL.
      grids: one for each of `visuals_of(sample)`.
      reduced: how many of them are smaller than their limits allow.
    """
    # The first of each is empty: a sample may have no parts.
    spans: list[np.ndarray] = [np.zeros(0, np.int32)]
    vision: list[np.ndarray] = [np.zeros(0, np.int32)]
    learned = [False]
    pieces: list[Piece] = []
    first = 0
    remaining = iter(grids)
    for part in sample.parts:
        if isinstance(part, Text):
            ids = tokenizer.encode(to_qwen2_markup(part.text), tokenizer.special.grounding if part.typed else "all")
            span, seen = np.asarray(ids, np.int32), np.full(len(ids), -1, np.int32)
            pieces.append(len(ids))
        else:
            grid = next(remaining)
            pad = tokenizer.special_tokens[VIDEO_PAD] if isinstance(part, Video) else tokenizer.image_pad_id
            span, seen = visual_span(tokenizer, pad, first, grid.tokens)
            pieces += [1, grid, 1]
            first += grid.tokens
        spans.append(span)
        vision.append(seen)
        learned.append(isinstance(part, Text) and part.supervised)
    return EncodedVisualSample(
        np.concatenate(spans),
        np.repeat(learned, [len(span) for span in spans]),
        np.concatenate(vision),
        mrope_positions(pieces),
        tuple(grids),
        reduced,
    )


def sample_frames(sample: Sample, grids: Sequence[Grid], videos: VideoLimits, patch: int = PATCH) -> list[np.ndarray]:
    """[F, Y, X, 3] uint8 of each of the sample's visuals, resized to its grid by PIL's bicubic; an image is one frame.

    Raises:
      ValueError: pixels cannot be decoded.
    """

    def frames(part: Image | Video, grid: Grid) -> np.ndarray:
        if isinstance(part, Video):
            return video_frames(sample.videos[part.index], grid, videos, patch)
        image = decode_image(sample.images[part.index])
        return resize_frame(image, grid.rows * patch, grid.columns * patch)[None]

    return [frames(part, grid) for part, grid in zip(visuals_of(sample), grids)]
