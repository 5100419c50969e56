"""What holds for all tests: eight devices on the host, and the small model that several of them share."""

import os

# Before jax is imported, which reads both once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

import pytest
from small_model import CONFIG, PRECISION, random_parameters

from qwenvl_jax.models.parameters import Architecture, build


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    return build(CONFIG, PRECISION)


@pytest.fixture(scope="session")
def parameters(architecture) -> dict:
    """Random float32 arrays on the host (a training step may consume device arrays), also where a new model has zeros."""
    return random_parameters(architecture)
