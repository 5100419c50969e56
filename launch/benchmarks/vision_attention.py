"""What attention of Qwen2-VL's vision tower costs: in blocks that meet (ours), and as one masked square.

`python -m launch.benchmarks.vision_attention` prints a table: forward and backward of one layer with four heads of 80,
float32, the best of five runs each (a busy machine shows in all). Short rows are cut into blocks here too.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qwenvl_jax.models import segment_attention as segment_attention_module
from qwenvl_jax.models.attention import attention
from qwenvl_jax.models.segment_attention import computed_scores, plan_attention, segment_attention

HEADS, SIZE = 4, 80
LAYOUTS = (
    # patches of a row, what it holds, patches of its slices; the rest is padding
    (256, "7 slices of 36", (36,) * 7),
    (384, "10 slices of 36", (36,) * 10),
    (512, "14 slices of 36", (36,) * 14),
    (1024, "28 slices of 36", (36,) * 28),
    (1024, "nothing", ()),
    (1024, "2 slices of 128", (128,) * 2),
    (1024, "4 slices of 128", (128,) * 4),
    (1024, "8 slices of 128", (128,) * 8),
    (1024, "4 slices of 256", (256,) * 4),
    (1024, "2 slices of 512", (512,) * 2),
    (1024, "1 slice of 1024", (1024,)),
    (1024, "1 of 400, 6 small", (400, 96, 64, 160, 24, 200, 80)),
)


@jax.jit
@jax.grad
def in_blocks(qkv: jax.Array, segments: jax.Array) -> jax.Array:
    q, k, v = qkv
    return segment_attention(q, k, v, plan_attention(segments)).sum()


@jax.jit
@jax.grad
def as_a_square(qkv: jax.Array, segments: jax.Array) -> jax.Array:
    q, k, v = qkv
    return attention(q, k, v, query_segments=segments, key_segments=segments).sum()


def milliseconds(function: Callable, *arguments: Any) -> float:
    """The best of five runs behind one that compiles."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    """Prints the table."""
    rng = np.random.default_rng(0)
    segment_attention_module.SHORT = 0
    print(
        "| patches of a row | holds | scores needed | computed | in blocks | as a square |\n|---|---|---|---|---|---|"
    )
    for patches, name, slices in LAYOUTS:
        qkv = jnp.asarray(rng.normal(size=(3, 1, patches, HEADS, SIZE)), jnp.float32)
        segments = np.zeros((1, patches), np.int32)
        segments[0, : sum(slices)] = np.repeat(np.arange(1, len(slices) + 1), slices)
        needed, computed = sum(n * n for n in slices), computed_scores(segments, "xla")
        ours, square = (milliseconds(function, qkv, segments) for function in (in_blocks, as_a_square))
        print(f"| {patches} | {name} | {needed:,} | {computed:,} | {ours:.1f} ms | {square:.1f} ms |", flush=True)


if __name__ == "__main__":
    main()
