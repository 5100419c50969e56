"""AdamW with the parameter table: which parameters are trained, how fast, with how much decay."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qwenvl_jax.config import OptimizerConfig, ParameterRule, Schedule


@dataclass(frozen=True)
class ParameterTable:
    """The rules of a stage, resolved for every parameter.

    Attributes:
      rules: path -> the first rule that matches it.
    """

    rules: dict[str, ParameterRule]

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(path for path, rule in self.rules.items() if not rule.frozen)

    @property
    def frozen(self) -> tuple[str, ...]:
        return tuple(path for path, rule in self.rules.items() if rule.frozen)


def resolve(rules: tuple[ParameterRule, ...], paths: Mapping[str, object]) -> ParameterTable:
    """Finds each parameter's rule.

    Raises:
      ValueError: a parameter that no rule matches, or a rule that matches nothing: both are mistakes in a recipe.
    """
    chosen: dict[str, ParameterRule] = {}
    for path in paths:
        matching = [rule for rule in rules if re.fullmatch(rule.pattern, path)]
        if not matching:
            raise ValueError(f"no rule of the stage's parameter table matches {path!r}; add one (frozen or trained)")
        chosen[path] = matching[0]
    for rule in rules:
        if not any(re.fullmatch(rule.pattern, path) for path in paths):
            raise ValueError(f"the parameter rule {rule.pattern!r} matches no parameter; correct or remove it")
    return ParameterTable(chosen)


def learning_rate_scale(path: str, rule: ParameterRule, shape: tuple[int, ...]) -> np.ndarray | float:
    """The rule's multiplier: a number, or [L, 1, ...] for stacked layers with layer-wise decay."""
    if rule.layer_decay != 1.0 and "/blocks/" in path:
        powers = rule.layer_decay ** (shape[0] - np.arange(shape[0], dtype=np.float32))
        return (rule.learning_rate * powers).reshape(-1, *[1] * (len(shape) - 1)).astype(np.float32)
    return rule.learning_rate * rule.layer_decay**rule.embedding_decay


def learning_rate(schedule: Schedule, steps: int) -> optax.Schedule:
    """Linear from 0 over `warmup` steps to `peak`, cosine to `end` at the last step."""
    return optax.warmup_cosine_decay_schedule(
        0.0, schedule.peak, schedule.warmup, max(steps, schedule.warmup + 1), schedule.end
    )


class ScaleState(NamedTuple):
    """Updates done so far (int32 scalar)."""

    updates: jax.Array


def make_optimizer(
    config: OptimizerConfig,
    schedule: optax.Schedule,
    table: ParameterTable,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> optax.GradientTransformation:
    """Clip by the global norm, Adam, then the table's decoupled weight decay and learning rates."""
    scales = {p: learning_rate_scale(p, table.rules[p], shapes[p].shape) for p in table.trained}

    def update(updates: dict, state: ScaleState, params: dict | None = None) -> tuple[dict, ScaleState]:
        if params is None:
            raise ValueError("weight decay needs the parameters")
        rate = schedule(state.updates)
        new = {p: -rate * scales[p] * (u + table.rules[p].weight_decay * params[p]) for p, u in updates.items()}
        return new, ScaleState(state.updates + 1)

    by_table = optax.GradientTransformation(lambda params: ScaleState(jnp.zeros((), jnp.int32)), update)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        by_table,
    )
