"""Promises of `qwenvl_jax.conversion.pieces`: pieces cover a model once, and turning them is exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_folder import CONFIG, SHAPES, Tensors

from qwenvl_jax.conversion import pieces as module
from qwenvl_jax.conversion.pieces import copy_blocked, parameter_shapes, pieces, run_all, to_ours, to_rows
from qwenvl_jax.conversion.stored_tensor import FLOATS, finite
from qwenvl_jax.models.parameters import layout_of
from qwenvl_jax.models.weights import from_original


@pytest.mark.parametrize("elements", [1 << 24, 5000, 1])
def test_pieces_are_the_model(monkeypatch, tensors: Tensors, elements: int) -> None:
    """However small the pieces are: together they are `from_original`, and back they are the tensors, bit by bit."""
    monkeypatch.setattr(module, "PIECE_ELEMENTS", elements)
    ours = {path: np.zeros(struct.shape, np.float32) for path, struct in parameter_shapes(CONFIG).items()}
    back = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    wanted = from_original(tensors, layout_of(CONFIG))
    count = 0
    for piece in pieces(CONFIG, SHAPES):
        rows = tensors[piece.name][piece.start : piece.start + piece.shape[0]]
        regions = to_ours(piece, rows, CONFIG)
        for path, region in zip(piece.entry.paths, regions):
            ours[path][piece.index] += region
        back[piece.name][piece.start : piece.start + piece.shape[0]] += to_rows(piece, regions, rows.dtype, CONFIG)
        count += 1
    assert all(np.array_equal(ours[path], wanted[path]) for path in wanted)
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)
    assert (count > len(SHAPES)) == (elements < 10_000)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_blocked_copies_are_copies(data) -> None:
    """Any shape, any order of axes on both sides, any step."""
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    order = data.draw(st.permutations(range(len(shape))))
    source = np.random.default_rng(0).normal(size=[shape[i] for i in order]).transpose(np.argsort(order))
    if data.draw(st.booleans()):
        source = source[..., ::-1]
    other = data.draw(st.permutations(range(len(shape))))
    target = np.zeros([shape[i] for i in other]).transpose(np.argsort(other))
    copy_blocked(target, source)
    np.testing.assert_array_equal(target, source)


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=str)
def test_finite(dtype: np.dtype) -> None:
    """Infinities and NaNs of both signs are seen wherever they stand; the largest number is finite."""
    array = np.random.default_rng(0).normal(size=600_000).astype(dtype)
    array[17] = np.array(np.finfo(np.float16).max).astype(dtype)
    assert finite(array.reshape(2, -1))
    for place in (0, 300_000, 599_999):
        for value in (np.inf, -np.inf, np.nan):
            broken = array.copy()
            broken[place] = value
            assert not finite(broken)


def test_the_first_error_ends_the_work() -> None:
    """Errors of the threads come out, and what has not begun is not done."""
    done: list[int] = []

    def work(number: int) -> None:
        if number == 5:
            raise ValueError("five")
        done.append(number)

    with pytest.raises(ValueError, match="five"):
        run_all(work, range(100_000))
    assert len(done) < 100_000
