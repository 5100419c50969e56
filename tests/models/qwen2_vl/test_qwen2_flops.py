"""FLOPs of Qwen2-VL: every kernel counted where it is used, and the published size of a patch's cost."""

import dataclasses
import math

import pytest
from small_model import small_stage
from small_qwen2_vl import CONFIG

from configs.qwen2_vl import MODEL_2B, MODEL_7B
from qwenvl_jax.config import PixelLimits, PrecisionConfig
from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.qwen2_vl.flops import forward_flops

TIED = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, tied=True))
STAGE = small_stage(images_per_row=0, resolution=0, patches_per_row=64, image_limits=PixelLimits(784, 784 * 4))


@pytest.mark.parametrize("config", [CONFIG, TIED, MODEL_2B, MODEL_7B], ids=["untied", "tied", "2B", "7B"])
def test_weights_are_counted_from_the_shapes(config) -> None:
    """2 FLOPs for every element of a kernel: of the ViT per patch, the merger per four, the language model per token."""
    shapes = build(config, PrecisionConfig()).shapes
    kernels = {path: shape.size for path, shape in shapes.items() if path.endswith("kernel")}
    head = "language/embedding" if config.language.tied else "language/head/kernel"
    patches, tokens = STAGE.rows * STAGE.patches_per_row, STAGE.rows * STAGE.sequence_length
    used = {"vision": patches, "merger": patches // 4, "language": tokens}
    wanted = {
        part: 2 * times * sum(size for path, size in kernels.items() if path.startswith(f"{part}/") and path != head)
        for part, times in used.items()
    }
    wanted["loss"] = 2 * tokens * shapes[head].size
    assert forward_flops(config, STAGE).weights == wanted


def test_attention_is_counted_by_its_scores() -> None:
    """Scores and sums of values: 4 FLOPs for each score and element of a head, of the vision tower those that are there."""
    vision, language = CONFIG.vision, CONFIG.language
    found = forward_flops(CONFIG, STAGE, scores=1000.0).attention
    assert found["vision"] == 4 * 1000 * vision.layers * vision.width
    causal = STAGE.rows * STAGE.sequence_length**2  # all that the mask hides too: a row of 48 tokens is one block
    assert found["language"] == 4 * causal * language.layers * language.width
    # Without a count: every patch meets an image of four tokens, sixteen patches.
    most = STAGE.rows * STAGE.patches_per_row * 16
    assert forward_flops(CONFIG, STAGE).attention["vision"] == 4 * most * vision.layers * vision.width


def test_a_patch_of_the_release() -> None:
    """1.26 GFLOP a patch, and 163,840 for each patch of its slice, as the sizes of the ViT give by hand."""
    alone = dataclasses.replace(STAGE, rows=1, patches_per_row=1)
    counted = forward_flops(MODEL_2B, alone, scores=1.0)
    by_hand = 2 * (32 * (4 * 1280**2 + 2 * 1280 * 5120) + 1176 * 1280)
    assert counted.weights["vision"] == by_hand
    assert math.isclose(by_hand, 1.26e9, rel_tol=2e-3)
    assert counted.attention["vision"] == 163_840
