"""The batches of a stage: batch number t is a pure function of (data, seed, t), so the step is the whole
state.

Every process makes the rows that its devices hold; together they are the same global batch for every number of
processes, and worker processes change nothing either.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

import grain
from absl import flags

from data_pipelines.components import Samples, open_components, task_groups
from data_pipelines.identity import data_identity
from data_pipelines.mixture import Mixture, seed_for
from data_pipelines.packing import FIRST_WINDOW, Efficiency, PackingPlan, WindowStart
from data_pipelines.patch_rows import PatchRowMaker, open_pictures
from data_pipelines.rows import RowMaker
from data_pipelines.sources.source import Problem
from data_pipelines.tasks import tasks_of
from qwenvl_jax.batch import Batch, OwnRows, joined_fingerprint
from qwenvl_jax.config import Run, Stage
from qwenvl_jax.processing.encoders import stage_encoder

READ_AHEAD = 2
"""Batches that wait, ready, for the training step (of each worker process, where there are several)."""
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
      window: of the plan, that the first row of the whole batch is in.
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
    window: WindowStart


class StepBatches:
    """Random access to the batches of a stage: number t is what step t trains on."""

    def __init__(self, maker: RowMaker | PatchRowMaker, plan: PackingPlan, stage: Stage, own: OwnRows) -> None:
        self._maker, self._plan, self._steps, self._rows, self._own = maker, plan, stage.steps, stage.rows, own

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[Batch, BatchInfo]:
        made, counted = self._own
        batch, all_rows = self._maker.make_rows([self._plan.row(step * self._rows + n) for n in made])
        rows = [row for n, row in zip(made, all_rows) if n in counted]
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
            window=self._plan.window_start(step * self._rows),
        )


class StageLoader:
    """Iterator over (batch, info) of a stage's steps, read ahead in a thread or in worker processes.

    Attributes:
      step: the next batch's number; all that a checkpoint needs.
      identity: everything that decides which samples a step reads, by name (see `data_pipelines.identity`).
      components: the usable samples, and what was left out.
      plan: the packing plan.
    """

    def __init__(
        self,
        batches: StepBatches,
        components: Sequence[Samples],
        plan: PackingPlan,
        identity: Mapping[str, str],
        start_step: int,
        workers: int,
        max_bad_share: float,
    ) -> None:
        """Use `open_loader`."""
        self._samples, self._bad, self._max_bad_share = 0, 0, max_bad_share
        self.components, self.plan, self.identity, self.step = components, plan, identity, start_step
        ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=READ_AHEAD)
        dataset = grain.MapDataset.source(batches)[start_step:].to_iter_dataset(ahead)
        if workers:
            # grain 0.2.18 reads absl flags when it starts processes and fails where no absl app parsed them.
            flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(workers, READ_AHEAD))
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

    def __enter__(self) -> "StageLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_loader(
    run: Run, stage: Stage, start_step: int = 0, window: WindowStart = FIRST_WINDOW, own: OwnRows | None = None
) -> StageLoader:
    """The batches of a stage from step `start_step` on.

    Args:
      run: names the data, the vocabulary and the model, which decides how samples are seen.
      stage: one of its stages.
      start_step: number of the first batch, in [0, stage.steps].
      window: `BatchInfo.window` of an earlier batch; without it all windows before the first batch are packed again.
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
    mixture = Mixture(
        sizes=[len(samples.records) for samples in components],
        weights=[samples.component.weight for samples in components],
        seeds=[
            seed_for(run.data.seed, stage.name, samples.component.task, samples.source.fingerprint)
            for samples in components
        ],
    )
    plan = PackingPlan(
        mixture,
        tokens=[samples.tokens for samples in components],
        vision=[samples.vision for samples in components],
        groups=task_groups(components, stage.pack_within_task),
        max_tokens=stage.sequence_length,
        max_vision=stage.vision_per_row,
        window=run.data.window,
        seed=run.data.seed,
        start=window,
    )
    # Planned here once: worker processes get the plan with the windows before the first row already counted.
    plan.row(start_step * stage.rows)
    every = tuple(range(stage.rows))
    batches = StepBatches(maker, plan, stage, own or OwnRows(every, every))
    identity = data_identity(run, stage, components, encoder)
    return StageLoader(batches, components, plan, identity, start_step, run.data.workers, run.data.max_bad_share)


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
    """The components in numbers, and the efficiency of the plan's first windows."""
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
    rows = [row for window in range(DESCRIBED_WINDOWS) for row in loader.plan.window_rows(window)]
    samples_per_row = sum(len(row) for row in rows) / len(rows)
    return DataDescription(described, loader.plan.efficiency(DESCRIBED_WINDOWS), samples_per_row)
