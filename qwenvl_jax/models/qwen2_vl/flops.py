"""Forward FLOPs of Qwen2-VL. `qwenvl_jax.training.flops` says what is counted."""

from qwenvl_jax.config import Qwen2VLConfig, Stage
from qwenvl_jax.models.attention import mean_keys
from qwenvl_jax.models.flops import Flops


def forward_flops(config: Qwen2VLConfig, stage: Stage, scores: float | None = None) -> Flops:
    """Of one global batch.

    Args:
      scores: that each head of the vision tower computes for the batch (`segment_attention.computed_scores`). None: as many
        as if every image were as large as the stage allows, the most that rows can cost.
    """
    v, t = config.vision, config.language
    patches, tokens = stage.rows * stage.patches_per_row, stage.rows * stage.sequence_length
    if scores is None:
        scores = float(patches * min(stage.patches_per_row, stage.image_limits.max_pixels // v.patch**2))
    head, merged = t.width // t.heads, v.merge**2 * v.width
    vision_layer = 4 * v.width**2 + 2 * v.width * v.mlp_width
    language_layer = 2 * t.width**2 + 2 * t.width * t.kv_heads * head + 3 * t.width * t.mlp_width
    weights = {
        "vision": 2.0 * patches * (v.layers * vision_layer + v.patch_size * v.width),
        "merger": 2.0 * patches / v.merge**2 * merged * (merged + t.width),
        "language": 2.0 * tokens * t.layers * language_layer,
        "loss": 2.0 * tokens * t.width * t.vocab_size,
    }
    attention = {
        "vision": 4.0 * scores * v.layers * v.width,
        "merger": 0.0,
        "language": 4.0 * tokens * t.layers * mean_keys(stage.sequence_length) * t.width,
        "loss": 0.0,
    }
    if stage.patch_classes:  # the ViT alone is computed; its labels' own product is a hundredth of it
        weights |= {"merger": 0.0, "language": 0.0, "loss": 0.0}
        attention |= {"language": 0.0}
    head_path = "language/embedding" if t.tied else "language/head"
    return Flops(
        weights, attention, {"vision": "vision/", "merger": "merger/", "language": "language/", "loss": head_path}
    )
