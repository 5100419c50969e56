"""From planned samples to the arrays of rows: read, encode, decode the pictures, write into the row."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from data_pipelines.components import Samples
from data_pipelines.lengths import record_sizes
from data_pipelines.packing import Item
from data_pipelines.reading import HungRead, Wanted, read_ahead, read_record
from data_pipelines.sources.source import LostShard, Problem, RecordError
from data_pipelines.tasks import Task
from qwenvl_jax.batch import Batch, NewArray, row_of
from qwenvl_jax.processing.encoders import Encoded, Encoder

REPLACEMENT_STRIDE = 7919
"""A sample that cannot be read is replaced by the one this many places further, and so on. A prime, so that
the search meets all samples of a component whose number of samples is no multiple of it."""
SHARD_TRIES = 20
"""Where samples are shuffled in lanes, candidates of the same shard that are looked at before those of others, which may
have to be fetched first."""
REPLACEMENT_TRIES = 200
"""Candidates that are looked at (most are too long and cost nothing) before the place stays empty."""

HUNG_READS = 2
"""Reads of a sample and its replacements that may hang, or whose shards cannot be fetched, before the place stays empty:
then the storage is gone, and looking further only waits longer."""


class RowInfo(NamedTuple):
    """What a row holds, for logs and checkpoints.

    Attributes:
      identity: 64 bits of SHA-256 over (component, record) of its samples in order.
      samples: samples in the row.
      tokens: positions that are no padding.
      vision: image slots or patches in use.
      replaced: samples that could not be read and were replaced.
      dropped: samples that could not be read and for which no replacement fitted.
      problems: records that could not be read, each with file, index and reason.
      records: component and record of its samples in order.
    """

    identity: int
    samples: int
    tokens: int
    vision: int
    replaced: int
    dropped: int
    problems: tuple[Problem, ...]
    records: tuple[tuple[int, int], ...]


class Loaded(NamedTuple):
    """A sample ready for its row: its ids, what the model sees of its pictures, and the record that it comes from."""

    encoded: Encoded
    pixels: Any
    record: int


@dataclass(frozen=True)
class RowMaker:
    """Makes the rows of a stage. Picklable.

    Attributes:
      tasks: of the model.
      encoder: how the model sees their samples.
      vision_per_row: image slots or patches.
    """

    components: Sequence[Samples]
    tasks: Mapping[str, Task]
    encoder: Encoder
    sequence_length: int
    vision_per_row: int

    def make_rows(
        self, rows: Sequence[Sequence[Item]], new: NewArray = np.zeros, following: Sequence[Item] = ()
    ) -> tuple[Batch, list[RowInfo]]:
        """A host batch of B = len(rows) rows, and what each of them holds; `new` as `empty_batch`. Records of the row that
        `following` batch begins with are read meanwhile."""
        batch = self.encoder.empty(len(rows), self.sequence_length, self.vision_per_row, new)
        return batch, write_rows(batch, rows, following, self._write_row, self.encoder)

    def _write_row(self, row: Batch, items: Sequence[Item], following: Sequence[Item]) -> RowInfo:
        return write_row(row, items, following, self.components, self._load, self._place)

    def _place(self, row: Batch, loaded: Loaded, start: int, vision: int) -> tuple[int, int]:
        self.encoder.place(row, start, vision, loaded.encoded, loaded.pixels)
        return len(loaded.encoded.tokens), loaded.encoded.vision

    def _load(self, samples: Samples, sample: int) -> Loaded:
        """Raises ValueError where the record, its sample or a picture cannot be read."""
        number = int(samples.records[sample])
        record = read_record(samples.source, number)
        made = self.tasks[samples.component.task](record)
        if made is None:
            raise ValueError("the task does not apply")
        encoded = self.encoder.encode(made, record_sizes(record))
        planned = int(samples.tokens[sample])
        if len(encoded.tokens) < planned or encoded.vision != samples.vision[sample]:
            raise ValueError("the record is not the one that was measured")
        return Loaded(encoded.cut(planned), self.encoder.pixels(made, encoded), number)


class FromRecord(Protocol):
    """What a row takes: it knows the number of the record that it comes from."""

    @property
    def record(self) -> int: ...


T = TypeVar("T", bound=FromRecord)


def write_rows(
    batch: Batch,
    rows: Sequence[Sequence[Item]],
    following: Sequence[Item],
    write: Callable[[Batch, Sequence[Item], Sequence[Item]], RowInfo],
    encoder: Encoder,
) -> list[RowInfo]:
    """Writes the rows of a batch, each with `write`, which is told the samples of the next row too; then clears what has
    no picture."""
    infos = []
    for b, (items, after) in enumerate(zip(rows, [*rows[1:], following])):
        row = row_of(batch, b)
        infos.append(write(row, items, after))
        encoder.clear(row, infos[-1].vision)
    return infos


def write_row(
    row: Batch,
    items: Sequence[Item],
    following: Sequence[Item],
    components: Sequence[Samples],
    load: Callable[[Samples, int], T],
    place: Callable[[Batch, T, int, int], tuple[int, int]],
) -> RowInfo:
    """Writes samples behind each other into the views of one row, each with a segment id of its own.

    Args:
      following: the samples of the row that is made next; their records are read meanwhile.
      load: a component's sample by its number; raises ValueError where its record cannot be used.
      place: (row, sample, start, vision) writes a sample from token `start` and image slot or patch `vision` on; gives how
        many of both it took.
    """
    start = vision = replaced = dropped = 0
    problems: list[Problem] = []
    records: list[tuple[int, int]] = []
    read_ahead(_wanted(items, components), _wanted(following, components))
    for item in items:
        samples = components[item.component]
        loaded, failed = _load_or_replace(samples, item, partial(load, samples))
        problems += failed
        replaced += loaded is not None and len(failed) > 0
        if loaded is None:
            dropped += 1
            continue
        records.append((item.component, loaded.record))
        tokens, seen = place(row, loaded, start, vision)
        row.segment_ids[start : start + tokens] = len(records)
        row.task_ids[start : start + tokens] = item.component
        start, vision = start + tokens, vision + seen
    identity = hashlib.sha256("".join(f"{component}:{record};" for component, record in records).encode()).digest()[:8]
    return RowInfo(
        int.from_bytes(identity), len(records), start, vision, replaced, dropped, tuple(problems), tuple(records)
    )


def _wanted(items: Sequence[Item], components: Sequence[Samples]) -> Iterator[Wanted]:
    for item in items:
        samples = components[item.component]
        yield samples.source, int(samples.records[item.sample])


def _load_or_replace(samples: Samples, item: Item, load: Callable[[int], T]) -> tuple[T | None, list[Problem]]:
    """The item's sample, or the first readable one on the way of `REPLACEMENT_STRIDE` that is no larger (None where there
    is none); and what could not be read.

    Args:
      load: of a sample's number; raises ValueError where its record cannot be used.
    """
    problems: list[Problem] = []
    hung = 0
    lost: set[int] = set()
    for sample in _candidates(samples, item.sample):
        shard = bisect_right(samples.source.shard_ends, int(samples.records[sample]))
        if shard in lost:
            continue
        try:
            return load(sample), problems
        except RecordError as error:
            problems.append(Problem(error.file, error.index, error.reason))
            hung += isinstance(error, (HungRead, LostShard))
            lost |= {shard} if isinstance(error, LostShard) else set()
        except ValueError as error:
            problems.append(Problem(samples.source.name, int(samples.records[sample]), str(error)))
        if hung >= HUNG_READS:
            break
    return None, problems


def _candidates(samples: Samples, first: int) -> Iterator[int]:
    yield first
    places = (first + step * REPLACEMENT_STRIDE for step in range(1, REPLACEMENT_TRIES))
    for place in chain(_same_shard(samples, first), places):
        sample = place % len(samples.records)
        if samples.tokens[sample] <= samples.tokens[first] and samples.vision[sample] <= samples.vision[first]:
            yield sample


def _same_shard(samples: Samples, first: int) -> Iterable[int]:
    if samples.shards is None:
        return ()
    ends = np.cumsum(samples.shards)
    shard = int(np.searchsorted(ends, first, "right"))
    begin, size = int(ends[shard] - samples.shards[shard]), int(samples.shards[shard])
    return (begin + (first - begin + step) % size for step in range(1, min(size, 1 + SHARD_TRIES)))
