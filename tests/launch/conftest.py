"""Commands run on one device, as on a user's machine: the eight of the other tests would need eight rows."""

import os

import jax
import pytest

from qwenvl_jax.parallel.mesh import make_mesh


@pytest.fixture(scope="module", autouse=True)
def _one_device():
    """In this process, and in those that a test starts."""
    flags = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    jax.devices()  # JAX reads the flags now: tests of other folders that follow in this process have their eight devices
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.train.make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
        patch.setenv("XLA_FLAGS", " ".join(flags))
        yield
