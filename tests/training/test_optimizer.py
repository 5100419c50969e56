"""Promises of `qwenvl_jax.training.optimizer`: the parameter table, the schedule, AdamW as the paper has it."""

import jax
import numpy as np
import pytest

from configs.qwen_vl import parameter_tables
from qwenvl_jax.config import OptimizerConfig, ParameterRule, Schedule
from qwenvl_jax.training.optimizer import learning_rate, learning_rate_scale, make_optimizer, resolve

PATHS = {"vision/position": 0, "vision/blocks/q/kernel": 0, "language/head/kernel": 0}


def test_a_parameter_without_a_rule_is_refused() -> None:
    """The sentence names the parameter."""
    with pytest.raises(ValueError, match="'language/head/kernel'; add one"):
        resolve((ParameterRule("vision/.*"),), PATHS)


def test_a_rule_that_matches_nothing_is_refused() -> None:
    """The sentence names the pattern; a rule must match whole paths."""
    with pytest.raises(ValueError, match="rule 'head/kernel' matches no parameter"):
        resolve((ParameterRule("head/kernel"), ParameterRule(".*")), PATHS)


def test_the_first_rule_that_matches_decides() -> None:
    """Order is meaning; trained and frozen split the paths."""
    rules = (ParameterRule("vision/blocks/.*", frozen=True), ParameterRule(".*", weight_decay=0.1))
    table = resolve(rules, PATHS)
    assert table.frozen == ("vision/blocks/q/kernel",)
    assert table.trained == ("vision/position", "language/head/kernel")
    assert table.rules["vision/position"].weight_decay == 0.1


@pytest.mark.parametrize(
    "stage, frozen",
    [("pretrain", ("language",)), ("multitask", ()), ("sft", ("vision",))],
)
def test_what_the_stages_of_the_paper_freeze(architecture, stage: str, frozen: tuple[str, ...]) -> None:
    """LLM frozen in stage 1, nothing in 2, ViT frozen in 3; the adapter's sine table never learns."""
    table = resolve(parameter_tables(2, 0.95, 0.05)[stage], architecture.shapes)
    expected = {p for p in architecture.shapes if p.split("/")[0] in frozen} | {"adapter/position"}
    assert set(table.frozen) == expected


def test_layer_wise_decay() -> None:
    """BEiT's rule: layer i of L gets decay ** (L - i), what lies before the layers one power more."""
    rule = ParameterRule(".*", learning_rate=2.0, layer_decay=0.5)
    scale = learning_rate_scale("vision/blocks/q/kernel", rule, (3, 4, 5))
    assert scale.shape == (3, 1, 1)
    np.testing.assert_allclose(scale.ravel(), [0.25, 0.5, 1.0])
    stem = ParameterRule(".*", layer_decay=0.5, embedding_decay=4)
    assert learning_rate_scale("vision/position", stem, (3, 4)) == 0.0625
    assert learning_rate_scale("language/head/kernel", ParameterRule(".*", learning_rate=3.0), (3, 4)) == 3.0


def test_schedule() -> None:
    """0 at the start, the peak behind the warm-up, half way down in the middle, the end at the last step."""
    rate = learning_rate(Schedule(peak=1.0, end=0.1, warmup=10), 110)
    assert [float(rate(n)) for n in (0, 5, 10, 60, 110)] == pytest.approx([0, 0.5, 1, 0.55, 0.1])
    assert float(learning_rate(Schedule(peak=1.0, end=0.1, warmup=0), 5)(0)) == 1
    shorter = learning_rate(Schedule(peak=1.0, end=0.1, warmup=10), 4)
    assert [float(shorter(n)) for n in (0, 4)] == pytest.approx([0, 0.4])


def test_two_updates_are_adamw_by_hand() -> None:
    """Clipping by the global norm, bias-corrected moments, decay and rates of the table, decay not scaled by Adam."""
    rng = np.random.default_rng(0)
    paths = ("vision/blocks/q/kernel", "vision/blocks/q/bias")
    parameters = {p: rng.normal(size=(2, 3)).astype(np.float32) for p in paths}
    rules = (ParameterRule(".*bias", learning_rate=0.5), ParameterRule(".*", layer_decay=0.9, weight_decay=0.05))
    config = OptimizerConfig(b1=0.9, b2=0.98, eps=1e-6, clip_norm=1.0)
    shapes = {p: jax.ShapeDtypeStruct((2, 3), np.float32) for p in paths}
    optimizer = make_optimizer(config, lambda n: 0.1 / (n + 1), resolve(rules, shapes), shapes)
    scales = {paths[0]: np.array([[0.81], [0.9]]), paths[1]: 0.5}
    ours, state = dict(parameters), optimizer.init(parameters)
    theirs = {p: a.astype(np.float64) for p, a in parameters.items()}
    first, second = ({p: np.zeros((2, 3)) for p in paths} for _ in range(2))
    for step in range(2):
        gradients = {p: rng.normal(size=(2, 3)).astype(np.float32) * (10, 0.01)[step] for p in paths}
        updates, state = optimizer.update(gradients, state, ours)
        ours = {p: ours[p] + np.asarray(updates[p]) for p in paths}
        clip = min(1.0, 1.0 / np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values())))
        for p in paths:
            g = gradients[p] * clip
            first[p], second[p] = 0.9 * first[p] + 0.1 * g, 0.98 * second[p] + 0.02 * g**2
            adam = first[p] / (1 - 0.9 ** (step + 1)) / (np.sqrt(second[p] / (1 - 0.98 ** (step + 1))) + 1e-6)
            decay = 0.0 if p.endswith("bias") else 0.05
            theirs[p] = theirs[p] - 0.1 / (step + 1) * scales[p] * (adam + decay * theirs[p])
    for p in paths:
        np.testing.assert_allclose(ours[p], theirs[p], rtol=1e-5, atol=1e-6)
