"""FLOPs of a training step by part, from shapes, and the peak of the machine.

Counted are the multiplications and additions of matmuls (2 m n k), attention in full (S x S, as the dense kernel computes
it), for what the device executes: padded rows and empty image slots cost the same and are counted. Recomputation is not.
Legend: forward F; backward 2F where a part is trained, F where gradients only pass through it, 0 where nothing below
it is trained.
"""

import math
import time

import jax
import jax.numpy as jnp

from qwenvl_jax.config import QwenVLConfig, Stage

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
    v, a, t = config.vision, config.adapter, config.language
    images = stage.rows * stage.images_per_row
    patches = (stage.resolution // v.patch) ** 2
    block = 4 * v.width**2 + 2 * v.width * v.mlp_width + 2 * patches * v.width
    vision = images * patches * (v.layers * block + 3 * v.patch**2 * v.width)
    keys = patches * (v.width * t.width + 2 * t.width**2)
    queries = a.queries * (3 * t.width**2 + 2 * patches * t.width)
    tokens, length = stage.rows * stage.sequence_length, stage.sequence_length
    layer = 4 * t.width**2 + 3 * t.width * t.mlp_width + 2 * length * t.width
    return {
        "vision": 2.0 * vision,
        "adapter": 2.0 * images * (keys + queries),
        "language": 2.0 * tokens * t.layers * layer,
        "loss": 2.0 * tokens * t.width * t.vocab_size,
    }


def step_flops(config: QwenVLConfig, stage: Stage, trained: tuple[str, ...]) -> dict[str, float]:
    """FLOPs of one training step by part; `trained` are the paths of the trained parameters."""
    part_of = {"vision": "vision/", "adapter": "adapter/", "language": "language/", "loss": "language/head"}
    order = ("vision", "adapter", "language", "loss")
    learns = {part: any(path.startswith(prefix) for path in trained) for part, prefix in part_of.items()}
    result = {}
    for i, part in enumerate(order):
        below = any(learns[lower] for lower in order[:i])
        embeds = part == "language" and learns["language"]
        passes = 1 + (below or embeds or learns[part]) + learns[part]
        result[part] = passes * forward_flops(config, stage)[part]
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
