"""What all tests of conversion share."""

from pathlib import Path

import pytest
from small_folder import Tensors, random_tensors

from qwenvl_jax.conversion.convert import convert


@pytest.fixture(scope="session")
def tensors() -> Tensors:
    """Of the small model, in bfloat16, by the original's names; not to be changed."""
    return random_tensors("bfloat16")


@pytest.fixture
def converted():
    """converted(*sources, destination, dtype=None) -> what was said."""

    def run(*folders: Path, dtype: str | None = None) -> list[str]:
        said: list[str] = []
        convert(folders[:-1], folders[-1], dtype, said.append, lambda name, size: None)
        return said

    return run
