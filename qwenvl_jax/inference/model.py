"""A model with its numbers: `model(batch)` gives logits."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from qwenvl_jax.batch import Batch
from qwenvl_jax.models.parameters import Architecture, Parameters

LARGE = ("kernel", "embedding")
"""Ends of the paths of parameters that every use casts to the compute type."""


@dataclass(frozen=True, eq=False)
class Model:
    """Parameters and the architecture that they belong to; made by `load` or `inference_model`.

    For its parts, or to differentiate it, `model.architecture.assemble(model.parameters)` is the NNX module.
    """

    architecture: Architecture
    parameters: Parameters

    def __call__(self, batch: Batch) -> jax.Array:
        """Logits [B, S, V] of a batch, in the compute type; compiled once per shape."""
        return _logits(self.architecture, self.parameters, batch)


def inference_model(architecture: Architecture, parameters: Parameters, compute: str) -> Model:
    """A model for an architecture that computes in the type `compute`.

    Kernels and the embedding are stored in that type: every step would cast them otherwise, with the same result. Norms
    and positions, which are used in float32, keep their own.
    """
    stored = {path: array.astype(compute) if path.endswith(LARGE) else array for path, array in parameters.items()}
    return Model(architecture, stored)


@partial(jax.jit, static_argnames="architecture")
def _logits(architecture: Architecture, parameters: Parameters, batch: Batch) -> jax.Array:
    logits: jax.Array = architecture.assemble(parameters)(jax.tree.map(jnp.asarray, batch))
    return logits
