"""Which sample comes when: a pure function of an integer.

Stream position i names a component and how often it was drawn before; that draw names one of its samples
through the component's own order: `GlobalShuffle`, or `data_pipelines.lanes.LaneShuffle` where samples come from more
files than a disk holds. Nothing is read, so every position is reached directly.
"""

import hashlib
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

MAX_PERIOD = 1 << 17
"""Longest exact cycle of components. Tables 2 and 3 of the paper need 7,087 and 768; weights that would need
more are rounded to multiples of 1 / MAX_PERIOD."""
ROUND_KEYS = [np.uint64(number * 0x9E3779B97F4A7C15 % 2**64) for number in range(1, 7)]
"""Of the Feistel network; 4 rounds already make a pseudo-random permutation, small sizes profit from more."""


def mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: a bijection on uint64 whose output bits all depend on all input bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permuted(places: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The place that each place goes to; those of one size and key are a permutation of 0 .. size - 1.

    A Feistel network over the next power of 4, walked until the value lies in range, needs no table at 280 M
    samples.

    Args:
      places: [n] uint64, each below its size.
      sizes: [n] integers from 1.
      keys: [n] uint64.

    Returns:
      [n] uint64.
    """
    sizes = sizes.astype(np.uint64)
    _, bits = np.frexp((sizes - np.uint64(1)).astype(np.float64))  # exact below 2 ** 53
    halves = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    masks = (np.uint64(1) << halves) - np.uint64(1)
    values = places.copy()
    pending = np.arange(len(values))
    while len(pending):
        half, mask, own = halves[pending], masks[pending], keys[pending]
        left, right = values[pending] >> half, values[pending] & mask
        for key in ROUND_KEYS:
            left, right = right, left ^ (mix(right ^ own ^ key) & mask)
        values[pending] = (left << half) | right
        pending = pending[values[pending] >= sizes[pending]]
    return values


def shuffled(draws: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The sample that each draw takes: every run of `size` draws (an epoch) is its own permutation.

    Args:
      draws: [n] integers from 0.
      size: number of samples.
      seed: any integer in [0, 2 ** 64).

    Returns:
      [n] int64 in [0, size).
    """
    epochs, places = np.divmod(np.asarray(draws, np.uint64), np.uint64(size))
    keys = mix(mix(epochs + np.uint64(1)) ^ np.uint64(seed))
    return permuted(places, np.broadcast_to(np.int64(size), places.shape), keys).astype(np.int64)


class Order(Protocol):
    """Which sample of a component each of its draws takes: every run of `len` draws takes each sample once."""

    def __len__(self) -> int: ...

    def samples(self, draws: np.ndarray) -> np.ndarray:
        """[n] int64 in [0, len) for [n] integers from 0."""


@dataclass(frozen=True)
class GlobalShuffle:
    """The order of `shuffled`: any sample may follow any other."""

    size: int
    seed: int

    def __len__(self) -> int:
        return self.size

    def samples(self, draws: np.ndarray) -> np.ndarray:
        """See `Order`."""
        return shuffled(draws, self.size, self.seed)


def seed_for(*names: object) -> int:
    """A seed in [0, 2 ** 64) for what the names identify; unlike seed + 1, seed + 2, ... these never meet."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, names)).encode()).digest()[:8])


def _integer_weights(weights: Sequence[float]) -> list[int]:
    """Weights in proportion, as integers whose sum is the period; exact wherever that is at most
    `MAX_PERIOD`."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    period = math.lcm(*(share.denominator for share in shares))
    if period <= MAX_PERIOD:
        return [int(share * period) for share in shares]
    rounded = [max(1, int(share * MAX_PERIOD)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda c: rounded[c] - shares[c] * MAX_PERIOD)
    for c in by_remainder[: max(0, MAX_PERIOD - sum(rounded))]:
        rounded[c] += 1
    return rounded


def _cycle(weights: Sequence[int]) -> np.ndarray:
    """[sum of weights] components such that each one's count after n draws is within 1 of its share of n.

    Draw k of a component must lie between k / share and (k + 1) / share; taking the earliest deadline first
    keeps all of them (Baruah et al., "Proportionate progress", 1996).
    """
    period = sum(weights)
    waiting = [(0, c, 0) for c in range(len(weights))]
    heapq.heapify(waiting)
    ready: list[tuple[int, int, int]] = []
    cycle = np.empty(period, np.int32)
    for now in range(period):
        while waiting and waiting[0][0] <= now:
            _, c, k = heapq.heappop(waiting)
            heapq.heappush(ready, (-(-(k + 1) * period // weights[c]), c, k))
        _, c, k = heapq.heappop(ready)
        cycle[now] = c
        if k + 1 < weights[c]:
            heapq.heappush(waiting, ((k + 1) * period // weights[c], c, k + 1))
    return cycle


class Mixture:
    """The stream of samples of a stage, or one of several that together read what a single one would. C components."""

    def __init__(self, orders: Sequence[Order], weights: Sequence[float], stream: int = 0, streams: int = 1) -> None:
        """Args: order and share (any scale) of each component; the number of the stream, and of how many.

        Stream g of G takes the draws g, g + G, ... of every component.

        Raises:
          ValueError: a component without samples, or a weight that is not a positive number.
        """
        for c, (order, weight) in enumerate(zip(orders, weights)):
            if len(order) < 1:
                raise ValueError(f"component {c} of the mixture has no samples: leave it out")
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"component {c} of the mixture has weight {weight}: give a positive number")
        self._orders, self._stream, self._streams = list(orders), stream, streams
        self._cycle = _cycle(_integer_weights(weights))
        self._ranks = np.empty(len(self._cycle), np.int64)
        self._counts = np.bincount(self._cycle, minlength=len(self._orders)).astype(np.int64)
        for c, count in enumerate(self._counts):
            self._ranks[self._cycle == c] = np.arange(count)

    def items(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Component and sample number of the stream positions start .. stop - 1, both [stop - start]
        int64."""
        cycles, places = np.divmod(np.arange(start, stop), len(self._cycle))
        components = self._cycle[places].astype(np.int64)
        draws = (cycles * self._counts[components] + self._ranks[places]) * self._streams + self._stream
        samples = np.empty_like(draws)
        for c in np.unique(components):
            chosen = components == c
            samples[chosen] = self._orders[c].samples(draws[chosen])
        return components, samples

    def consumed(self, count: int) -> np.ndarray:
        """[C] int64, how many of the first `count` stream positions each component gives."""
        cycles, rest = divmod(count, len(self._cycle))
        return cycles * self._counts + np.bincount(self._cycle[:rest], minlength=len(self._counts))
