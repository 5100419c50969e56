"""Packed samples of Qwen2-VL do not see each other: in loss and gradients a packed row equals its samples alone."""

from functools import partial

import jax
import numpy as np
import pytest
from small_model import small_stage
from small_qwen2_vl import PRECISION, SmallSample, make_sample, pack

from qwenvl_jax.models import segment_attention
from qwenvl_jax.processing.patches import Grid
from qwenvl_jax.training.step import batch_loss

LENGTH, PATCHES = 96, 128


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    """The row's patches are eight blocks of the vision tower's attention."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_attention, "SHORT", 0)
        patch.setattr(segment_attention, "BLOCK", 16)
        yield


@pytest.fixture(scope="module")
def samples() -> list[SmallSample]:
    """With an image, text alone, a video, and an image and a video."""
    rng = np.random.default_rng(1)
    pieces = ((2, Grid(1, 4, 6), 5), (9,), (1, Grid(3, 2, 4), 6), (Grid(1, 2, 2), 3, Grid(2, 4, 2), 4))
    return [make_sample(rng, *piece) for piece in pieces]


@pytest.fixture(scope="module")
def graded(qwen2_architecture, qwen2_parameters):
    """rows -> (summed loss, gradients); one compiled function for rows of one shape."""
    compiled = jax.jit(
        jax.value_and_grad(partial(batch_loss, qwen2_architecture, PRECISION, small_stage()), has_aux=True)
    )

    def run(samples: list[SmallSample]):
        (loss, _), gradients = compiled(qwen2_parameters, pack([samples], LENGTH, PATCHES))
        return np.asarray(loss), gradients

    return run


def test_packed_equals_unpacked(samples, graded, table) -> None:
    """Loss and every gradient of one packed row are the sums over its samples in rows of their own."""
    loss, gradients = graded(samples)
    alone = [graded([sample]) for sample in samples]
    table.compare("loss of a packed row against its samples", loss, sum(a[0] for a in alone), 1e-6, relative=True)
    for path, gradient in gradients.items():
        expected = np.sum([a[1][path] for a in alone], axis=0)
        assert np.abs(expected).max() > 1e-5, path
        table.compare("gradients of a packed row", gradient, expected, 1e-5, relative=True)


def test_the_order_in_a_row_does_not_matter(samples, graded) -> None:
    """Neither neighbours nor the place of the patches change a sample's loss."""
    np.testing.assert_allclose(graded(samples)[0], graded(samples[::-1])[0], rtol=1e-6)


def test_text_alone_gives_the_vision_tower_no_gradient(samples, graded) -> None:
    """A row of padded patches is finite, and exactly zero for vision tower and merger."""
    loss, gradients = graded(samples[1:2])
    assert np.isfinite(loss)
    assert loss > 0
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        assert (np.asarray(gradient) == 0).all() == path.startswith(("vision/", "merger/")), path


def test_empty_row(graded) -> None:
    """Loss and gradients of a row of padding are zero."""
    loss, gradients = graded([])
    assert loss == 0
    assert all((np.asarray(gradient) == 0).all() for gradient in gradients.values())
