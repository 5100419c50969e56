"""The components of a stage's mixture: their sources opened, their samples measured, what cannot be used left
out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.lengths import Lengths, measure
from data_pipelines.mapped_arrays import shared
from data_pipelines.sources.opening import open_source
from data_pipelines.sources.shard_cache import ShardCache
from data_pipelines.sources.source import Problem, RecordSource
from data_pipelines.tasks import Task
from qwenvl_jax.config import Component, DataConfig, Stage
from qwenvl_jax.processing.encoders import Encoder

NOT_APPLICABLE = "the task does not apply"
UNREADABLE = "cannot be read"
TOO_LONG = "longer than a row, and shortening its last text is not enough"
TOO_MANY_IMAGES = "more images, or pairs of frames, than a row has room for"
NOTHING_LEARNED = "nothing to learn"


@dataclass(frozen=True)
class Samples:
    """The usable samples of a component in a stage. U samples of N records. Long arrays are mapped from files beside the
    lengths (`mapped_arrays`).

    Attributes:
      component: the line of the mixture.
      source: its records.
      records: [U] int64, the record of each sample.
      tokens: [U] int32, at most the stage's sequence length; a longer sample is cut there, which never falls
        inside or before an image.
      vision: [U] int32, image slots or patches.
      shortened: samples that are cut.
      reduced: images and videos that are shown smaller for want of room in a row.
      left_out: reason to number of records.
      problems: records that cannot be read or encoded, each with file, index and reason.
      shards: [F] int64, samples of each file of the source, where they are shuffled in lanes; None where globally.
    """

    component: Component
    source: RecordSource
    records: np.ndarray
    tokens: np.ndarray
    vision: np.ndarray
    shortened: int
    reduced: int
    left_out: dict[str, int]
    problems: tuple[Problem, ...]
    shards: np.ndarray | None = None


def open_components(stage: Stage, data: DataConfig, tasks: Mapping[str, Task], encoder: Encoder) -> tuple[Samples, ...]:
    """Opens every component of a stage, for a model with these tasks that sees samples in this way.

    Raises:
      ValueError: an unknown task, a source that cannot be opened, or a component without a usable sample.
    """
    if not stage.mixture:
        raise ValueError(f"stage {stage.name} has no mixture: give it at least one component")
    names: dict[str, list[str]] = {}
    for component in stage.mixture:
        if component.task not in tasks:
            raise ValueError(f"stage {stage.name}: there is no task {component.task!r}; tasks are {', '.join(tasks)}")
        names.setdefault(component.source, []).append(component.task)
    sources = {name: open_source(data.root, name, shard_cache(data)) for name in names}
    lengths = {name: measure(sources[name], names[name], tasks, encoder) for name in names}
    opened = tuple(
        select(component, sources[component.source], lengths[component.source][component.task], stage)
        for component in stage.mixture
    )
    for samples in opened:
        _check_share(samples, data.max_bad_share)
    return opened


def _check_share(samples: Samples, max_bad_share: float) -> None:
    """Raises ValueError where more records than the set share are unreadable."""
    bad, entries = len(samples.problems), len(samples.source) + len(samples.source.problems)
    if bad > max_bad_share * entries:
        reasons = Counter(problem.reason for problem in samples.problems).most_common(3)
        why = "; ".join(f"{count} times: {reason}" for reason, count in reasons)
        raise ValueError(
            f"{bad} of {entries} records of {samples.component.source} cannot be used, more than data.max-bad-share "
            f"({max_bad_share:g}) allows ({why})"
        )


def shard_cache(data: DataConfig) -> ShardCache:
    """The cache for files of sources that lie elsewhere."""
    return ShardCache(Path(data.cache).absolute(), data.cache_bytes)


def own_mixture(
    data: DataConfig, name: str, tasks: Mapping[str, Task], encoder: Encoder, fetch_all: bool = False
) -> tuple[Component, ...]:
    """The mixture of a user's own source: every task that applies to it, with its number of samples as weight.

    Args:
      fetch_all: as `measure`.

    Raises:
      ValueError: the source cannot be opened, or no task applies to it.
    """
    source = open_source(data.root, name, shard_cache(data))
    lengths = measure(source, tasks, tasks, encoder, fetch_all)
    counts = {task: int((found.tokens > 0).sum()) for task, found in lengths.items()}
    mixture = tuple(Component(task, name, float(count)) for task, count in counts.items() if count)
    if not mixture:
        raise ValueError(f"{name}: no task applies to any of its {len(source)} records")
    return mixture


def select(component: Component, source: RecordSource, lengths: Lengths, stage: Stage) -> Samples:
    """The samples that fit a row of the stage.

    Raises:
      ValueError: there is none.
    """
    tokens, needed, vision = lengths.tokens, lengths.needed, lengths.vision
    measured = tokens > 0
    learned = measured & (needed <= tokens)
    few_images = learned & (vision <= stage.vision_per_row)
    usable = few_images & (needed <= stage.sequence_length)
    reasons = Counter(
        {
            NOT_APPLICABLE: int((~measured).sum()) - len(lengths.problems),
            UNREADABLE: len(lengths.problems) + len(source.problems),
            NOTHING_LEARNED: int((measured & ~learned).sum()),
            TOO_MANY_IMAGES: int((learned & ~few_images).sum()),
            TOO_LONG: int((few_images & ~usable).sum()),
        }
    )
    left_out = {reason: count for reason, count in reasons.items() if count}
    records = np.flatnonzero(usable)
    if not len(records):
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(
            f"stage {stage.name}: {component.source} has no usable sample for task {component.task} "
            f"({len(source)} records: {why})"
        )
    kept = f"samples-{lengths.identity}-{stage.sequence_length}-{stage.vision_per_row}"

    def mapped(column: str, values: np.ndarray) -> np.ndarray:
        return shared(values, Path(source.cache_folder) / f"{kept}-{column}.npy")

    return Samples(
        component=component,
        source=source,
        records=mapped("records", records),
        tokens=mapped("tokens", np.minimum(tokens[records], stage.sequence_length)),
        vision=mapped("vision", vision[records]),
        shortened=int((tokens[records] > stage.sequence_length).sum()),
        reduced=int(lengths.reduced[records].sum()),
        left_out=left_out,
        problems=(*source.problems, *lengths.problems),
        shards=shards_of(component, source, records),
    )


def shards_of(component: Component, source: RecordSource, records: np.ndarray) -> np.ndarray | None:
    """[F] int64, how many of the records (ascending) each file of the source has; None for a global shuffle."""
    if not component.lanes and source.remote is None:
        return None
    return np.diff(np.searchsorted(records, source.shard_ends), prepend=0)


def task_groups(components: Sequence[Samples], within_task: bool) -> list[int]:
    """[C] numbers: components with the same number may share a row."""
    names = [samples.component.task if within_task else "" for samples in components]
    return [names.index(name) for name in names]
