"""Forward FLOPs of Qwen-VL, from shapes alone. `qwenvl_jax.training.flops` says what is counted."""

from qwenvl_jax.config import QwenVLConfig, Stage
from qwenvl_jax.models.attention import mean_keys
from qwenvl_jax.models.flops import Flops

PATHS = {"vision": "vision/", "adapter": "adapter/", "language": "language/", "loss": "language/head"}


def forward_flops(config: QwenVLConfig, stage: Stage, scores: float | None = None) -> Flops:
    """Of one global batch. Every image slot is computed, so `scores` (of the patches that are there) does not count."""
    v, a, t = config.vision, config.adapter, config.language
    images, tokens = stage.rows * stage.images_per_row, stage.rows * stage.sequence_length
    patches = (stage.resolution // v.patch) ** 2
    vision_layer = 4 * v.width**2 + 2 * v.width * v.mlp_width
    language_layer = 4 * t.width**2 + 3 * t.width * t.mlp_width
    adapter = patches * (v.width * t.width + 2 * t.width**2) + a.queries * 3 * t.width**2
    weights = {
        "vision": 2.0 * images * patches * (v.layers * vision_layer + 3 * v.patch**2 * v.width),
        "adapter": 2.0 * images * adapter,
        "language": 2.0 * tokens * t.layers * language_layer,
        "loss": 2.0 * tokens * t.width * t.vocab_size,
    }
    if stage.patch_classes:  # the ViT alone is computed; its labels' own product is a hundredth of it
        weights |= {"adapter": 0.0, "language": 0.0, "loss": 0.0}
    attention = {
        "vision": 4.0 * images * patches * v.layers * patches * v.width,
        "adapter": 4.0 * images * a.queries * patches * t.width,
        "language": 4.0 * tokens * t.layers * mean_keys(stage.sequence_length) * t.width,
        "loss": 0.0,
    }
    if stage.patch_classes:
        attention |= {"adapter": 0.0, "language": 0.0}
    return Flops(weights, attention, PATHS)
