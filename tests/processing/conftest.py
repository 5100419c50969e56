"""Both vocabularies, loaded once."""

import importlib.util
from pathlib import Path

import pytest

from qwenvl_jax.processing.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def vocabulary_path() -> Path:
    """`qwen.tiktoken` as the installed package dashscope carries it; the package is not imported."""
    spec = importlib.util.find_spec("dashscope")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"


@pytest.fixture(scope="session")
def qwen(vocabulary_path: Path) -> Tokenizer:
    return load_tokenizer(vocabulary_path)


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    return load_tokenizer("bytes")


@pytest.fixture(params=["qwen", "byte_level"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each vocabulary in turn, for what both promise."""
    chosen: Tokenizer = request.getfixturevalue(request.param)
    return chosen
