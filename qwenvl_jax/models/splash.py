"""Splash attention, JAX's Pallas kernel for TPUs: scores never leave the chip, blocks that the mask empties are skipped.

Shape legend: B rows, S query positions, T key positions, N heads, H head size.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from qwenvl_jax.parallel.activations import activation_spec

LANES = 128
"""Of a TPU's registers: heads and lengths are multiples of them."""
NOBODY = -1
"""Segment of the positions that fill a length up."""
BLOCK = 512
"""Queries and keys of a block, at most."""


def splash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    causal: bool,
    saved_as: str,
    scale: float,
) -> jax.Array:
    """[B, S, N, H] x [B, T, K, H] -> [B, S, N, H]; K divides N. On a mesh each device computes its own rows and heads.

    Heads of 104 or 80 are padded with zeros to 128. Lengths are padded to multiples of 128 with positions of a segment that
    nothing else has.

    Args:
      saved_as: the checkpoint name of the result and its log-sum-exp, which the backward pass reads.
      scale: of the scores.
    """
    length, size = q.shape[1], q.shape[-1]
    q = (q.astype(jnp.float32) * scale).astype(q.dtype)
    if (length % LANES or k.shape[1] % LANES) and (query_segments is None or key_segments is None):
        query_segments, key_segments = (jnp.zeros(x.shape[:2], jnp.int32) for x in (q, k))
    q, k, v = (jnp.pad(x, ((0, 0), (0, -x.shape[1] % LANES), (0, 0), (0, -size % LANES))) for x in (q, k, v))
    segments: Any = None
    if query_segments is not None and key_segments is not None:
        segments = kernels.SegmentIds(
            *(
                jnp.pad(x, ((0, 0), (0, -x.shape[1] % LANES)), constant_values=NOBODY)
                for x in (query_segments, key_segments)
            )
        )

    def local(q: jax.Array, k: jax.Array, v: jax.Array, segments: Any) -> jax.Array:
        """[B, S, N, H] of one device."""
        kernel: Any = _kernel(q.shape[1], k.shape[1], q.shape[2], causal, saved_as)
        q, k, v = (checkpoint_name(x.swapaxes(1, 2), "attention_input") for x in (q, k, v))
        with jax.named_scope("causal_attention" if causal else "full_attention"):  # how plans know the blocks that run
            return jax.vmap(kernel)(q, k, v, segments).swapaxes(1, 2)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        queries, keys = (activation_spec(("rows", None, "attention_heads", None), x.shape, mesh) for x in (q, k))
        rows = PartitionSpec(queries[0])
        ids = None if segments is None else kernels.SegmentIds(rows, rows)  # type: ignore[arg-type]
        local = jax.shard_map(local, in_specs=(queries, keys, keys, ids), out_specs=queries, check_vma=False)
    return local(q, k, v, segments)[:, :length, :, :size]


def _kernel(queries: int, keys: int, heads: int, causal: bool, saved_as: str) -> kernels.SplashAttentionKernel:
    shape = (queries, keys)
    mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    q, kv = _block(queries), _block(keys)
    sizes = kernels.BlockSizes(
        block_q=q, block_kv=kv, block_kv_compute=kv, block_q_dkv=q, block_kv_dkv=kv, block_kv_dkv_compute=kv,
        block_q_dq=q, block_kv_dq=kv,
    )  # fmt: skip
    return kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        residual_checkpoint_name=saved_as,
    )


def _block(length: int) -> int:
    """The largest multiple of 128 that divides the length and is at most BLOCK."""
    return next(block for block in range(BLOCK, 0, -LANES) if length % block == 0)
