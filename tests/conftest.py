"""What holds for all tests: eight devices on the host, and the small model that several of them share."""

import os

XLA_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # Code that is written in a hurry: 1.0 instead of 7.5 s for the small model's gradient, which then runs for 20 ms.
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
)

# Before jax is imported, which reads both once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS))

import pytest  # noqa: E402
from small_model import CONFIG, PRECISION, random_parameters  # noqa: E402

from qwenvl_jax.models.parameters import Architecture, build  # noqa: E402


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    return build(CONFIG, PRECISION)


@pytest.fixture(scope="session")
def parameters(architecture) -> dict:
    """Random float32 arrays on the host (a training step may consume device arrays), also where a new model has zeros."""
    return random_parameters(architecture)
