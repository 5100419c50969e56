"""A small model that is sharp enough for every token to depend on its place, and queries for it."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Picture
from small_model import QUERIES, RESOLUTION

from qwenvl_jax.config import QwenVLConfig
from qwenvl_jax.inference.generation_config import GenerationConfig
from qwenvl_jax.inference.model import Model
from qwenvl_jax.inference.processor import Processor
from qwenvl_jax.processing.chat_formats import CHAT_FORMATS
from qwenvl_jax.processing.encoders import ImageSlotEncoder
from qwenvl_jax.processing.sample import Image, Sample, Text
from qwenvl_jax.processing.tokenizer import Tokenizer, load_tokenizer

NEW = 10
"""Tokens of an answer; no even share of what one device call decodes while streaming."""


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer("bytes")


@pytest.fixture(scope="session")
def model(architecture, parameters) -> Model:
    """With sharp attention, so that a position that is wrong by one changes tokens."""
    sharp = {"language/blocks/q/kernel": 8.0, "language/blocks/k/kernel": 8.0}
    return Model(architecture, {path: jnp.asarray(array) * sharp.get(path, 1.0) for path, array in parameters.items()})


@pytest.fixture(scope="session")
def processor(tokenizer) -> Processor:
    encoder = ImageSlotEncoder(tokenizer, QUERIES, RESOLUTION)
    return Processor(encoder, CHAT_FORMATS[QwenVLConfig], GenerationConfig(max_new_tokens=NEW))


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Picture.fromarray(np.random.default_rng(seed).integers(0, 256, (14, 18, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def prompts() -> list[Sample]:
    """With 0, 2, 1 and 0 pictures, in lengths of 5 to 30 tokens."""
    return [
        Sample((Text("What?"),)),
        Sample((Text("a"), Image(0), Text("and"), Image(1), Text("which is larger?")), (png(0), png(1))),
        Sample((Image(0), Text("Describe the picture:")), (png(2),)),
        Sample((Text("Twenty letters and more"),)),
    ]
