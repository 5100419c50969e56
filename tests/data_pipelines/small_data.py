"""Small records and a small run that the tests of the data way share."""

import io

import numpy as np
from PIL import Image

from data_pipelines.records import Question, Record, StoredImage
from qwenvl_jax.config import (
    AdapterConfig,
    Component,
    DataConfig,
    LanguageConfig,
    QwenVLConfig,
    Run,
    Schedule,
    Stage,
    VisionConfig,
)


def make_picture(seed: int = 0, width: int = 20, height: int = 16) -> StoredImage:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return StoredImage(file.getvalue(), width, height)


def make_record(number: int) -> Record:
    """A picture with a caption and a question; the length differs from record to record."""
    words = " ".join(["word"] * (1 + number % 7))
    return Record(
        key=f"r{number}",
        images=(make_picture(number),),
        captions=(Question("Generate the caption in English:", f"{number} {words}"),),
        questions=(Question("What is it?", f"number {number}", "number"),) if number % 3 else (),
    )


def make_run(root: str, **stage_fields) -> Run:
    """A run of one stage: captions (weight 2), questions (1) and text (1); 4 vision tokens an image."""
    stage = {
        "name": "multitask",
        "steps": 6,
        "mixture": (
            Component("caption", "pictures", 2), Component("vqa", "pictures", 1),
            Component("text", "texts", 1),
        ),
        "rows": 4,
        "sequence_length": 160,
        "images_per_row": 3,
        "resolution": 8,
        "schedule": Schedule(peak=1e-3, end=1e-4, warmup=1),
        "parameters": (),
    }  # fmt: skip
    return Run(
        name="test",
        model=QwenVLConfig(
            VisionConfig(width=8, layers=1, heads=1, mlp_width=8, patch=4, position_grid=2),
            AdapterConfig(query_grid=2, heads=1),
            LanguageConfig(vocab_size=480, width=8, layers=1, heads=1, mlp_width=8),
        ),
        stages=(Stage(**(stage | stage_fields)),),
        data=DataConfig(root=root, tokenizer="bytes", window=32),
    )
