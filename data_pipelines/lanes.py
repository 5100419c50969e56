"""The order of a component whose shards do not fit on a local disk: few of them are in use at a time.

Every epoch puts the shards into an order of its own and lays their samples end to end. This line is cut into L lanes of
equal length (within one sample, so through the middle of shards), which are read in turn: draw t of an epoch takes
place t // L of lane t % L. In a lane, samples are shuffled within windows of W shards. Lanes begin at different places of
a window, so that they do not all need new shards at once.

So every epoch takes every sample once, whatever the sizes of the shards, and L * (W + 1) shards at most are in use. The
idea is that of canonical nodes in MosaicML's StreamingDataset. An order is a function of (sizes of the shards, seed, L,
W, draw): neither processes nor workers enter it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.mixture import mix, permuted, shuffled

KEPT_EPOCHS = 2
"""Orders of shards that stay in memory: around the end of an epoch, streams are in two of them."""


class _Epoch(NamedTuple):
    """The line of an epoch. F shards: [F] their numbers in order, and [F] samples up to and with each."""

    shards: np.ndarray
    ends: np.ndarray


class LaneShuffle:
    """An order (see `data_pipelines.mixture.Order`) that goes through the shards window by window. Picklable.

    1.4 G samples in 171,000 shards, 1,024 lanes: 1.5 microseconds of CPU a draw in calls of 1,024, and 0.03 s once an
    epoch (`python -m launch.benchmarks.full_size`, two x86 cores that did other work at the same time).
    """

    def __init__(self, sizes: Sequence[int] | np.ndarray, seed: int, lanes: int, window: int) -> None:
        """Args:
        sizes: [F] samples of each shard, 0 allowed.
        seed: any integer in [0, 2 ** 64).
        lanes: L, from 1.
        window: W shards, from 1.
        """
        self._sizes = np.asarray(sizes, np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._filled = np.flatnonzero(self._sizes)
        self._total = int(self._sizes.sum())
        self._seed, self._lanes, self._window = seed, lanes, window
        self._epochs: dict[int, _Epoch] = {}

    def __len__(self) -> int:
        return self._total

    def samples(self, draws: np.ndarray) -> np.ndarray:
        """The sample that each draw takes; samples are numbered through the shards in their own order.

        Args:
          draws: [n] integers from 0.

        Returns:
          [n] int64 in [0, len).
        """
        epochs, places = np.divmod(np.asarray(draws, np.int64), self._total)
        taken = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            taken[chosen] = self._of_epoch(epoch, places[chosen])
        return taken

    def _of_epoch(self, epoch: int, places: np.ndarray) -> np.ndarray:
        shards, ends = self._epoch(epoch)
        length, longer = divmod(self._total, self._lanes)  # the first `longer` lanes have one sample more
        inside, lane = np.divmod(places, self._lanes)
        begin = lane * length + np.minimum(lane, longer)
        end = begin + length + (lane < longer)
        on_line = begin + inside

        first = np.searchsorted(ends, begin, "right")  # the lane's first shard
        phase = lane * self._window // self._lanes
        window = (np.searchsorted(ends, on_line, "right") - first + phase) // self._window
        low = np.maximum(first, first - phase + window * self._window)
        high = np.minimum(first - phase + (window + 1) * self._window, len(ends))
        start = np.maximum(begin, np.where(low > 0, ends[low - 1], 0))
        stop = np.minimum(end, ends[high - 1])

        keys = mix(mix(lane.astype(np.uint64) + mix(window.astype(np.uint64))) ^ self._key(epoch))
        moved = start + permuted((on_line - start).astype(np.uint64), stop - start, keys).astype(np.int64)
        rank = np.searchsorted(ends, moved, "right")
        shard = shards[rank]
        return self._starts[shard] + moved - (ends[rank] - self._sizes[shard])

    def _key(self, epoch: int) -> np.uint64:
        key: np.uint64 = mix(mix(np.asarray([epoch + 1], np.uint64)) ^ np.uint64(self._seed))[0]
        return key

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._epochs.get(epoch)
        if found is None:
            count = len(self._filled)
            shards = self._filled[shuffled(np.arange(epoch * count, (epoch + 1) * count), count, self._seed)]
            found = _Epoch(shards, np.cumsum(self._sizes[shards]))
            kept = [*self._epochs.items()][1 - KEPT_EPOCHS :]
            self._epochs = dict([*kept, (epoch, found)])  # replaced, not changed: another thread may be reading it
        return found
