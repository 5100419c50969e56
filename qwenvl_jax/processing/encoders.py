"""From samples to the arrays of a batch, for each model: ids first, which lengths follow from, then pixels.

Data pipelines write training rows with an encoder, inference writes prompts. Both see a sample in the same way.
Shape legend: T tokens, M image slots of a row, P patches of a row, R pixels of a side, K values of a patch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from qwenvl_jax.batch import IGNORED, Batch, NewArray, empty_batch, empty_patch_batch
from qwenvl_jax.config import ModelConfig, PixelLimits, Qwen2VLConfig, QwenVLConfig, Stage, VideoLimits
from qwenvl_jax.processing.images import decode_image
from qwenvl_jax.processing.patches import MERGE, frame_numbers, patch_positions, patchify
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL
from qwenvl_jax.processing.resize import resize_bicubic
from qwenvl_jax.processing.sample import EncodedSample, Sample, encode_sample
from qwenvl_jax.processing.tokenizer import QWEN_VL, SpecialTokens, Tokenizer, load_tokenizer
from qwenvl_jax.processing.visual_sample import (
    EncodedVisualSample,
    VisualSizes,
    encode_visual_sample,
    fit_grids,
    measure,
    sample_frames,
    sizes_of,
)

Encoded = EncodedSample | EncodedVisualSample

BLOCK = 128
"""Patches of prompts are padded to lengths of this multiple: the block in which attention of the vision tower works."""


class Encoder(Protocol):
    """How a model sees samples. Picklable.

    Attributes:
      tokenizer: its vocabulary.
      identity: all that lengths depend on beside the tokenizer.
    """

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def identity(self) -> str: ...

    def encode(self, sample: Sample, sizes: VisualSizes | None = None) -> Any:
        """The ids of a sample. `sizes` where the bytes of its pictures are not at hand.

        Raises:
          ValueError: a picture is unreadable, or of a kind that the model does not see.
        """

    def pixels(self, sample: Sample, encoded: Any) -> Any:
        """What the model sees of the sample's images and videos.

        Raises:
          ValueError: they cannot be decoded.
        """

    def empty(self, rows: int, length: int, vision: int, new: NewArray = np.zeros) -> Batch:
        """Rows of `length` tokens with room for so many image slots or patches, which `new` makes."""

    def room(self, vision: int) -> int:
        """The least room for so many image slots or patches that prompts are compiled for."""

    def for_prompts(self) -> "Encoder":
        """The same without the limit that a row of training sets to text."""

    def place_pixels(self, row: Batch, vision: int, encoded: Any, pixels: Any) -> None:
        """Writes a sample's images and videos into a row (see `row_of`) behind `vision` slots or patches."""

    def place(self, row: Batch, start: int, vision: int, encoded: Any, pixels: Any) -> None:
        """Writes a whole sample into a row, its text behind `start` tokens."""

    def clear(self, row: Batch, vision: int) -> None:
        """Writes zeros where a row has no pictures: behind `vision` slots or patches."""


@dataclass(frozen=True)
class ImageSlotEncoder:
    """Qwen-VL: every image is a square in a slot of its row.

    Attributes:
      queries: vision tokens of an image.
      resolution: side in pixels of the square that every image is resized to.
    """

    tokenizer: Tokenizer
    queries: int
    resolution: int

    @property
    def identity(self) -> str:
        return str(self.queries)

    def encode(self, sample: Sample, sizes: VisualSizes | None = None) -> EncodedSample:
        return encode_sample(sample, self.tokenizer, self.queries)

    def pixels(self, sample: Sample, encoded: EncodedSample) -> list[np.ndarray]:
        """[R, R, 3] uint8 of each image."""
        side = self.resolution
        return [resize_bicubic(decode_image(data), side, side) for data in encoded.images]

    def empty(self, rows: int, length: int, vision: int, new: NewArray = np.zeros) -> Batch:
        return empty_batch(rows, length, vision, self.resolution, self.tokenizer.eod_id, new)

    def room(self, vision: int) -> int:
        return vision

    def for_prompts(self) -> "ImageSlotEncoder":
        return self

    def place_pixels(self, row: Batch, vision: int, encoded: EncodedSample, pixels: list[np.ndarray]) -> None:
        for slot, picture in enumerate(pixels, vision):
            row.images[slot] = picture

    def place(self, row: Batch, start: int, vision: int, encoded: EncodedSample, pixels: list[np.ndarray]) -> None:
        _place_text(row, start, encoded, vision * self.queries)
        self.place_pixels(row, vision, encoded, pixels)

    def clear(self, row: Batch, vision: int) -> None:
        row.images[vision:] = 0


