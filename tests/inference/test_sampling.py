"""Promises of `qwenvl_jax.inference.sampling`: the nucleus is the smallest set, draws follow it and their own seed."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl_jax.inference.sampling import Sampling, choose, nucleus

WIDTH = 16
ROUNDING = 1e-6
"""Sums of 16 float32 probabilities may differ by it from exact ones."""

jitted_nucleus = jax.jit(nucleus)


@settings(deadline=None, max_examples=200)
@given(
    logits=st.lists(st.floats(-20, 20, width=32, allow_subnormal=False), min_size=WIDTH, max_size=WIDTH),
    top_p=st.floats(2**-7, 1.0, width=32),
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(logits, top_p) -> None:
    """Law: it holds the likeliest tokens, reaches top_p, and without its least likely ones it would not."""
    kept = np.asarray(jitted_nucleus(jnp.asarray([logits]), jnp.float32(top_p)))[0]
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32))).astype(np.float64)
    assert kept.any()
    least = probabilities[kept].min()
    assert np.array_equal(kept, probabilities >= least)
    assert probabilities[kept].sum() >= top_p - ROUNDING
    assert probabilities[probabilities > least].sum() < top_p + ROUNDING


def test_top_p_one_keeps_every_token_and_a_small_one_the_best() -> None:
    """The ends of the range: nothing is cut, and no more than the most likely token is left."""
    logits = jnp.asarray([[0.0, 1.0, 2.0, 3.0], [5.0, -5.0, 5.0, 0.0]])
    assert jitted_nucleus(logits, jnp.float32(1.0)).all()
    assert jitted_nucleus(logits, jnp.float32(1e-6)).tolist() == [[0, 0, 0, 1], [1, 0, 1, 0]]


def test_draws_follow_the_probabilities_of_the_nucleus() -> None:
    """Frequencies of 4000 draws: those of softmax(logits / temperature) over the nucleus, nothing outside it."""
    draws, temperature = 4000, 2.0
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = jnp.asarray(np.log(probabilities) * temperature, jnp.float32)
    sampling = Sampling(jnp.arange(draws, dtype=jnp.uint32), jnp.float32(temperature), jnp.float32(0.9))
    tokens = np.asarray(jax.jit(choose)(jnp.tile(logits, (draws, 1)), sampling, jnp.int32(3)))
    share = np.bincount(tokens, minlength=4) / draws
    # Four standard deviations of a share of 0.53 among 4000 are 0.032.
    np.testing.assert_allclose(share, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], atol=0.032)
    assert share[3] == 0


def test_a_row_draws_by_its_seed_and_place_alone() -> None:
    """Equal seeds and logits draw equally wherever the row stands; another place in the answer draws anew."""
    logits = jnp.zeros((6, 1000))
    sampling = Sampling(jnp.asarray([1, 2, 1, 3, 2, 1], jnp.uint32), jnp.float32(1), jnp.float32(1))
    first, second = (np.asarray(choose(logits, sampling, jnp.int32(n))) for n in (0, 1))
    assert first[0] == first[2] == first[5]
    assert first[1] == first[4]
    assert len(set(first)) == 3
    assert (first != second).all()
