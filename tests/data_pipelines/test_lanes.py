"""The lane shuffle: every sample once an epoch whatever the shards' sizes, few shards at a time, any draw directly."""

import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.lanes import LaneShuffle

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=40).filter(any)


@given(
    sizes=SIZES, seed=st.integers(0, 2**64 - 1), lanes=st.integers(1, 50), window=st.integers(1, 6),
    epoch=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_every_epoch_takes_every_sample_once(sizes, seed, lanes, window, epoch):
    """Also with unequal and empty shards, more lanes than shards or samples; a draw alone is what it is among others."""
    order = LaneShuffle(sizes, seed, lanes, window)
    draws = np.arange(epoch * len(order), (epoch + 1) * len(order))
    taken = order.samples(draws)
    assert sorted(taken) == list(range(sum(sizes)))
    one = int(draws[seed % len(draws)])
    assert pickle.loads(pickle.dumps(order)).samples(np.array([one]))[0] == taken[one - draws[0]]


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=40), lanes=st.integers(1, 6), window=st.integers(1, 4),
    seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_lane_reads_few_shards_at_a_time(sizes, lanes, window, seed):
    """A shard that a lane has left for W others does not come back in it, so a cache of lanes * (W + 1) is enough."""
    order = LaneShuffle(sizes, seed, lanes, window)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    for lane in range(lanes):
        shards = shard_of[order.samples(np.arange(lane, len(order), lanes))]
        runs = [np.flatnonzero(shards == shard) for shard in np.unique(shards)]
        for places in runs:
            between = set(shards[places[0] : places[-1] + 1].tolist())
            assert len(between) <= window


def test_lanes_do_not_turn_together():
    """In the time that one lane needs for a window of 8 shards, new ones are asked for at 8 different times."""
    order = LaneShuffle([100] * 640, 3, 8, 8)
    shards = (order.samples(np.arange(len(order))) // 100).reshape(-1, 8)
    turns = []
    for lane in shards.T:
        seen = [set(lane[start : start + 50].tolist()) for start in range(0, len(lane), 50)]
        turns.append(tuple(n for n in range(1, len(seen)) if not seen[n] & seen[n - 1]))
    assert len({tuple(np.array(turn) // 2 % 8) for turn in turns if turn}) == 8


def test_epochs_seeds_lanes_and_windows_give_other_orders():
    """None of them leaves the order as it was."""
    sizes = [10] * 30
    orders = [LaneShuffle(sizes, *rest) for rest in ((0, 4, 2), (1, 4, 2), (0, 5, 2), (0, 4, 3))]
    taken = [tuple(order.samples(np.arange(300))) for order in orders]
    taken.append(tuple(orders[0].samples(np.arange(300, 600))))
    assert len(set(taken)) == 5


def test_equal_windows_are_shuffled_evenly():
    """Every sample of a shard is equally likely everywhere in its window: mean place of 10 over 2,000 epochs."""
    order = LaneShuffle([10], 5, 1, 1)
    places = np.argsort(order.samples(np.arange(20_000)).reshape(2000, 10), axis=1)
    assert np.abs(places.mean(0) - 4.5).max() < 5 * np.sqrt(99 / 12 / 2000)


def test_epochs_may_be_visited_in_any_order():
    """A draw does not depend on those before it, also where it goes back by several epochs."""
    order = LaneShuffle([5, 9, 1], 5, 2, 2)
    draws = np.random.default_rng(0).permutation(15 * 20)
    assert (
        order.samples(draws) == [LaneShuffle([5, 9, 1], 5, 2, 2).samples(draws[n : n + 1])[0] for n in range(300)]
    ).all()
