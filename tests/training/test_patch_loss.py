"""Promises of the loss on labels of patches: each kind is a softmax of its own, and only the ViT learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_qwen2_vl
from small_model import PRECISION, RESOLUTION, random_parameters, small_stage

from qwenvl_jax.batch import empty_batch, empty_patch_batch
from qwenvl_jax.models.parameters import build
from qwenvl_jax.processing.patches import Grid
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


def graded(architecture, parameters, stage, batch):
    """Gradients of all parameters, and the sums over the batch."""
    loss = jax.jit(jax.grad(lambda p: batch_loss(architecture, PRECISION, stage, p, batch), has_aux=True))
    return loss(parameters)


def learning(gradients) -> set[str]:
    """Paths whose gradient is not zero."""
    return {path for path, gradient in gradients.items() if np.abs(gradient).max() > 1e-6}


@pytest.mark.parametrize("labelled", [1.0, 0.0])
def test_only_the_vision_encoder_gets_a_gradient(architecture, parameters, labelled: float) -> None:
    """Gradients reach the ViT where patches have labels, and nothing anywhere else."""
    stage = small_stage(patch_classes=CLASSES, sequence_length=2 * 9 * len(CLASSES))
    batch = empty_batch(1, stage.sequence_length, 2, RESOLUTION, 0)
    batch.images[:] = np.random.default_rng(1).integers(0, 256, batch.images.shape)
    batch.targets[:] = 1
    batch.loss_weights[:] = labelled
    gradients, sums = graded(architecture, parameters, stage, batch)
    assert sums.tokens.sum() == labelled * stage.sequence_length
    # A bias of keys moves all scores of a query alike.
    vision = {path for path in gradients if path.startswith("vision/")} - {"vision/blocks/k/bias"}
    assert learning(gradients) == (vision if labelled else set())


def test_only_the_vision_encoder_of_qwen2_vl_gets_a_gradient() -> None:
    """The same where pictures are packed: patches of two grids and padding behind them."""
    grids, patches = (Grid(1, 2, 4), Grid(1, 4, 2)), 24
    rng = np.random.default_rng(1)
    stage = small_stage(patch_classes=CLASSES, sequence_length=patches * len(CLASSES), patches_per_row=patches)
    packed = small_qwen2_vl.pack([[small_qwen2_vl.make_sample(rng, grid) for grid in grids]], 24, patches)
    row = empty_patch_batch(1, stage.sequence_length, patches, small_qwen2_vl.CONFIG.vision.patch_size, 0)
    batch = row._replace(**{name: getattr(packed, name) for name in ("patches", "patch_positions", "patch_segments")})
    batch.targets[:] = 1
    batch.loss_weights[:, : 16 * len(CLASSES)] = 1
    architecture = build(small_qwen2_vl.CONFIG, PRECISION)
    gradients, sums = graded(architecture, random_parameters(architecture), stage, batch)
    assert sums.tokens.sum() == 16 * len(CLASSES)
    assert learning(gradients) == {path for path in gradients if path.startswith("vision/")}
