"""The three published sizes, built without memory: numbers, names and shapes are the original's."""

import json
from pathlib import Path

import jax
import pytest
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from configs.qwen2_vl import MODEL_2B, MODEL_7B, MODEL_72B
from qwenvl_jax.config import PrecisionConfig
from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.qwen2_vl.weights import layout, released_name
from qwenvl_jax.models.weights import to_original

SIZES = [
    ("2B", MODEL_2B, 2_208_985_600, 729),
    ("7B", MODEL_7B, 8_291_375_616, 730),
    ("72B", MODEL_72B, 73_405_560_320, 1354),
]
PARTS = {
    # vision tower, merger, language model: with the embedding, and the head where it is not tied
    "2B": (631_183_360, 34_087_936, 233_373_696 + 1_310_340_608),
    "7B": (631_183_360, 44_575_744, 2 * 544_997_376 + 6_525_621_760),
    "72B": (631_183_360, 68_173_312, 2 * 1_245_708_288 + 70_214_787_072),
}


@pytest.mark.parametrize(
    "size, config, parameters, _", SIZES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_published_size_and_its_parts(size, config, parameters, _) -> None:
    """Exactly the published numbers of parameters, part by part."""
    architecture = build(config, PrecisionConfig())
    assert architecture.size == parameters
    parts = {"vision": 0, "merger": 0, "language": 0}
    for path, shape in architecture.shapes.items():
        parts[path.split("/")[0]] += shape.size
    assert tuple(parts.values()) == PARTS[size]


@pytest.mark.parametrize("size, config, _, count", SIZES, ids=lambda value: value if isinstance(value, str) else "")
def test_names_and_shapes_of_the_original(size, config, _, count) -> None:
    """Our parameters become exactly the tensors that transformers makes of the published configuration."""
    golden = Path(__file__).parents[2] / "golden" / f"qwen2_vl_config_{size}.json"
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**json.loads(golden.read_text())))
    theirs = {released_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.language.tied:
        del theirs["lm_head.weight"]
    shapes = build(config, PrecisionConfig()).shapes
    ours = jax.eval_shape(lambda parameters: to_original(parameters, layout(config)), shapes)
    assert {name: tensor.shape for name, tensor in ours.items()} == theirs
    assert len(ours) == count
