"""The position-aware adapter: one cross-attention from learned queries (`Resampler` of the original).

Shape legend: B images, P patches, Q queries, C vision width, D language width, N heads, H head size.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qwenvl_jax.config import PrecisionConfig, QwenVLConfig
from qwenvl_jax.models.attention import attention
from qwenvl_jax.models.layers import Initializer, LayerNorm, Projection, normal, parameter, truncated_normal
from qwenvl_jax.models.qwen_vl.positions import interpolate_positions, sine_positions


def aligned(sharpness: float) -> Initializer:
    """Queries and keys start in one space: a query's score is largest where the key's position is its own.

    Random kernels give every query the mean of all patches, and the layer then has to find its positions first. Heads
    take every N-th dimension, so that each sees rows and columns at all frequencies (a contiguous half would see one).
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        d, n, h = shape
        return sharpness**0.5 * jnp.eye(d, dtype=dtype).reshape(d, h, n).swapaxes(1, 2)

    return init


class Adapter(nnx.Module):
    """Compresses P patches of an image to Q vision tokens of the language model's width."""

    def __init__(self, config: QwenVLConfig, precision: PrecisionConfig, rngs: nnx.Rngs):
        self.implementation = precision.attention
        c, d, n = config.vision.width, config.language.width, config.adapter.heads
        h, grid = d // n, config.adapter.query_grid
        kernel_axes = ("embed", "heads", "head")
        self.query = parameter(rngs, truncated_normal(0.02), (grid**2, d), ("position", "embed"))
        self.position = parameter(
            rngs,
            lambda key, shape, dtype: jnp.asarray(sine_positions(grid, d), dtype),
            (grid**2, d),
            ("position", "embed"),
        )
        self.kv = Projection("bpc,cd->bpd", (c, d), ("vision", "embed"), rngs)
        self.norm_q, self.norm_kv = LayerNorm(d, rngs), LayerNorm(d, rngs)
        sharpness = config.adapter.initial_sharpness
        if sharpness:
            # Contents start smaller than positions, or their products would drown those of the positions.
            self.norm_q.scale[...] *= 0.25
            self.norm_kv.scale[...] *= 0.25
        match = aligned(sharpness) if sharpness else normal(d**-0.5)
        self.q = Projection("qd,dnh->qnh", (d, n, h), kernel_axes, rngs, bias=(1, 2), init=match)
        self.k = Projection("bpd,dnh->bpnh", (d, n, h), kernel_axes, rngs, bias=(1, 2), init=match)
        self.v = Projection("bpd,dnh->bpnh", (d, n, h), kernel_axes, rngs, bias=(1, 2))
        self.out = Projection("bqnh,nhd->bqd", (n, h, d), ("heads", "head", "embed"), rngs, bias=(2,))
        self.norm_post = LayerNorm(d, rngs)
        self.projection = Projection("bqd,de->bqe", (d, d), ("embed", "embed_out"), rngs)

    @jax.named_scope("adapter")
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, P, C] -> [B, Q, D]. Positions are added to queries and keys, never to values."""
        grid = int(x.shape[1] ** 0.5)
        position = self.position[...].astype(x.dtype)
        kv = self.norm_kv(self.kv(x))
        q = self.q(self.norm_q(self.query[...].astype(x.dtype)) + position)
        k = self.k(kv + interpolate_positions(self.position[...], grid).astype(x.dtype))
        q = jnp.broadcast_to(q, (x.shape[0], *q.shape))
        y = self.out(attention(q, k, self.v(kv), implementation=self.implementation))
        return self.projection(self.norm_post(y))
