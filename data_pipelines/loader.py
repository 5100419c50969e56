"""The batches of a stage: batch number t is a pure function of (data, seed, t), so the step is the whole
state.

Every process makes the rows that its devices hold; together they are the same global batch for every number of
processes, and worker processes change nothing either.
"""

import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from data_pipelines.components import Samples, open_components
from data_pipelines.fetching import FetchAhead
from data_pipelines.identity import data_identity
from data_pipelines.packing import Efficiency, Item
from data_pipelines.patch_rows import PatchRowMaker, open_pictures
from data_pipelines.rows import RowMaker
from data_pipelines.shared_blocks import SharedBlocks
from data_pipelines.sources.source import Problem
from data_pipelines.streams import StreamPlans, StreamWindow, plan_rows
from data_pipelines.tasks import tasks_of
from qwenvl_jax.batch import Batch, OwnRows, joined_fingerprint
from qwenvl_jax.config import Run, Stage
from qwenvl_jax.processing.encoders import stage_encoder
from qwenvl_jax.processing.images import keep_memory

PIPED_BYTES = 1 << 20
"""Arrays of worker processes that are smaller go through a pipe: seven of 24 KB took 1.7 ms in new shared memory."""
READ_AHEAD = 2
"""Batches that wait, ready, for the training step (of each worker process, where there are several)."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of `mallopt(3)`."""
KEPT_ARRAY, KEPT_MEMORY = 32 << 20, 256 << 20
"""Bytes of an array, and of all that is free, up to which a worker process keeps them for the next picture. Without, it took
66 new pages for each sample (`/proc/PID/stat`, `launch.benchmarks.loader_contenders`, stage 2)."""
LEAST_SAMPLES = 100
"""Samples from which on the share of unreadable ones is judged."""
DESCRIBED_WINDOWS = 4
"""Windows that the predicted efficiency is averaged over."""


class BatchInfo(NamedTuple):
    """What the rows of a batch hold that this process counts.

    Attributes:
      fingerprint: 16 hexadecimal digits over the records in the rows; the order of the rows does not matter.
      samples: samples in the rows.
      tokens: positions that are no padding.
      token_efficiency: share of the positions that are no padding.
      vision_efficiency: share of the image slots or patches that are in use.
      replaced: samples that could not be read and were replaced.
      dropped: samples that could not be read and for which nothing fitted.
      problems: records that could not be read, each with file, index and reason.
      records: component and record of every sample.
      windows: of the streams that these rows are of, that their first rows of the batch are in.
    """

    fingerprint: str
    samples: int
    tokens: int
    token_efficiency: float
    vision_efficiency: float
    replaced: int
    dropped: int
    problems: tuple[Problem, ...]
    records: tuple[tuple[int, int], ...]
    windows: tuple[StreamWindow, ...]


def _start_worker(number: int, workers: int) -> None:
    """First in every worker process."""
    keep_memory()
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Has glibc keep what a picture leaves free, which it otherwise gives back to the system; other C libraries stay as they
    are. Not in the training process, whose arrays are larger and whose start decides this (`launch/quickstart.sh`)."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, KEPT_ARRAY)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY)


class StepBatches:
    """Random access to the batches of a stage: number t is what step t trains on."""

    def __init__(
        self,
        maker: RowMaker | PatchRowMaker,
        plan: StreamPlans,
        stage: Stage,
        own: OwnRows,
        workers: int,
        blocks: SharedBlocks | None,
    ) -> None:
        """`workers` processes make batches in turn, into `blocks`; None where they stay in the process."""
        self._maker, self._plan, self._steps, self._own, self._blocks = maker, plan, stage.steps, own, blocks
        self._stride = max(workers, 1)
        self._fetch_ahead = FetchAhead(plan, maker.components)

    def __len__(self) -> int:
        return self._steps

    def planned(self, step: int) -> list[tuple[Item, ...]]:
        """The samples of this process's rows of a batch; later ones are planned faster."""
        return [self._plan.row(number) for number in self._numbers(step)]

    def _following(self, step: int) -> tuple[Item, ...]:
        """The first row of the batch that this process makes next."""
        following = step + self._stride
        return self._plan.row(self._numbers(following)[0]) if following < self._steps else ()

    def _numbers(self, step: int) -> list[int]:
        return [step * self._plan.rows + place for place in self._own.made]

    def __getitem__(self, step: int) -> tuple[Batch, BatchInfo]:
        self._fetch_ahead(self._numbers(step))
        new = np.zeros if self._blocks is None else self._blocks.new
        batch, all_rows = self._maker.make_rows(self.planned(step), new, self._following(step))
        if self._blocks is not None:
            batch = Batch(*(None if field is None else self._blocks.hand_over(field) for field in batch))
        rows = [row for place, row in zip(self._own.made, all_rows) if place in self._own.counted]
        tokens, vision = sum(row.tokens for row in rows), sum(row.vision for row in rows)
        room = max(1, len(rows))
        return batch, BatchInfo(
            fingerprint=joined_fingerprint(f"{row.identity:x}" for row in rows),
            samples=sum(row.samples for row in rows),
            tokens=tokens,
            token_efficiency=tokens / (room * self._maker.sequence_length),
            vision_efficiency=vision / (room * max(1, self._maker.vision_per_row)),
            replaced=sum(row.replaced for row in rows),
            dropped=sum(row.dropped for row in rows),
            problems=tuple(problem for row in rows for problem in row.problems),
            records=tuple(record for row in rows for record in row.records),
            windows=self._plan.windows(self._numbers(step)),
        )


