"""The vision tower of Qwen2-VL: a ViT at native resolution, and the merger (paper section 2.1; `visual` of the original).

Shape legend: B rows, P patches of a row, K values of a patch, C width, N heads, H head size, F mlp width,
M patches of a vision token, V = P / M vision tokens of a row, D width of the language model.

A row holds the patches of all its images and videos behind each other. Segments (an image, or one pair of frames of a video)
tell what belongs together, positions what lies where; nothing depends on a grid, so no shape changes with the data.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from qwenvl_jax.config import PrecisionConfig, Qwen2VisionConfig
from qwenvl_jax.models.layers import (
    ACTIVATIONS,
    LayerNorm,
    Projection,
    apply_rotary,
    rotary_angles,
    rotary_frequencies,
    scan_layers,
)
from qwenvl_jax.models.segment_attention import PairList, WorkList, plan_attention, segment_attention
from qwenvl_jax.parallel.activations import gather_stream
from qwenvl_jax.processing.patches import normalize_patches

ROTARY_BASE = 10000.0

Angles = tuple[jax.Array, jax.Array]


def vision_angles(positions: jax.Array, head_size: int) -> Angles:
    """cos and sin [B, P, 1, H/2]: of a head's pairs the first half turns with the row, the second with the column.

    Args:
      positions: [B, P, 2] row and column.
    """
    cos, sin = rotary_angles(positions, rotary_frequencies(head_size // 2, ROTARY_BASE))
    pattern = "b p yx 1 f -> b p 1 (yx f)"
    return rearrange(cos, pattern), rearrange(sin, pattern)


class VisionBlock(nnx.Module):
    """All pre-norm blocks of the trunk, stacked."""

    def __init__(self, config: Qwen2VisionConfig, rngs: nnx.Rngs):
        c, n, f, layers = config.width, config.heads, config.mlp_width, config.layers
        h = c // n
        inward: dict[str, Any] = {
            "shape": (c, n, h),
            "axes": ("embed", "heads", "head"),
            "bias": (1, 2),
            "layers": layers,
        }
        self.norm_1 = LayerNorm(c, rngs, layers)
        self.q = Projection("bpc,cnh->bpnh", rngs=rngs, **inward)
        self.k = Projection("bpc,cnh->bpnh", rngs=rngs, **inward)
        self.v = Projection("bpc,cnh->bpnh", rngs=rngs, **inward)
        self.out = Projection("bpnh,nhc->bpc", (n, h, c), ("heads", "head", "embed"), rngs, bias=(2,), layers=layers)
        self.norm_2 = LayerNorm(c, rngs, layers)
        self.up = Projection("bpc,cf->bpf", (c, f), ("embed", "mlp"), rngs, bias=(1,), layers=layers)
        self.down = Projection("bpf,fc->bpc", (f, c), ("mlp_rows", "embed_out"), rngs, bias=(1,), layers=layers)
        self.activation = config.activation

    def __call__(self, x: jax.Array, angles: Angles, work: WorkList | PairList, _: Any) -> tuple[jax.Array, None]:
        y = gather_stream(self.norm_1(x))
        q, k, v = apply_rotary(self.q(y), angles), apply_rotary(self.k(y), angles), self.v(y)
        x = x + self.out(segment_attention(q, k, v, work))
        x = x + self.down(ACTIVATIONS[self.activation](self.up(gather_stream(self.norm_2(x)))))
        return x, None


class VisionEncoder(nnx.Module):
    """Patches to one vector per patch."""

    def __init__(self, config: Qwen2VisionConfig, precision: PrecisionConfig, rngs: nnx.Rngs):
        self.config, self.precision = config, precision
        kernel = (config.patch_size, config.width)
        self.patch_embedding = Projection("bpk,kc->bpc", kernel, ("patch", "embed"), rngs)
        self.blocks = VisionBlock(config, rngs)

    @jax.named_scope("vision")
    def __call__(self, patches: jax.Array, positions: jax.Array, segments: jax.Array) -> jax.Array:
        """[B, P, K] uint8, [B, P, 2] and [B, P] -> [B, P, C].

        The original's convolution has its kernel's size as stride, so it is a matmul over flattened patches.
        """
        x = normalize_patches(patches).astype(jnp.dtype(self.precision.compute))
        x = self.patch_embedding(x)
        angles = vision_angles(positions, self.config.width // self.config.heads)
        shared = (angles, plan_attention(segments, self.precision.attention))
        remat, unroll = self.precision.remat_of_vision, self.precision.unroll
        x, _ = scan_layers(self.blocks, x, *shared, remat=remat, unroll=unroll)
        return x


class Merger(nnx.Module):
    """Each square of M neighbouring patches becomes one vision token (`PatchMerger` of the original)."""

    def __init__(self, config: Qwen2VisionConfig, width: int, rngs: nnx.Rngs):
        self.patches = config.merge**2
        merged = self.patches * config.width
        self.norm = LayerNorm(config.width, rngs)
        self.up = Projection("bvc,cf->bvf", (merged, merged), ("embed", "mlp"), rngs, bias=(1,))
        self.down = Projection("bvf,fd->bvd", (merged, width), ("mlp", "embed"), rngs, bias=(1,))

    @jax.named_scope("merger")
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, P, C] -> [B, V, D]; patches come in merge order, M of a token behind each other."""
        x = rearrange(self.norm(x), "b (v m) c -> b v (m c)", m=self.patches)
        return self.down(ACTIVATIONS["gelu"](self.up(x)))
