"""Promises of `qwenvl_jax.models.qwen_vl.weights`, at full size without memory and at a small size with numbers."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from small_model import CONFIG

from configs.qwen_vl import MODEL
from qwenvl_jax.config import PrecisionConfig
from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.qwen_vl.weights import TABLE, layout
from qwenvl_jax.models.weights import from_original, to_original


def test_names_and_shapes_of_the_published_checkpoint() -> None:
    """The full model's parameters become exactly the 853 tensors of the published checkpoint."""
    published = json.loads((Path(__file__).parents[2] / "golden" / "qwen_vl_tensors.json").read_text())
    shapes = build(MODEL, PrecisionConfig()).shapes
    tensors = jax.eval_shape(lambda parameters: to_original(parameters, layout(MODEL)), shapes)
    assert len(published) == 853
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == published


def test_every_parameter_stands_in_the_table_once(architecture) -> None:
    """Nothing is lost or written twice."""
    paths = [path for entry in TABLE for path in entry.paths]
    assert sorted(paths) == sorted(architecture.shapes)


def test_there_and_back(parameters) -> None:
    """Original to ours and ours to original are inverse, bit by bit."""
    back = from_original(to_original(parameters, layout(CONFIG)), layout(CONFIG))
    assert back.keys() == parameters.keys()
    assert all(np.array_equal(back[path], parameters[path]) for path in parameters)


def test_other_tensors_are_named(parameters) -> None:
    """A missing and an unknown tensor are named in one sentence."""
    tensors = to_original(parameters, layout(CONFIG))
    with pytest.raises(ValueError, match=r"tensor lora\.weight is unknown"):
        from_original({**tensors, "lora.weight": np.zeros(1)}, layout(CONFIG))
    del tensors["transformer.wte.weight"]
    with pytest.raises(ValueError, match=r"tensor transformer\.wte\.weight is missing"):
        from_original(tensors, layout(CONFIG))
