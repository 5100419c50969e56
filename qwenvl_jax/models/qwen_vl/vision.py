"""The vision encoder of Qwen-VL: OpenCLIP's ViT without class token (`visual.py` of the original).

Shape legend: B images, R pixels of a side, g grid side, P = g*g patches, D width, N heads, H head size, F mlp width.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from qwenvl_jax.config import PrecisionConfig, VisionConfig
from qwenvl_jax.models.attention import attention, kernel_head_size
from qwenvl_jax.models.layers import ACTIVATIONS, LayerNorm, Projection, parameter, scan_layers
from qwenvl_jax.models.qwen_vl.positions import interpolate_positions, sine_positions
from qwenvl_jax.parallel.activations import gather_stream


def sine_table(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Positions start as the adapter's sine table at half its size, not as OpenCLIP's noise of d ** -0.5: the adapter adds
    no positions to its values, so where a thing is must come from here. Released weights replace it anyway.
    """
    return 0.5 * jnp.asarray(sine_positions(int(shape[0] ** 0.5), shape[1]), dtype)


class VisionBlock(nnx.Module):
    """All pre-norm blocks of the trunk, stacked; every pixel sees every pixel."""

    def __init__(self, config: VisionConfig, implementation: str, rngs: nnx.Rngs):
        self.implementation, self.head_size = implementation, config.width // config.heads
        d, n, f, layers = config.width, config.heads, config.mlp_width, config.layers
        h = d // n
        inward: dict[str, Any] = {
            "shape": (d, n, h),
            "axes": ("embed", "heads", "head"),
            "bias": (1, 2),
            "layers": layers,
        }
        self.norm_1 = LayerNorm(d, rngs, layers)
        self.q = Projection("bpd,dnh->bpnh", rngs=rngs, **inward)
        self.k = Projection("bpd,dnh->bpnh", rngs=rngs, **inward)
        self.v = Projection("bpd,dnh->bpnh", rngs=rngs, **inward)
        self.out = Projection("bpnh,nhd->bpd", (n, h, d), ("heads", "head", "embed"), rngs, bias=(2,), layers=layers)
        self.norm_2 = LayerNorm(d, rngs, layers)
        self.up = Projection("bpd,df->bpf", (d, f), ("embed", "mlp"), rngs, bias=(1,), layers=layers)
        self.down = Projection("bpf,fd->bpd", (f, d), ("mlp_rows", "embed_out"), rngs, bias=(1,), layers=layers)
        self.activation = config.activation

    def __call__(self, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
        y = gather_stream(self.norm_1(x))
        size = kernel_head_size(self.head_size, self.implementation)
        q, k, v = (projection(y, size) for projection in (self.q, self.k, self.v))
        x = x + self.out(attention(q, k, v, implementation=self.implementation, scale=self.head_size**-0.5))
        x = x + self.down(ACTIVATIONS[self.activation](self.up(gather_stream(self.norm_2(x)))))
        return x, None


class VisionEncoder(nnx.Module):
    """Pixels to one vector per patch."""

    def __init__(self, config: VisionConfig, precision: PrecisionConfig, rngs: nnx.Rngs):
        self.config, self.precision = config, precision
        d, patch = config.width, config.patch
        self.patch_embedding = Projection("bpk,kd->bpd", (patch * patch * 3, d), ("patch", "embed"), rngs)
        self.position = parameter(rngs, sine_table, (config.position_grid**2, d), ("position", "embed"))
        self.norm_pre = LayerNorm(d, rngs)
        self.blocks = VisionBlock(config, precision.attention, rngs)

    @jax.named_scope("vision")
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """[B, R, R, 3] normalised pixels -> [B, P, D]; R must be a multiple of the patch."""
        p = self.config.patch
        grid = pixels.shape[1] // p
        x = pixels.astype(jnp.dtype(self.precision.compute))
        x = self.patch_embedding(rearrange(x, "b (y p) (x q) c -> b (y x) (p q c)", p=p, q=p))
        x = x + interpolate_positions(self.position[...], grid).astype(x.dtype)
        x = self.norm_pre(x)
        x, _ = scan_layers(self.blocks, x, remat=self.precision.remat_of_vision, unroll=self.precision.unroll)
        return x
