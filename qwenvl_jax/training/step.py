"""The training step: one jitted function per stage.

Trained parameters are float32 masters; frozen ones are stored in the compute type, are no argument of the gradient and
have no optimizer state, so they cost no weight gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qwenvl_jax.batch import Batch
from qwenvl_jax.config import PrecisionConfig, Stage
from qwenvl_jax.models.parameters import Architecture, Parameters
from qwenvl_jax.training.loss import token_losses
from qwenvl_jax.training.patch_loss import patch_losses


class TrainState(NamedTuple):
    """All that a step changes, and the frozen parameters.

    Attributes:
      step: int32 scalar, updates done in this stage.
      trained: path -> float32 master.
      frozen: path -> array in the compute type.
      optimizer: optax state of the trained parameters.
    """

    step: jax.Array
    trained: Parameters
    frozen: Parameters
    optimizer: Any


class Sums(NamedTuple):
    """Sums over the supervised tokens of a batch; [K] per mixture component."""

    loss: jax.Array
    tokens: jax.Array


def batch_loss(
    architecture: Architecture, precision: PrecisionConfig, stage: Stage, parameters: Parameters, batch: Batch
) -> tuple[jax.Array, Sums]:
    """Weighted sum of the losses of a batch (not yet divided by the number of tokens), and the sums per task."""
    tasks = len(stage.mixture)
    model = architecture.assemble(parameters)
    if stage.patch_classes:
        features = model.encode_patches(batch)
        labels = batch.targets.reshape(*features.shape[:2], len(stage.patch_classes))
        losses = patch_losses(features, labels, stage.patch_classes).reshape(batch.targets.shape)
    else:
        hidden = model.hidden(batch)
        with jax.named_scope("loss"):
            losses = token_losses(hidden, model.language.head.kernel[...], batch.targets, precision.loss_chunks)
    weighted = losses * batch.loss_weights
    per_task = jax.nn.one_hot(batch.task_ids, tasks, dtype=jnp.float32)
    sums = Sums(
        loss=jnp.einsum("bs,bsk->k", weighted, per_task),
        tokens=jnp.einsum("bs,bsk->k", batch.loss_weights, per_task),
    )
    return weighted.sum(), sums


def in_compute_type(trained: Parameters, compute: str) -> Parameters:
    """The masters with their kernels cast, once for the whole step.

    A projection casts its kernel anyway, so the forward pass is the same; but cast within the scan over layers, the
    kernel's gradient comes out of it in float32, as twice the bytes with the same digits.
    """
    return {path: x.astype(jnp.dtype(compute)) if path.endswith("/kernel") else x for path, x in trained.items()}


def split_for_accumulation(batch: Batch, slices: int) -> Batch:
    """[B, ...] -> [slices, B / slices, ...]; rows are dealt in turn, so that each slice keeps all data shards busy."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // slices, slices, *x.shape[1:]).swapaxes(0, 1), batch)


def make_step(
    architecture: Architecture,
    precision: PrecisionConfig,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    skip_above: float,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The pure function (state, batch) -> (state, metrics); the caller jits it with shardings and donation.

    The loss is the mean over the supervised tokens of the whole global batch, also under accumulation. A batch without
    supervised tokens gives loss 0 and changes nothing, nor does one whose loss or gradient is not finite, or whose
    gradient's norm is above `skip_above` (0: any is fine): `metrics["skipped"]` is 1 then. Only the optimizer's counters
    go on, as the learning rate belongs to the step.
    """
    tasks = len(stage.mixture)

    def summed_loss(trained: Parameters, frozen: Parameters, batch: Batch) -> tuple[jax.Array, Sums]:
        return batch_loss(architecture, precision, stage, {**trained, **frozen}, batch)

    gradient = jax.grad(summed_loss, has_aux=True)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        parameters = in_compute_type(state.trained, precision.compute)
        if stage.accumulation == 1:
            gradients, sums = gradient(parameters, state.frozen, batch)
        else:

            def add(carry: Any, part: Batch) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, carry, gradient(parameters, state.frozen, part)), None

            nothing = (jax.tree.map(jnp.zeros_like, state.trained), Sums(jnp.zeros(tasks), jnp.zeros(tasks)))
            (gradients, sums), _ = jax.lax.scan(add, nothing, split_for_accumulation(batch, stage.accumulation))
        total = jnp.maximum(sums.tokens.sum(), 1.0)
        loss = sums.loss.sum() / total
        with jax.named_scope("optimizer"):
            gradients = jax.tree.map(lambda g: g.astype(jnp.float32) / total, gradients)
            norm = optax.tree.norm(gradients)
            good = jnp.isfinite(loss) & jnp.isfinite(norm) & (norm <= (skip_above or jnp.inf)) & (sums.tokens.sum() > 0)
            moments = state.optimizer
            if precision.offload_moments:
                moments = jax.device_put(moments, jax.memory.Space.Device)
            updates, optimizer_state = optimizer.update(gradients, moments, state.trained)
            updated = (optax.apply_updates(state.trained, updates), optimizer_state)
            trained, optimizer_state = jax.tree.map(
                lambda new, old: jnp.where(good, new, old) if jnp.issubdtype(new.dtype, jnp.floating) else new,
                updated,
                (state.trained, moments),
            )
        metrics = {
            "loss": loss,
            "task_loss_sums": sums.loss,
            "task_tokens": sums.tokens,
            "grad_norm": norm,
            "skipped": 1.0 - good,
        }
        return TrainState(state.step + 1, trained, state.frozen, optimizer_state), metrics

    return step
