"""Packed samples do not see each other: in loss and gradients a packed row equals its samples alone."""

import jax
import numpy as np
import pytest
from small_model import PRECISION, SmallSample, pack, random_sample, small_stage

from qwenvl_jax.training.step import batch_loss

LENGTH, IMAGES = 64, 4


@pytest.fixture(scope="module")
def samples() -> list[SmallSample]:
    """Of different lengths, with 1, 0, 2 and 1 pictures; each picture's tokens stand in its own sample."""
    rng = np.random.default_rng(0)
    return [random_sample(rng, images, text) for images, text in ((1, 5), (0, 9), (2, 3), (1, 8))]


@pytest.fixture(scope="module")
def graded(architecture, parameters):
    """rows -> (summed loss, sums per task, gradients); one compiled function for rows of one shape."""
    compiled = jax.jit(
        jax.value_and_grad(lambda p, batch: batch_loss(architecture, PRECISION, small_stage(), p, batch), has_aux=True)
    )

    def run(samples: list[SmallSample]):
        (loss, sums), gradients = compiled(parameters, pack([samples], LENGTH, IMAGES))
        return np.asarray(loss), np.asarray(sums.loss), gradients

    return run


def test_packed_equals_unpacked(samples, graded) -> None:
    """Loss and every gradient of one packed row are the sums over its samples in rows of their own."""
    loss, per_task, gradients = graded(samples)
    alone = [graded([sample]) for sample in samples]
    np.testing.assert_allclose(loss, sum(a[0] for a in alone), rtol=1e-6)
    np.testing.assert_allclose(per_task, [alone[0][0] + alone[2][0], alone[1][0] + alone[3][0]], rtol=1e-6)
    for path, gradient in gradients.items():
        expected = np.sum([a[2][path] for a in alone], axis=0)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5, err_msg=path)
        # A bias of keys moves all scores of a query alike, except where rotary positions turn it.
        assert np.abs(expected).max() > (0 if path in ("vision/blocks/k/bias", "adapter/k/bias") else 1e-3), path


def test_the_order_in_a_row_does_not_matter(samples, graded) -> None:
    """Neither neighbours nor the image slot change a sample's loss."""
    np.testing.assert_allclose(graded(samples)[0], graded(samples[::-1])[0], rtol=1e-6)


def test_a_row_without_supervised_tokens(samples, graded) -> None:
    """Loss and gradients are zero and finite, also where the whole row is padding."""
    masked = samples[0]._replace(loss_weights=np.zeros_like(samples[0].loss_weights))
    for row in ([masked], []):
        loss, per_task, gradients = graded(row)
        assert loss == 0
        assert (per_task == 0).all()
        assert all((np.asarray(g) == 0).all() for g in gradients.values())
