"""A Qwen2-VL with 16-dimensional heads, and batches of samples for it; names as in `small_model` where both have them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import small_model

from configs.qwen2_vl import PARAMETER_TABLES
from qwenvl_jax.batch import IGNORED, Batch, empty_patch_batch
from qwenvl_jax.config import (
    ParameterRule,
    PrecisionConfig,
    Qwen2LanguageConfig,
    Qwen2VisionConfig,
    Qwen2VLConfig,
    Run,
    Stage,
)
from qwenvl_jax.processing.patches import Grid, frame_numbers, patch_positions
from qwenvl_jax.processing.positions import Piece, mrope_positions

CONFIG = Qwen2VLConfig(
    vision=Qwen2VisionConfig(width=32, layers=2, heads=2, mlp_width=48),
    language=Qwen2LanguageConfig(
        vocab_size=320, width=64, layers=2, heads=4, kv_heads=2, mlp_width=48, tied=False, mrope_sections=(2, 3, 3)
    ),
)
PRECISION = PrecisionConfig(compute="float32", remat="nothing", loss_chunks=2)
TABLES = PARAMETER_TABLES
SFT_FROZEN = r"(vision|merger)/.*"
TRAIN_ALL = (ParameterRule(r".*(bias|scale)"), ParameterRule(r".*", weight_decay=0.05))
LENGTH, PATCHES = 48, 64
"""Of a row of `random_batch`."""
PAD, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = 300, 301, 302, 303, 304


class SmallSample(NamedTuple):
    """T tokens, V = P / 4 vision tokens.

    Attributes:
      tokens: [T].
      vision_index: [T], -1 or 0 .. V - 1.
      loss_weights: [T].
      positions: [3, T].
      grids: images (one frame) and videos in order.
      patches: [P, 1176] uint8.
    """

    tokens: np.ndarray
    vision_index: np.ndarray
    loss_weights: np.ndarray
    positions: np.ndarray
    grids: tuple[Grid, ...]
    patches: np.ndarray


def make_sample(rng: np.random.Generator, *pieces: Piece) -> SmallSample:
    """Numbers of words, and images and videos, each between a start and an end token."""
    tokens: list[int] = []
    vision: list[int] = []
    layout: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Grid):
            seen = sum(index >= 0 for index in vision)
            pad = IMAGE_PAD if piece.frames == 1 else VIDEO_PAD
            tokens += [VISION_START, *[pad] * piece.tokens, VISION_END]
            vision += [IGNORED, *range(seen, seen + piece.tokens), IGNORED]
            layout += [1, piece, 1]
        else:
            tokens += rng.integers(0, 256, piece).tolist()
            vision += [IGNORED] * piece
            layout.append(piece)
    grids = tuple(piece for piece in pieces if isinstance(piece, Grid))
    patches = rng.integers(0, 256, (sum(grid.patches for grid in grids), CONFIG.vision.patch_size), np.uint8)
    weights = (rng.random(len(tokens)) < 0.67) & (np.asarray(tokens) < 256)
    weights[-1] = False
    return SmallSample(np.array(tokens), np.array(vision), weights, mrope_positions(layout), grids, patches)


def pack(rows: Sequence[Sequence[SmallSample]], length: int, patches: int, left: bool = False) -> Batch:
    """Rows of samples behind each other; `left` moves a row's tokens to its end."""
    batch = empty_patch_batch(len(rows), length, patches, CONFIG.vision.patch_size, PAD)
    for row, samples in enumerate(rows):
        begin = length - sum(len(sample.tokens) for sample in samples) if left else 0
        patch = segment = 0
        for number, sample in enumerate(samples):
            here = slice(begin, begin + len(sample.tokens))
            batch.tokens[row, here] = sample.tokens
            batch.targets[row, here] = np.append(sample.tokens[1:], PAD)
            batch.loss_weights[row, here] = sample.loss_weights
            batch.segment_ids[row, here] = number + 1
            batch.task_ids[row, here] = number % len(small_model.TASKS)
            batch.positions[row, :, here] = sample.positions
            moved = sample.vision_index + patch // 4
            batch.vision_index[row, here] = np.where(sample.vision_index == IGNORED, IGNORED, moved)
            begin = here.stop
            batch.patches[row, patch : patch + len(sample.patches)] = sample.patches
            for grid in sample.grids:
                there = slice(patch, patch + grid.patches)
                batch.patch_positions[row, there] = patch_positions(grid)
                batch.patch_segments[row, there] = frame_numbers(grid) + segment + 1
                patch, segment = there.stop, segment + grid.frames
    return batch


VISUALS = (
    # of a sample: nothing but text, an image, a video, an image and a video
    lambda rng: (),
    lambda rng: (Grid(1, 2 * int(rng.integers(1, 4)), 2 * int(rng.integers(1, 4))),),
    lambda rng: (Grid(int(rng.integers(2, 4)), 2 * int(rng.integers(1, 3)), 4),),
    lambda rng: (Grid(1, 2, 4), Grid(2, 2, 4)),
)


def random_batch(seed: int, rows: int = 8, length: int = LENGTH, patches: int = PATCHES) -> Batch:
    """Rows of one or two samples: a row of text alone, rows of images alone, of videos alone, and mixed ones."""
    rng = np.random.default_rng(seed)

    def row() -> list[SmallSample]:
        samples: list[SmallSample] = []
        for _ in range(2):
            visuals = VISUALS[int(rng.integers(len(VISUALS)))](rng)
            sample = make_sample(rng, *visuals, int(rng.integers(2, 12)))
            tokens = sum(len(other.tokens) for other in (*samples, sample))
            if tokens <= length and sum(len(other.patches) for other in (*samples, sample)) <= patches:
                samples.append(sample)
        return samples

    return pack([row() for _ in range(rows)], length, patches)


def small_stage(**fields) -> Stage:
    """A stage of eight steps on `random_batch`."""
    shape = {"sequence_length": LENGTH, "patches_per_row": PATCHES, "images_per_row": 0, "resolution": 0}
    return small_model.small_stage(**(shape | {"parameters": TRAIN_ALL} | fields))


def small_run(stage: Stage, **fields) -> Run:
    return small_model.small_run(stage, **({"model": CONFIG} | fields))