@dataclass(frozen=True)
class PatchEncoder:
    """Qwen2-VL: images and videos at their own size, as patches behind each other.

    Attributes:
      patch: pixels of a patch's side.
      images: limits of an image.
      videos: limits of a video.
      tokens: most tokens of a row, in which a sample's visuals are made to fit beside its text. None: no limit.
      patches: most patches of a sample's visuals, which are made to fit. None: no limit.
    """

    tokenizer: Tokenizer
    patch: int
    images: PixelLimits
    videos: VideoLimits
    tokens: int | None = None
    patches: int | None = None

    @property
    def identity(self) -> str:
        return repr((self.patch, self.images, self.videos, self.tokens, self.patches))

    def encode(self, sample: Sample, sizes: VisualSizes | None = None) -> EncodedVisualSample:
        """Visuals that have no room beside the text up to the first learned token are shown smaller."""
        sizes = sizes_of(sample) if sizes is None else sizes
        grids = measure(sample, sizes, self.images, self.videos, self.patch)
        encoded = encode_visual_sample(sample, self.tokenizer, grids)
        vision = sum(grid.tokens for grid in grids)
        room = vision if self.patches is None else self.patches // MERGE**2
        if self.tokens is not None:
            room = min(room, self.tokens - (needed_tokens(encoded) - vision))
        if vision <= room or not grids:
            return encoded
        fitted = fit_grids(sample, sizes, self.images, self.videos, self.patch, max(room, 0))
        reduced = sum(small != large for small, large in zip(fitted, grids))
        return encode_visual_sample(sample, self.tokenizer, fitted, reduced)

    def pixels(self, sample: Sample, encoded: EncodedVisualSample) -> list[np.ndarray]:
        """[F, Y, X, 3] uint8 frames of each image or video."""
        return sample_frames(sample, encoded.grids, self.videos, self.patch)

    def empty(self, rows: int, length: int, vision: int, new: NewArray = np.zeros) -> Batch:
        values = 3 * MERGE * self.patch**2
        return empty_patch_batch(rows, length, vision, values, self.tokenizer.eod_id, new)

    def room(self, vision: int) -> int:
        return padded_length(vision, BLOCK) if vision else 0

    def for_prompts(self) -> "PatchEncoder":
        return replace(self, tokens=None, patches=self.patches or None)

    def place_pixels(self, row: Batch, vision: int, encoded: EncodedVisualSample, pixels: list[np.ndarray]) -> None:
        segment = int(row.patch_segments[vision - 1]) if vision else 0
        for grid, frames in zip(encoded.grids, pixels):
            here = slice(vision, vision + grid.patches)
            patchify(frames, self.patch, row.patches[here])
            row.patch_positions[here] = patch_positions(grid)
            row.patch_segments[here] = frame_numbers(grid) + segment + 1
            vision, segment = here.stop, segment + grid.frames

    def place(
        self, row: Batch, start: int, vision: int, encoded: EncodedVisualSample, pixels: list[np.ndarray]
    ) -> None:
        _place_text(row, start, encoded, vision // MERGE**2)
        self.place_pixels(row, vision, encoded, pixels)

    def clear(self, row: Batch, vision: int) -> None:
        row.patches[vision:] = 0


def padded_length(count: int, multiple: int) -> int:
    """The least number from `count` on that is compiled: of this multiple, long ones quarters of a power of two, so that
    few are compiled; at most a quarter more, above `multiple`."""
    multiple = max(multiple, 1 << max(count.bit_length() - 3, 0))
    return -(-count // multiple) * multiple


def _place_text(row: Batch, start: int, encoded: Encoded, first_vision: int) -> None:
    """Writes tokens and what is learned; `first_vision` is the number of the row's first free vision token."""
    end = start + len(encoded.tokens)
    row.tokens[start:end] = encoded.tokens
    row.targets[start : end - 1] = encoded.tokens[1:]
    row.loss_weights[start : end - 1] = encoded.supervised[1:]
    row.positions[..., start:end] = encoded.positions
    vision = encoded.vision_index
    row.vision_index[start:end] = np.where(vision == IGNORED, IGNORED, vision + first_vision)


def needed_tokens(encoded: Encoded) -> int:
    """Tokens that must stay when a sample is cut: all images and one learned token; more than it has where nothing is
    learned."""
    seen = np.flatnonzero(encoded.vision_index != IGNORED)
    after_images = int(seen[-1]) + 2 if len(seen) else 0
    # The first token of a sample is nobody's target, so it teaches nothing even where it is supervised.
    learned = np.flatnonzero(encoded.supervised[1:])
    return max(after_images, int(learned[0]) + 2) if len(learned) else len(encoded.tokens) + 1


SPECIALS: Mapping[type, SpecialTokens] = {QwenVLConfig: QWEN_VL, Qwen2VLConfig: QWEN2_VL}
"""A model's configuration: the special tokens behind its vocabulary."""
ENCODERS: Mapping[type, Callable[[Any, Stage, Tokenizer], Encoder]] = {
    # a model's configuration: how it sees the samples of a stage
    QwenVLConfig: lambda model, stage, tokenizer: ImageSlotEncoder(tokenizer, model.adapter.queries, stage.resolution),
    Qwen2VLConfig: lambda model, stage, tokenizer: PatchEncoder(
        tokenizer,
        model.vision.patch,
        stage.image_limits,
        stage.video_limits,
        stage.sequence_length,
        stage.patches_per_row,
    ),
}


def stage_encoder(model: ModelConfig, stage: Stage, vocabulary: str) -> Encoder:
    """How a model sees the samples of a stage, with its own special tokens; `vocabulary` is as `load_tokenizer` wants it.

    Raises:
      FileNotFoundError, ValueError: as `load_tokenizer`, or the embedding has too few rows for it.
    """
    tokenizer = load_tokenizer(vocabulary, SPECIALS[type(model)])
    if tokenizer.size > model.language.vocab_size:
        # JAX would read the last row for every id beyond it, without a word.
        raise ValueError(
            f"tokenizer {vocabulary} has {tokenizer.size} ids and the model's embedding {model.language.vocab_size} rows: "
            "take the tokenizer that belongs to the model, or train one with more rows (--model.language.vocab-size)"
        )
    return ENCODERS[type(model)](model, stage, tokenizer)
