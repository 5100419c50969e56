"""FLOPs of a training step by part, from shapes, and the peak of the machine.

Counted are the multiplications and additions of matmuls (2 m n k), attention with all scores that are computed (also
those that a mask hides), for what the device executes: padded rows and empty image slots cost the same and are counted.
Recomputation is not, nor what an optimizer multiplies (Muon's orthogonalisation adds 0.67 of the counted FLOPs to a step of
`tiny` in stage vision, 0.29 in stage multitask).
Legend: forward F; backward 2F where a part is trained; where gradients only pass through it F for its weights and 2F
for attention, whose two inputs both come from below; 0 where nothing below it is trained.
"""

import math
import time

import jax
import jax.numpy as jnp

from qwenvl_jax.config import QwenVLConfig, Stage
from qwenvl_jax.models.attention import mean_keys

PEAK_FLOPS: dict[str, float] = {
    # jax device_kind -> dense bf16 FLOP/s of one device, from the makers' data sheets
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def forward_flops(config: QwenVLConfig, stage: Stage) -> dict[str, float]:
    """Forward FLOPs of one global batch: vision, adapter, language, loss."""
    weights, attention = _weight_flops(config, stage), _attention_flops(config, stage)
    return {part: weights[part] + attention[part] for part in weights}


def _weight_flops(config: QwenVLConfig, stage: Stage) -> dict[str, float]:
    """Forward FLOPs of what is multiplied with weights."""
    v, a, t = config.vision, config.adapter, config.language
    images, tokens = stage.rows * stage.images_per_row, stage.rows * stage.sequence_length
    patches = (stage.resolution // v.patch) ** 2
    vision_layer = 4 * v.width**2 + 2 * v.width * v.mlp_width
    language_layer = 4 * t.width**2 + 3 * t.width * t.mlp_width
    adapter = patches * (v.width * t.width + 2 * t.width**2) + a.queries * 3 * t.width**2
    return {
        "vision": 2.0 * images * patches * (v.layers * vision_layer + 3 * v.patch**2 * v.width),
        "adapter": 2.0 * images * adapter,
        "language": 2.0 * tokens * t.layers * language_layer,
        "loss": 2.0 * tokens * t.width * t.vocab_size,
    }


def _attention_flops(config: QwenVLConfig, stage: Stage) -> dict[str, float]:
    """Forward FLOPs of scores and of the values' weighted sums."""
    v, a, t = config.vision, config.adapter, config.language
    images, tokens = stage.rows * stage.images_per_row, stage.rows * stage.sequence_length
    patches = (stage.resolution // v.patch) ** 2
    return {
        "vision": 4.0 * images * patches * v.layers * patches * v.width,
        "adapter": 4.0 * images * a.queries * patches * t.width,
        "language": 4.0 * tokens * t.layers * mean_keys(stage.sequence_length) * t.width,
        "loss": 0.0,
    }


def step_flops(config: QwenVLConfig, stage: Stage, trained: tuple[str, ...]) -> dict[str, float]:
    """FLOPs of one training step by part; `trained` are the paths of the trained parameters."""
    part_of = {"vision": "vision/", "adapter": "adapter/", "language": "language/", "loss": "language/head"}
    order = ("vision", "adapter", "language", "loss")
    learns = {part: any(path.startswith(prefix) for path in trained) for part, prefix in part_of.items()}
    weights, attention = _weight_flops(config, stage), _attention_flops(config, stage)
    if stage.patch_classes:  # the ViT alone is computed; its labels' own product is a hundredth of it
        weights, attention = ({**parts, "adapter": 0.0, "language": 0.0, "loss": 0.0} for parts in (weights, attention))
    result = {}
    for i, part in enumerate(order):
        passed = any(learns[lower] for lower in order[: i + 1])  # a part's own weights lie below its activations
        result[part] = (1 + passed + learns[part]) * weights[part] + (1 + 2 * passed) * attention[part]
    return result


def peak_flops() -> float:
    """FLOP/s of all devices of the run: from the table, or measured on a CPU (2048 x 2048 x 2048 in float32).

    Returns nan for an accelerator that the table does not know: the run then reports no MFU.
    """
    device = jax.devices()[0]
    if device.platform != "cpu":
        return PEAK_FLOPS.get(device.device_kind, math.nan) * jax.device_count()
    size = 2048
    matrix = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(matrix, matrix))
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(multiply(matrix, matrix))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
