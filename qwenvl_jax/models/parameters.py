"""A model's parameters as a flat dictionary: path -> array.

Optimizer tables, sharding rules, checkpoints and conversion all speak of parameters by path, e.g.
`language/blocks/q/kernel`. This module is the only place that turns NNX state into paths and back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from qwenvl_jax.config import ModelConfig, PrecisionConfig, Qwen2VLConfig, QwenVLConfig
from qwenvl_jax.models.flops import Flops
from qwenvl_jax.models.qwen2_vl import flops as qwen2_vl_flops
from qwenvl_jax.models.qwen2_vl import weights as qwen2_vl_weights
from qwenvl_jax.models.qwen2_vl.model import Qwen2VL
from qwenvl_jax.models.qwen_vl import flops as qwen_vl_flops
from qwenvl_jax.models.qwen_vl import weights as qwen_vl_weights
from qwenvl_jax.models.qwen_vl.model import QwenVL
from qwenvl_jax.models.weights import Layout


class Definition(NamedTuple):
    """What a kind of configuration describes; all arguments start with the configuration.

    Attributes:
      model: the module.
      layout: the tensors of the model's original.
      flops: forward FLOPs of a stage's global batch, by part.
    """

    model: Callable[..., nnx.Module]
    layout: Callable[[Any], Layout]
    flops: Callable[..., Flops]


MODELS: dict[type, Definition] = {
    QwenVLConfig: Definition(QwenVL, qwen_vl_weights.layout, qwen_vl_flops.forward_flops),
    Qwen2VLConfig: Definition(Qwen2VL, qwen2_vl_weights.layout, qwen2_vl_flops.forward_flops),
}

Parameters = dict[str, jax.Array]


@dataclass(frozen=True, eq=False)  # compared by identity, so that it can be a static argument of jit
class Architecture:
    """A model without its numbers: what is needed to put parameters back into a module.

    Attributes:
      config: which model it is.
      shapes: path -> ShapeDtypeStruct (float32).
      axes: path -> logical axis names, one per dimension.
    """

    config: ModelConfig
    graphdef: Any
    treedef: Any
    shapes: dict[str, jax.ShapeDtypeStruct]
    axes: dict[str, tuple[str, ...]]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(s.size for s in self.shapes.values())

    def assemble(self, parameters: dict[str, Any]) -> Any:
        """The module that holds these arrays (or tracers)."""
        leaves = [parameters[path] for path in self.shapes]
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, leaves))


def build(config: ModelConfig, precision: PrecisionConfig) -> Architecture:
    """The architecture, from shapes alone: no parameter is allocated."""
    model = MODELS[type(config)].model
    graphdef, state = nnx.split(nnx.eval_shape(lambda: model(config, precision, nnx.Rngs(0))))
    flat = nnx.to_flat_state(state)
    paths = ["/".join(str(key) for key in path) for path, _ in flat]
    leaves, treedef = jax.tree.flatten(state)
    if [leaf.shape for leaf in leaves] != [variable.shape for _, variable in flat]:
        raise AssertionError("NNX flattens state in another order than jax.tree; paths cannot be trusted")
    axes = {path: tuple(variable.axes) for path, (_, variable) in zip(paths, flat)}
    return Architecture(config, graphdef, treedef, dict(zip(paths, leaves)), axes)


def initialize(config: ModelConfig, precision: PrecisionConfig, seed: int) -> Parameters:
    """Random float32 parameters, a pure function of the seed. Jit it with output shardings for large models."""
    model = MODELS[type(config)].model
    _, state = nnx.split(model(config, precision, nnx.Rngs(seed)))
    flat = nnx.to_flat_state(state)
    return {"/".join(str(key) for key in path): jnp.asarray(variable[...]) for path, variable in flat}


def layout_of(config: ModelConfig) -> Layout:
    """Which tensors the model's original has, and which parameters they are."""
    return MODELS[type(config)].layout(config)
