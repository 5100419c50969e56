"""AdamW (or Muon) with the parameter table: which parameters are trained, how fast, with how much decay."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qwenvl_jax.config import OptimizerConfig, ParameterRule, Schedule
from qwenvl_jax.training.muon import scale_by_muon


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
    """Clip by the global norm, Adam or Muon, then the table's decoupled weight decay and learning rates."""
    scales = {p: learning_rate_scale(p, table.rules[p], shapes[p].shape) for p in table.trained}

    def update(updates: dict, state: ScaleState, params: dict | None = None) -> tuple[dict, ScaleState]:
        if params is None:
            raise ValueError("weight decay needs the parameters")
        rate = schedule(state.updates)
        new = {p: -rate * scales[p] * (u + table.rules[p].weight_decay * params[p]) for p, u in updates.items()}
        return new, ScaleState(state.updates + 1)

    by_table = optax.GradientTransformation(lambda params: ScaleState(jnp.zeros((), jnp.int32)), update)
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    patterns = {p: table.rules[p].matrix for p in table.trained if table.rules[p].matrix}
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        by_path(scale_by_muon(patterns), adam, frozenset(patterns)) if patterns else adam,
        by_table,
    )


class SplitState(NamedTuple):
    """The states of the two transformations of `by_path`."""

    chosen: Any
    others: Any


def by_path(
    chosen: optax.GradientTransformation, others: optax.GradientTransformation, paths: frozenset[str]
) -> optax.GradientTransformation:
    """`chosen` for these paths, `others` for all others; neither may need the parameters."""

    def split(tree: dict) -> tuple[dict, dict]:
        return {p: x for p, x in tree.items() if p in paths}, {p: x for p, x in tree.items() if p not in paths}

    def init(params: dict) -> SplitState:
        first, second = split(params)
        return SplitState(chosen.init(first), others.init(second))

    def update(updates: dict, state: SplitState, params: dict | None = None) -> tuple[dict, SplitState]:
        first, second = split(updates)
        first, chosen_state = chosen.update(first, state.chosen)
        second, others_state = others.update(second, state.others)
        return {**first, **second}, SplitState(chosen_state, others_state)

    return optax.GradientTransformation(init, update)