class StageLoader:
    """Iterator over (batch, info) of a stage's steps, read ahead in a thread or in worker processes.

    Attributes:
      step: the next batch's number; all that a checkpoint needs.
      identity: everything that decides which samples a step reads, by name (see `data_pipelines.identity`).
      components: the usable samples, and what was left out.
      plan: the rows' samples.
    """

    def __init__(
        self,
        batches: StepBatches,
        components: Sequence[Samples],
        plan: StreamPlans,
        identity: Mapping[str, str],
        start_step: int,
        workers: int,
        blocks: SharedBlocks | None,
        max_bad_share: float,
    ) -> None:
        """Use `open_loader`."""
        self._samples, self._bad, self._max_bad_share, self._blocks = 0, 0, max_bad_share, blocks
        self.components, self.plan, self.identity, self.step = components, plan, identity, start_step
        # A worker process makes one batch after the other: a thread of it would only take turns with the rest of it.
        ahead = grain.ReadOptions(num_threads=0 if workers else 1, prefetch_buffer_size=READ_AHEAD)
        dataset = grain.MapDataset.source(batches)[start_step:].to_iter_dataset(ahead)
        if workers:
            # grain 0.2.18 reads absl flags when it starts processes and fails where no absl app parsed them.
            flags.FLAGS.mark_as_parsed()
            options = grain.experimental.DatasetOptions(min_shm_size=PIPED_BYTES)
            dataset = grain.experimental.WithOptionsIterDataset(dataset, options)
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(workers, READ_AHEAD), _start_worker)
        else:
            keep_memory()
        self._iterator = iter(dataset)

    def __iter__(self) -> Iterator[tuple[Batch, BatchInfo]]:
        return self

    def __next__(self) -> tuple[Batch, BatchInfo]:
        """Raises ValueError where more than the set share of the samples could not be read."""
        batch, info = next(self._iterator)
        self.step += 1
        self._samples += info.samples + info.dropped
        self._bad += info.replaced + info.dropped
        if self._bad > self._max_bad_share * max(self._samples, LEAST_SAMPLES):
            last = info.problems[-1]
            raise ValueError(
                f"{self._bad} of {self._samples} samples could not be read, more than data.max-bad-share "
                f"({self._max_bad_share:g}) allows; the last one: {last.file}, record {last.index}: {last.reason}"
            )
        return batch, info

    def close(self) -> None:
        """Ends threads and worker processes."""
        self._iterator.close()
        if self._blocks is not None:
            self._blocks.close()

    def __enter__(self) -> "StageLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_loader(
    run: Run, stage: Stage, start_step: int = 0, windows: Iterable[StreamWindow] = (), own: OwnRows | None = None
) -> StageLoader:
    """The batches of a stage from step `start_step` on.

    Args:
      run: names the data, the vocabulary and the model, which decides how samples are seen.
      stage: one of its stages.
      start_step: number of the first batch, in [0, stage.steps].
      windows: `BatchInfo.windows` of an earlier batch, of all processes; those of a stream that is not among them are packed
        again, from the first to that of the first batch.
      own: the rows of a batch that this process makes; all by default.

    Raises:
      ValueError: the data cannot be used (see `open_components`).
    """
    encoder, tasks = stage_encoder(run.model, stage, run.data.tokenizer), tasks_of(run.model)
    maker: RowMaker | PatchRowMaker
    room = (stage.sequence_length, stage.vision_per_row)
    if stage.patch_classes:
        grid = stage.resolution // run.model.vision.patch
        components = open_pictures(stage, run.data, encoder, grid)
        maker = PatchRowMaker(components, encoder, *room, grid)
    else:
        components = open_components(stage, run.data, tasks, encoder)
        maker = RowMaker(components, tasks, encoder, *room)
    plan = plan_rows(run, stage, components, windows)
    every = tuple(range(stage.rows))
    blocks = SharedBlocks() if run.data.workers else None
    batches = StepBatches(maker, plan, stage, own or OwnRows(every, every), run.data.workers, blocks)
    # Planned here once: worker processes get the plan with the windows before the first rows already counted.
    batches.planned(start_step)
    identity = data_identity(run, stage, components, encoder)
    return StageLoader(
        batches, components, plan, identity, start_step, run.data.workers, blocks, run.data.max_bad_share
    )


class ComponentDescription(NamedTuple):
    """A component in numbers: see `Samples`. `share` of the samples; `tokens` and `vision` are means per
    sample."""

    task: str
    source: str
    records: int
    samples: int
    share: float
    tokens: float
    vision: float
    shortened: int
    reduced: int
    left_out: dict[str, int]


class DataDescription(NamedTuple):
    """What a stage will read, before it does."""

    components: tuple[ComponentDescription, ...]
    efficiency: Efficiency
    samples_per_row: float


def describe(loader: StageLoader) -> DataDescription:
    """The components in numbers, and the efficiency of the first stream's first windows."""
    total = sum(samples.component.weight for samples in loader.components)
    described = tuple(
        ComponentDescription(
            task=samples.component.task,
            source=samples.component.source,
            records=len(samples.source),
            samples=len(samples.records),
            share=samples.component.weight / total,
            tokens=float(samples.tokens.mean()),
            vision=float(samples.vision.mean()),
            shortened=samples.shortened,
            reduced=samples.reduced,
            left_out=samples.left_out,
        )
        for samples in loader.components
    )
    plan = loader.plan.streams[0]
    rows = [row for window in range(DESCRIBED_WINDOWS) for row in plan.window_rows(window)]
    samples_per_row = sum(len(row) for row in rows) / len(rows)
    return DataDescription(described, plan.efficiency(DESCRIBED_WINDOWS), samples_per_row)
