"""The stream of samples: exact shares at every point, every sample once an epoch, any position directly."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.mixture import MAX_PERIOD, GlobalShuffle, Mixture, seed_for, shuffled

TABLE_3 = [19.7, 3.6, 3.5, 8.7, 8.7, 24.8, 7.8]


def global_orders(sizes):
    return [GlobalShuffle(size, seed) for seed, size in enumerate(sizes)]


def test_orders_stay_what_they_were():
    """A run that goes on with a later version reads the samples that the earlier one would have read."""
    digest = hashlib.sha256()
    for size in (1, 2, 3, 5, 16, 17, 1000, 4096, 4097, 10**9):
        for seed in (0, 7, 2**64 - 1):
            digest.update(shuffled(np.arange(3000), size, seed).tobytes())
    orders = [GlobalShuffle(7, 1), GlobalShuffle(1, 2), GlobalShuffle(20_000, 3)]
    for column in Mixture(orders, [3, 1, 2.5]).items(0, 5000):
        digest.update(column.tobytes())
    assert digest.hexdigest() == "99997024b06fa220806840959f118d01fa8b11c8dae2995980e3bdcef4c4f99f"


def test_streams_share_the_draws():
    """G streams together take every draw of every component once, so each epoch is still complete."""
    orders, weights = global_orders([7, 5]), [3, 1]
    taken = [Mixture(orders, weights, stream, 4).items(0, 140) for stream in range(4)]
    for c, size in enumerate((7, 5)):
        samples = np.concatenate([samples[components == c] for components, samples in taken])
        assert (np.bincount(samples) == len(samples) // size).all()
        assert len({tuple(samples[components == c]) for components, samples in taken}) == 4


@given(size=st.integers(1, 300), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_epoch_is_a_permutation(size, seed, epoch):
    """Each run of `size` draws takes every sample once, and positions do not influence each other."""
    draws = np.arange(epoch * size, (epoch + 1) * size)
    taken = shuffled(draws, size, seed)
    assert sorted(taken) == list(range(size))
    assert shuffled(draws[-1:], size, seed) == taken[-1:]


def test_epochs_and_seeds_differ():
    """Neither epochs nor seeds repeat an order, and seed s + 1 is no shifted epoch of seed s."""
    orders = [tuple(shuffled(np.arange(e * 50, e * 50 + 50), 50, s)) for e in range(4) for s in range(4)]
    assert len(set(orders)) == 16
    assert seed_for("a", "b") != seed_for("ab", "")


def test_shuffle_is_spread_evenly():
    """Every sample is equally likely everywhere: mean place of each of 10 samples over 2,000 epochs."""
    places = np.argsort(shuffled(np.arange(20_000), 10, 5).reshape(2000, 10), axis=1)
    assert np.abs(places.mean(0) - 4.5).max() < 5 * np.sqrt(99 / 12 / 2000)


@given(weights=st.lists(st.integers(1, 60), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_counts_stay_within_one_of_the_share(weights):
    """After any number n of draws each component was drawn weight * n times, within 1."""
    components, _ = Mixture(global_orders([5] * len(weights)), weights).items(0, 3 * sum(weights))
    drawn = np.arange(1, len(components) + 1)
    for c, weight in enumerate(weights):
        assert np.abs(np.cumsum(components == c) - drawn * weight / sum(weights)).max() < 1


def test_paper_mixture_is_exact():
    """Decimal weights as in Table 3 are taken exactly, not in floating point."""
    mixture = Mixture(global_orders([10] * 7), TABLE_3)
    assert mixture.consumed(768_000).tolist() == [round(weight * 10_000) for weight in TABLE_3]


def test_odd_weights_are_rounded():
    """Weights with a long period are multiples of 1 / MAX_PERIOD, and none is lost."""
    mixture = Mixture(global_orders([3, 3, 3]), [1 / 3, 1 / 7, 1e-9])
    counts = mixture.consumed(MAX_PERIOD)
    assert counts.sum() == MAX_PERIOD
    assert np.abs(counts / MAX_PERIOD - np.array([0.7, 0.3, 0])).max() < 2 / MAX_PERIOD


def test_stream_is_a_function_of_the_position():
    """Any stretch equals the same stretch of a longer one; `consumed` counts it."""
    mixture = Mixture(global_orders([7, 1, 20]), [3, 1, 2.5])
    components, samples = mixture.items(0, 500)
    part, part_samples = mixture.items(333, 401)
    assert (part == components[333:401]).all()
    assert (part_samples == samples[333:401]).all()
    assert mixture.consumed(401).tolist() == np.bincount(components[:401], minlength=3).tolist()
    third = samples[components == 2]
    assert sorted(third[:20]) == sorted(third[20:40]) == list(range(20))


@pytest.mark.parametrize(
    "sizes, weights, reason",
    [([0], [1.0], "no samples"), ([1], [0.0], "weight 0.0"), ([1], [float("nan")], "weight nan")],
)
def test_impossible_mixture_is_refused(sizes, weights, reason):
    """A component that cannot give its share is said, not skipped."""
    with pytest.raises(ValueError, match=reason):
        Mixture(global_orders(sizes), weights)
