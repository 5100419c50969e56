"""The small Qwen2-VL in transformers, with random weights, and the same weights as our parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from original_qwen2_vl import SpecialIds, random_original
from parity_table import ParityTable
from small_qwen2_vl import CONFIG, IMAGE_PAD, PAD, PRECISION, VIDEO_PAD, VISION_END, VISION_START
from transformers import Qwen2VLForConditionalGeneration

from qwenvl_jax.models.parameters import Architecture, build
from qwenvl_jax.models.qwen2_vl.weights import layout, released_name
from qwenvl_jax.models.weights import from_original


@pytest.fixture(scope="session", autouse=True)
def _exact_matmuls():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="session")
def table():
    """Collects every distance to the original and prints them in the end (`pytest -s`)."""
    table = ParityTable()
    yield table
    table.print()


@pytest.fixture(scope="session")
def original() -> Qwen2VLForConditionalGeneration:
    return random_original(CONFIG, SpecialIds(PAD, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD))


@pytest.fixture(scope="session")
def qwen2_architecture() -> Architecture:
    return build(CONFIG, PRECISION)


@pytest.fixture(scope="session")
def qwen2_parameters(original) -> dict[str, np.ndarray]:
    """The original's weights under our paths."""
    tensors = {released_name(name): tensor.numpy() for name, tensor in original.state_dict().items()}
    return jax.tree.map(jnp.asarray, from_original(tensors, layout(CONFIG)))
