"""Promises of `qwenvl_jax.models.parameters`: paths name the arrays that they stand for."""

import numpy as np
from small_model import CONFIG, PRECISION

from qwenvl_jax.models.parameters import initialize


def test_assembled_modules_hold_each_array_under_its_path(architecture) -> None:
    """`language/blocks/q/kernel` ends as `model.language.blocks.q.kernel`, for every parameter."""
    arrays = {p: np.full(s.shape, i, np.float32) for i, (p, s) in enumerate(architecture.shapes.items())}
    model = architecture.assemble(arrays)
    for number, path in enumerate(arrays):
        place = model
        for name in path.split("/"):
            place = getattr(place, name)
        assert (np.asarray(place[...]) == number).all(), path


def test_every_parameter_has_an_axis_per_dimension(architecture) -> None:
    """Sharding rules see every dimension."""
    assert all(len(architecture.axes[p]) == len(s.shape) for p, s in architecture.shapes.items())


def test_initial_parameters_are_a_function_of_the_seed(architecture) -> None:
    """The same seed gives the same bits, another seed other ones, and the shapes are those of the architecture."""
    first, again, other = (initialize(CONFIG, PRECISION, seed) for seed in (0, 0, 1))
    assert {p: a.shape for p, a in first.items()} == {p: s.shape for p, s in architecture.shapes.items()}
    assert all(np.array_equal(first[p], again[p]) for p in first)
    assert not np.array_equal(first["language/embedding"], other["language/embedding"])
