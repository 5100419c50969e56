"""A Qwen-VL whose every axis divides by two, and batches for it, for the tests of models and training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from configs.qwen_vl import parameter_tables
from qwenvl_jax.batch import IGNORED, Batch, empty_batch
from qwenvl_jax.config import (
    AdapterConfig,
    Component,
    LanguageConfig,
    ParameterRule,
    PrecisionConfig,
    QwenVLConfig,
    Run,
    Schedule,
    Stage,
    VisionConfig,
)
from qwenvl_jax.models.parameters import Architecture

CONFIG = QwenVLConfig(
    vision=VisionConfig(width=16, layers=2, heads=2, mlp_width=32, patch=4, position_grid=2),
    adapter=AdapterConfig(query_grid=2, heads=2),
    language=LanguageConfig(vocab_size=480, width=16, layers=2, heads=2, mlp_width=32),
)
PRECISION = PrecisionConfig(compute="float32", remat="nothing", loss_chunks=2, unroll=1)
RESOLUTION = 12
"""A 3 x 3 grid of patches: the stored 2 x 2 positions are interpolated."""
QUERIES = CONFIG.adapter.queries
TASKS = (Component("caption", "pictures", 1), Component("vqa", "pictures", 1))
TABLES = parameter_tables(CONFIG.vision.layers, 0.95, 0.05)
SFT_FROZEN = r"vision/.*|adapter/position"
"""What stage 3 must not move."""
TRAIN_ALL = (
    ParameterRule(r"adapter/position", frozen=True),
    ParameterRule(r".*(bias|scale)"),
    ParameterRule(r".*", weight_decay=0.05),
)


def random_parameters(architecture: Architecture, seed: int = 0) -> dict[str, np.ndarray]:
    """N(0, 0.2), around one for the scales of norms."""
    rng = np.random.default_rng(seed)
    return {
        path: rng.normal(path.endswith("scale"), 0.2, shape.shape).astype(np.float32)
        for path, shape in architecture.shapes.items()
    }


class SmallSample(NamedTuple):
    """T tokens, and K pictures [K, R, R, 3]."""

    tokens: np.ndarray
    vision_index: np.ndarray
    loss_weights: np.ndarray
    pictures: np.ndarray


def random_sample(rng: np.random.Generator, images: int, text: int, resolution: int = RESOLUTION) -> SmallSample:
    """Words before, between and behind the pictures; two thirds of the words are learned."""
    tokens, vision = [], []
    for image in range(images):
        tokens += [*rng.integers(0, 256, 2), *[472] * QUERIES, 471]
        vision += [IGNORED, IGNORED, *range(image * QUERIES, (image + 1) * QUERIES), IGNORED]
    tokens += list(rng.integers(0, 256, text))
    vision += [IGNORED] * text
    weights = (rng.random(len(tokens)) < 0.67) & (np.asarray(vision) == IGNORED)
    weights[-1] = False
    pictures = rng.integers(0, 256, (images, resolution, resolution, 3), np.uint8)
    return SmallSample(np.asarray(tokens), np.asarray(vision), weights, pictures)


def pack(rows: Sequence[Sequence[SmallSample]], length: int, images: int, resolution: int = RESOLUTION) -> Batch:
    """Rows of samples behind each other; a sample's task is its number in the row, modulo the tasks."""
    batch = empty_batch(len(rows), length, images, resolution, 256)
    for row, samples in enumerate(rows):
        start = slot = 0
        for number, sample in enumerate(samples):
            here = np.s_[row, start : start + len(sample.tokens)]
            batch.tokens[here] = sample.tokens
            batch.targets[here] = np.append(sample.tokens[1:], 256)
            batch.loss_weights[here] = sample.loss_weights
            batch.segment_ids[here] = number + 1
            batch.positions[here] = np.arange(len(sample.tokens))
            moved = sample.vision_index + slot * QUERIES
            batch.vision_index[here] = np.where(sample.vision_index == IGNORED, IGNORED, moved)
            batch.task_ids[here] = number % len(TASKS)
            batch.images[row, slot : slot + len(sample.pictures)] = sample.pictures
            start, slot = start + len(sample.tokens), slot + len(sample.pictures)
    return batch


def random_batch(seed: int, rows: int = 8, length: int = 48, images: int = 2) -> Batch:
    """Two samples a row: one with `images` pictures, one without."""
    rng = np.random.default_rng(seed)
    text = length - images * (QUERIES + 3)
    return pack(
        [[random_sample(rng, images, int(rng.integers(2, text - 8))), random_sample(rng, 0, 8)] for _ in range(rows)],
        length,
        images,
    )


def small_stage(**fields) -> Stage:
    """A stage of eight steps on `random_batch`."""
    stage = {
        "name": "multitask",
        "steps": 8,
        "mixture": TASKS,
        "rows": 8,
        "sequence_length": 48,
        "images_per_row": 2,
        "resolution": RESOLUTION,
        "schedule": Schedule(peak=1e-2, end=1e-3, warmup=2),
        "parameters": TRAIN_ALL,
    }
    return Stage(**(stage | fields))


def small_run(stage: Stage, **fields) -> Run:
    return Run(**({"name": "small", "model": CONFIG, "stages": (stage,), "precision": PRECISION} | fields))
