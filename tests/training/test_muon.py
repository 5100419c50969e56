"""Promises of `qwenvl_jax.training.muon`: orthogonal updates for chosen matrices, Adam for the rest."""

import jax
import numpy as np
import optax

from qwenvl_jax.config import OptimizerConfig, ParameterRule
from qwenvl_jax.training.muon import MOMENTUM, orthogonalize, scale_by_muon
from qwenvl_jax.training.optimizer import make_optimizer, resolve


def test_singular_values_become_alike() -> None:
    """Directions stay, lengths spread over two orders of magnitude end within 0.6 and 1.3; tall and wide alike."""
    rng = np.random.default_rng(0)
    for shape in ((12, 30), (30, 12)):
        u, _, vt = np.linalg.svd(rng.normal(size=(2, *shape)), full_matrices=False)
        found = np.asarray(orthogonalize((u * np.geomspace(1, 0.02, 12)) @ vt))
        along = np.einsum("bik,bij,bkj->bk", u, found, vt)
        assert along.min() > 0.6
        assert along.max() < 1.3
        np.testing.assert_allclose((u * along[:, None]) @ vt, found, atol=1e-5)


def test_heads_are_joined_and_momentum_is_nesterovs() -> None:
    """A stack of [d, n, h] kernels moves as its [d, n * h] matrices, each by itself; wide ones farther."""
    rng = np.random.default_rng(1)
    gradients = [rng.normal(size=(2, 4, 3, 5)).astype(np.float32) for _ in range(2)]
    muon = scale_by_muon({"q": "l d n h -> l d (n h)"})
    state = muon.init({"q": gradients[0]})
    for gradient in gradients:
        found, state = muon.update({"q": gradient}, state)
    momentum = MOMENTUM * gradients[0] + gradients[1]
    direction = gradients[1] + MOMENTUM * momentum
    for layer in range(2):
        expected = (15 / 4) ** 0.5 * orthogonalize(direction[layer].reshape(4, 15))
        np.testing.assert_allclose(found["q"][layer].reshape(4, 15), expected, rtol=1e-3, atol=1e-4)


def test_a_kernel_is_several_matrices() -> None:
    """An axis whose name ends with a number has that size: the four parts of a kernel's inputs move by themselves."""
    gradient = np.random.default_rng(3).normal(size=(4 * 3, 5)).astype(np.float32)
    muon = scale_by_muon({"up": "(p4 d) f -> p4 d f"})
    found, _ = muon.update({"up": gradient}, muon.init({"up": np.zeros_like(gradient)}))
    # The first gradient is its own momentum, so Nesterov's direction is a multiple of it.
    expected = (5 / 3) ** 0.5 * orthogonalize(gradient.reshape(4, 3, 5))
    np.testing.assert_allclose(found["up"].reshape(4, 3, 5), expected, rtol=1e-3, atol=1e-4)


def test_the_table_says_who_is_updated_how() -> None:
    """A rule with a pattern gives Muon's update times the rule's rate, one without gives Adam's as before."""
    rng = np.random.default_rng(2)
    parameters = {path: rng.normal(size=(4, 6)).astype(np.float32) for path in ("a/kernel", "a/bias")}
    gradients = {path: rng.normal(size=(4, 6)).astype(np.float32) for path in parameters}
    shapes = {path: jax.ShapeDtypeStruct((4, 6), np.float32) for path in parameters}
    rules = (ParameterRule("a/kernel", learning_rate=5.0, matrix="i o -> i o"), ParameterRule(".*"))
    config = OptimizerConfig(clip_norm=1e9)
    optimizer = make_optimizer(config, lambda n: 0.1, resolve(rules, shapes), shapes)
    updates, _ = optimizer.update(gradients, optimizer.init(parameters), parameters)
    muon = scale_by_muon({"a/kernel": "i o -> i o"})
    expected, _ = muon.update({"a/kernel": gradients["a/kernel"]}, muon.init({"a/kernel": parameters["a/kernel"]}))
    np.testing.assert_allclose(updates["a/kernel"], -0.5 * expected["a/kernel"], rtol=1e-5)
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    expected, _ = adam.update({"a/bias": gradients["a/bias"]}, adam.init({"a/bias": parameters["a/bias"]}))
    np.testing.assert_allclose(updates["a/bias"], -0.1 * expected["a/bias"], rtol=1e-5)
