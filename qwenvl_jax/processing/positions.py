"""Positions of M-RoPE: time, row and column of every token of a Qwen2-VL sample (paper section 2.1).

Source: `get_rope_index` of transformers' `modeling_qwen2_vl.py`.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from qwenvl_jax.processing.patches import MERGE, Grid

Piece = int | Grid
"""A number of text tokens, or an image or video (its vision tokens alone)."""

ADVANCES: Mapping[str, Callable[[Grid], int]] = {
    # mode: positions that a text behind an image or video is away from its start
    # The paper, the code released with the weights, and transformers up to 5.2: one more than the largest position inside.
    "paper": lambda grid: max(grid.frames, grid.rows // MERGE, grid.columns // MERGE),
    # transformers from 5.6 on leaves time out, so that text overlaps long videos; for comparisons with it alone.
    "hf5": lambda grid: max(grid.rows, grid.columns) // MERGE,
}


def mrope_positions(pieces: Iterable[Piece], mode: str = "paper") -> np.ndarray:
    """[3, S] int32: time, row and column of the S tokens of one sample, from 0.

    Text has the same position on all three axes, counting on; the tokens of an image or video have the place in its grid.
    The next generated token behind text has the last position plus one.
    """
    advance = ADVANCES[mode]
    parts = [np.zeros((3, 0), np.int32)]
    start = 0
    for piece in pieces:
        if isinstance(piece, Grid):
            grid = (piece.frames, piece.rows // MERGE, piece.columns // MERGE)
            parts.append(start + np.indices(grid, np.int32).reshape(3, -1))
            start += advance(piece)
        else:
            parts.append(np.tile(np.arange(start, start + piece, dtype=np.int32), (3, 1)))
            start += piece
    return np.concatenate(parts, axis=1)
