"""Promises of the loss on labels of patches: each kind is a softmax of its own, and only the ViT learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import PRECISION, RESOLUTION, small_stage

from qwenvl_jax.batch import empty_batch
from qwenvl_jax.training.patch_loss import patch_losses
from qwenvl_jax.training.step import batch_loss

CLASSES = (3, 2)


def test_probabilities_of_a_kind_sum_to_one() -> None:
    """Whatever the features, the classes of each kind share one probability of 1."""
    features = np.random.default_rng(0).normal(size=(2, 4, 16)).astype(np.float32)
    for kind, size in enumerate(CLASSES):
        targets = [np.full((2, 4, 2), label) for label in range(size)]
        total = sum(jnp.exp(-patch_losses(features, target * (np.arange(2) == kind), CLASSES)) for target in targets)
        np.testing.assert_allclose(total[..., kind], 1, rtol=1e-5)


@pytest.mark.parametrize("labelled", [1.0, 0.0])
def test_only_the_vision_encoder_gets_a_gradient(architecture, parameters, labelled: float) -> None:
    """Gradients reach the ViT where patches have labels, and nothing anywhere else."""
    stage = small_stage(patch_classes=CLASSES, sequence_length=2 * 9 * len(CLASSES))
    batch = empty_batch(1, stage.sequence_length, 2, RESOLUTION, 0)
    batch.images[:] = np.random.default_rng(1).integers(0, 256, batch.images.shape)
    batch.targets[:] = 1
    batch.loss_weights[:] = labelled
    graded = jax.jit(jax.grad(lambda p: batch_loss(architecture, PRECISION, stage, p, batch), has_aux=True))
    gradients, sums = graded(parameters)
    assert sums.tokens.sum() == labelled * stage.sequence_length
    for path, gradient in gradients.items():
        # A bias of keys moves all scores of a query alike.
        learns = labelled and path.startswith("vision/") and path != "vision/blocks/k/bias"
        assert (np.abs(gradient).max() > 1e-6) == bool(learns), path
