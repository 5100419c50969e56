"""FLOPs of Pallas kernels, which neither XLA's costs nor a count of matmuls see."""

import math

SPLASH_MATMULS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
"""Kernel name -> matmuls of queries x keys x head size that it runs (the backward kernels compute the scores again)."""


def kernel_flops(name: str, scope: str, shapes: list[tuple[int, ...]]) -> float:
    """FLOPs of one call of splash attention; 0 for kernels that are not known.

    Args:
      name: of the kernel.
      scope: where it was traced; `causal_attention` in it means that blocks above the diagonal are skipped.
      shapes: of its operands; the first two of four dimensions, [B, N, S, H] and [B, K, T, H], are queries and keys.
    """
    matmuls = next((count for known, count in SPLASH_MATMULS.items() if known in name), 0)
    tensors = [shape for shape in shapes if len(shape) == 4]
    if not matmuls or len(tensors) < 2:
        return 0.0
    queries, keys = tensors[:2]
    share = 0.5 if "causal_attention" in scope else 1.0
    return share * matmuls * 2.0 * math.prod(queries) * keys[2]
