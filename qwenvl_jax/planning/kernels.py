"""FLOPs of Pallas kernels, which neither XLA's costs nor a count of matmuls see."""

import math

from qwenvl_jax.models.splash import LANES

SPLASH_MATMULS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
"""Kernel name -> matmuls of queries x keys x head size that it runs (the backward kernels compute the scores again)."""
SEGMENT_MATMULS = {"segment_attention_forward": 2, "segment_attention_queries": 3, "segment_attention_keys": 4}
"""The same of the kernels of `models.segment_kernel`."""


def kernel_flops(name: str, scope: str, shapes: list[tuple[int, ...]], pairs: int = 1) -> float:
    """FLOPs of one call of a kernel of attention; 0 for kernels that are not known.

    Args:
      name: of the kernel.
      scope: where it was traced; `causal_attention` in it means that blocks above the diagonal are skipped.
      shapes: of its operands. Of splash attention [B, N, S, H] or [N, S, H] are queries, and keys follow; of attention
        inside segments the first of three dimensions, [N, S, H], is queries, and [T, 1, C] are ids.
      pairs: of blocks that attention inside segments computes.
    """
    if matmuls := next((count for known, count in SEGMENT_MATMULS.items() if known in name), 0):
        of_blocks = [shape for shape in shapes if len(shape) == 3]
        heads, _, size = of_blocks[0]
        block = next(shape[2] for shape in of_blocks if shape[1] == 1 and shape[0] * shape[2] == of_blocks[0][1])
        return matmuls * 2.0 * pairs * block**2 * heads * (size + -size % LANES)  # a register is filled up
    matmuls = next((count for known, count in SPLASH_MATMULS.items() if known in name), 0)
    # Before them stands what says which blocks run, a few numbers in three dimensions; with one row there is no B.
    tensors = [shape for shape in shapes if len(shape) in (3, 4) and not (shape[-1] % LANES or shape[-2] % LANES)]
    if not matmuls or len(tensors) < 2:
        return 0.0
    queries, keys = tensors[:2]
    share = 0.5 if "causal_attention" in scope else 1.0
    return share * matmuls * 2.0 * math.prod(queries) * keys[-2]
