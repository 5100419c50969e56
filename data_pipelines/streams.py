"""The rows of a stage from streams that are independent of each other: each part of a batch has its own.

A stream reads its own draws of every component, so its own lanes, and is packed for itself. Where the number of streams
is a multiple of the number of processes, a process plans its own streams alone and reads nothing of the others' shards.
The number is a setting and no property of the machines: the same rows come on any number of processes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from data_pipelines.components import Samples, task_groups
from data_pipelines.lanes import LaneShuffle
from data_pipelines.mixture import GlobalShuffle, Mixture, Order, seed_for
from data_pipelines.packing import FIRST_WINDOW, Item, PackingPlan, WindowStart
from qwenvl_jax.config import DataConfig, Run, Stage


class StreamWindow(NamedTuple):
    """A window of a stream, and the number of its first row among the stream's."""

    stream: int
    window: int
    row: int


@dataclass(frozen=True)
class StreamPlans:
    """Row number -> samples. Picklable.

    Attributes:
      streams: G packing plans; part g of every batch is of stream g.
      rows: B of a batch, a multiple of G.
    """

    streams: tuple[PackingPlan, ...]
    rows: int

    def row(self, number: int) -> tuple[Item, ...]:
        """The samples of row `number` of the stage."""
        stream, row = self.place(number)
        return self.streams[stream].row(row)

    def place(self, number: int) -> tuple[int, int]:
        """The stream of a row of the stage, and its number there."""
        part = self.rows // len(self.streams)
        step, place = divmod(number, self.rows)
        stream, place = divmod(place, part)
        return stream, step * part + place

    def windows(self, numbers: Iterable[int]) -> tuple[StreamWindow, ...]:
        """For each stream that these rows of a batch are of, the window of its first row of the batch."""
        part = self.rows // len(self.streams)
        first = {stream: row - row % part for stream, row in map(self.place, numbers)}
        return tuple(StreamWindow(stream, *self.streams[stream].window_start(row)) for stream, row in first.items())


def plan_rows(
    run: Run, stage: Stage, components: Sequence[Samples], windows: Iterable[StreamWindow] = ()
) -> StreamPlans:
    """The plan of a stage's rows.

    Args:
      windows: where streams may start, from `StreamPlans.windows` of rows before the first one that will be asked for.

    Raises:
      ValueError: the rows cannot be shared equally by the streams, or a number of lanes or of their shards is not positive.
    """
    if min(run.data.lanes, run.data.lane_window) < 1:
        raise ValueError("data.lanes and data.lane-window must be at least 1")
    count = run.data.streams
    if count < 1 or stage.rows % count:
        raise ValueError(f"stage {stage.name}: {stage.rows} rows cannot be shared by {count} streams (data.streams)")
    starts = {known.stream: WindowStart(known.window, known.row) for known in windows}
    orders = [
        order_of(
            samples,
            seed_for(run.data.seed, stage.name, samples.component.task, samples.source.fingerprint),
            run.data,
        )
        for samples in components
    ]
    plans = (
        PackingPlan(
            Mixture(orders, [samples.component.weight for samples in components], stream, count),
            tokens=[samples.tokens for samples in components],
            vision=[samples.vision for samples in components],
            groups=task_groups(components, stage.pack_within_task),
            max_tokens=stage.sequence_length,
            max_vision=stage.vision_per_row,
            window=run.data.window,
            seed=seed_for(run.data.seed, "stream", stream) if stream else run.data.seed,
            start=starts.get(stream, FIRST_WINDOW),
        )
        for stream in range(count)
    )
    return StreamPlans(tuple(plans), stage.rows)


def order_of(samples: Samples, seed: int, data: DataConfig) -> Order:
    """The order in which a component's samples are drawn."""
    if samples.shards is None:
        return GlobalShuffle(len(samples.records), seed)
    # A multiple of the streams, so that a draw's lane and its stream go together.
    return LaneShuffle(samples.shards, seed, data.lanes * data.streams, data.lane_window)
