"""What attention of Qwen2-VL's vision tower costs: in blocks that meet (ours), and as one masked square.

`python -m launch.benchmarks.vision_attention` prints a table: rows of 1024 patches, forward and backward of one layer with
four heads of 80, float32, the best of five runs each (a busy machine shows in all of them).
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qwenvl_jax.models.attention import attention
from qwenvl_jax.models.segment_attention import plan_attention, segment_attention

PATCHES, HEADS, SIZE = 1024, 4, 80
LAYOUTS = {
    # what a row holds: patches of its slices; the rest is padding
    "nothing": (),
    "2 slices of 128": (128,) * 2,
    "4 slices of 128": (128,) * 4,
    "8 slices of 128": (128,) * 8,
    "4 slices of 256": (256,) * 4,
    "2 slices of 512": (512,) * 2,
    "1 slice of 1024": (1024,),
    "1 of 400, 6 small": (400, 96, 64, 160, 24, 200, 80),
}


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
    qkv = jnp.asarray(rng.normal(size=(3, 1, PATCHES, HEADS, SIZE)), jnp.float32)
    print("| row of 1024 patches | scores needed | computed | in blocks | as a square |\n|---|---|---|---|---|")
    for name, slices in LAYOUTS.items():
        segments = np.zeros((1, PATCHES), np.int32)
        segments[0, : sum(slices)] = np.repeat(np.arange(1, len(slices) + 1), slices)
        needed, computed = sum(n * n for n in slices), int(plan_attention(jnp.asarray(segments)).scores)
        ours, square = (milliseconds(function, qkv, segments) for function in (in_blocks, as_a_square))
        print(f"| {name} | {needed:,} | {computed:,} | {ours:.0f} ms | {square:.0f} ms |", flush=True)


if __name__ == "__main__":
    main()
