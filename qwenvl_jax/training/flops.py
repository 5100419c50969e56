"""FLOPs of a training step by part, and the peak of the machine.

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

from qwenvl_jax.config import ModelConfig, Stage
from qwenvl_jax.models.parameters import MODELS

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


def forward_flops(config: ModelConfig, stage: Stage, scores: float | None = None) -> dict[str, float]:
    """Forward FLOPs of one global batch by part, from pixels to the loss; arguments as `step_flops`."""
    counted = MODELS[type(config)].flops(config, stage, scores)
    return {part: counted.weights[part] + counted.attention[part] for part in counted.weights}


def step_flops(
    config: ModelConfig, stage: Stage, trained: tuple[str, ...], scores: float | None = None
) -> dict[str, float]:
    """FLOPs of one training step by part.

    Args:
      trained: the paths of the trained parameters.
      scores: of the vision tower, where their number follows what the rows hold: see the model's `flops.py`.
    """
    counted = MODELS[type(config)].flops(config, stage, scores)
    order = tuple(counted.weights)
    learns = {part: any(path.startswith(counted.paths[part]) for path in trained) for part in order}
    result = {}
    for i, part in enumerate(order):
        passed = any(learns[lower] for lower in order[: i + 1])  # a part's own weights lie below its activations
        weights, attention = counted.weights[part], counted.attention[part]
        result[part] = (1 + passed + learns[part]) * weights + (1 + 2 * passed) * attention
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
