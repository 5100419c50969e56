"""Shards of sources elsewhere are fetched before their samples are due: the stream says which come next."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.components import Samples
from data_pipelines.streams import StreamPlans

AHEAD_WINDOWS = 16
"""Windows of the packing that are looked ahead: at 1,024 samples each and 100 samples/s of a process, three minutes. A
lane that turns to a new window of shards asks for all of them within the next few."""


class FetchAhead:
    """Looks ahead in the streams that a process reads. Picklable."""

    def __init__(self, plan: StreamPlans, components: Sequence[Samples]) -> None:
        self._plan, self._components = plan, components
        self._remote = [c for c, samples in enumerate(components) if samples.source.remote is not None]
        self._seen: dict[int, int] = {}

    def __call__(self, rows: Iterable[int]) -> None:
        """Has the shards of these rows' windows and of those behind them fetched, in threads; windows that were looked at
        before are skipped."""
        if not self._remote:
            return
        last: dict[int, int] = {}
        for number in rows:
            stream, row = self._plan.place(number)
            last[stream] = row
        for stream, row in last.items():
            window = self._plan.streams[stream].window_start(row).window
            until = window + AHEAD_WINDOWS
            for ahead in range(max(window, self._seen.get(stream, -1) + 1), until + 1):
                self._fetch(*self._plan.streams[stream].window_samples(ahead))
            self._seen[stream] = until

    def _fetch(self, components: np.ndarray, samples: np.ndarray) -> None:
        for c in self._remote:
            source = self._components[c].source
            records = self._components[c].records[samples[components == c]]
            shards = {bisect_right(source.shard_ends, record): None for record in records.tolist()}
            if source.remote is not None:
                source.remote.fetch_ahead(shards)
