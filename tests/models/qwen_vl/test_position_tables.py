"""Promises of `qwenvl_jax.models.qwen_vl.positions`."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl_jax.models.qwen_vl.positions import bicubic_matrix, interpolate_positions, sine_positions


def test_bicubic_weights_are_those_of_torch() -> None:
    """16 -> 32 with A = -0.75 and clamped borders: the rows that torch gives."""
    matrix = bicubic_matrix(16, 32)
    np.testing.assert_allclose(matrix[0, :3], [1.1054688, -0.1054688, 0], atol=1e-7)
    np.testing.assert_allclose(matrix[1, :4], [0.7734375, 0.2617188, -0.0351562, 0], atol=1e-7)
    np.testing.assert_array_equal(matrix[8, 2:6], [-0.03515625, 0.26171875, 0.87890625, -0.10546875])
    np.testing.assert_array_equal(matrix[9, 3:7], [-0.10546875, 0.87890625, 0.26171875, -0.03515625])
    np.testing.assert_array_equal(matrix[::-1, ::-1], matrix)


@given(st.integers(2, 8), st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_interpolation_keeps_constants(source: int, target: int) -> None:
    """The weights of every place sum to one, on any two grids."""
    np.testing.assert_allclose(bicubic_matrix(source, target).sum(1), 1, atol=1e-6)


def test_the_stored_grid_is_returned_as_it_is() -> None:
    """224 pixels: no interpolation, and no rounding."""
    table = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    assert interpolate_positions(table, 4) is table


def test_sine_table_encodes_the_column_first() -> None:
    """[sin x | cos x | sin y | cos y] of width / 4 each, tokens row by row."""
    table = sine_positions(16, 4096)
    frequency = 10000 ** (-3 / 1024)
    row, column = 5, 11
    token = table[row * 16 + column]
    expected = [
        np.sin(column * frequency),
        np.cos(column * frequency),
        np.sin(row * frequency),
        np.cos(row * frequency),
    ]
    np.testing.assert_allclose(token[[3, 1027, 2051, 3075]], expected, atol=1e-6)
