"""Absolute positions of Qwen-VL: the 2-D sine table, and the interpolation of a stored table to another grid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """[target, source] weights of torch's bicubic interpolation (align_corners=False, no antialiasing, A = -0.75).

    `jax.image.resize` uses A = -0.5 and another edge rule, which would move every position.
    """
    a = -0.75
    matrix = np.zeros((target, source), np.float64)
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            d = abs(centre - tap)
            if d <= 1:
                weight = (a + 2) * d**3 - (a + 3) * d**2 + 1
            else:
                weight = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            matrix[i, min(max(tap, 0), source - 1)] += weight
    return matrix.astype(np.float32)


def interpolate_positions(table: jax.Array, grid: int) -> jax.Array:
    """A [g*g, D] table of positions for a grid x grid image, in float32, back in the table's type (`get_abs_pos`)."""
    stored = int(table.shape[0] ** 0.5)
    if stored == grid:
        return table
    m = jnp.asarray(bicubic_matrix(stored, grid))
    square = table.astype(jnp.float32).reshape(stored, stored, -1)
    wide = jnp.einsum("yi,xj,ijd->yxd", m, m, square, precision=jax.lax.Precision.HIGHEST)
    return wide.reshape(grid * grid, -1).astype(table.dtype)


def sine_positions(grid: int, width: int) -> np.ndarray:
    """[grid * grid, width] MAE-style table, row-major; the first half encodes the column, the second the row."""
    frequencies = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    angles = np.arange(grid)[:, None] * frequencies
    axis = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    columns = np.broadcast_to(axis[None, :], (grid, grid, width // 2))
    rows = np.broadcast_to(axis[:, None], (grid, grid, width // 2))
    return np.concatenate([columns, rows], axis=-1).reshape(grid * grid, width).astype(np.float32)
