"""What a run writes down: `metrics.jsonl`, TensorBoard files and the line that a person sees."""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from qwenvl_jax.batch import Batch
from qwenvl_jax.models.segment_attention import computed_scores
from qwenvl_jax.parallel.processes import gather
from qwenvl_jax.training.board import Board
from qwenvl_jax.training.json_lines import JsonLines, keep_lines


class NoRecorder:
    """What processes other than 0 have in place of a `Recorder`: every file has one writer."""

    def write(self, step: int, figures: Mapping[str, float], fingerprint: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Recorder(NoRecorder):
    """Writes one line of metrics every so many steps, for one stage; process 0 owns it.

    Lines of steps that will be computed again after a restart are removed at the start, so that a resumed run's file
    reads like that of a run never stopped.
    """

    def __init__(self, workdir: Path, stage: str, start: int, steps: int):
        self.stage, self.steps = stage, steps
        self._lines = JsonLines(workdir / "metrics.jsonl")
        keep_lines(self._lines.path, lambda line: line["stage"] != stage or line["step"] <= start)
        self._board = Board(workdir / "tensorboard" / stage, start)
        self._console = Console()
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}  {task.fields[figures]}  left"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._progress = Progress(*columns, console=self._console, refresh_per_second=2, speed_estimate_period=120)
        self._bar: TaskID = self._progress.add_task(stage, total=steps, completed=start, figures="compiling")
        if self._console.is_terminal:
            self._progress.start()
        self._printed = time.monotonic()

    def write(self, step: int, figures: Mapping[str, float], fingerprint: str) -> None:
        """Records and shows the figures of a step; numbers that are not finite are written as null.

        Args:
          fingerprint: of the step's batch; proves which samples the step has seen.
        """
        clean = {k: (float(v) if math.isfinite(v) else None) for k, v in figures.items()}
        line = {
            "stage": self.stage,
            "step": step,
            "time": time.time(),
            "fingerprint": fingerprint,
            **clean,
        }
        self._lines.append(line)
        self._board.add(step, clean)
        self._show(step, figures["loss"], figures["samples_per_second"])

    def _show(self, step: int, loss: float, samples_per_second: float) -> None:
        """Moves the progress bar; without a terminal, prints a line every ten seconds."""
        shown = f"loss {loss:.3f}  {samples_per_second:.1f} samples/s"
        self._progress.update(self._bar, completed=step, figures=shown)
        if not self._console.is_terminal and (step == self.steps or time.monotonic() - self._printed > 10):
            self._printed = time.monotonic()
            left = self._progress.tasks[0].time_remaining
            ends = "" if left is None else f"  left {left / 60:.1f} min"
            with contextlib.suppress(OSError):  # of a log on a full disk
                print(f"{self.stage}  step {step}/{self.steps}  {shown}{ends}", flush=True)

    def close(self) -> None:
        self._progress.stop()
        self._lines.close()


PATCH_FIGURES = ("vision_scores", "patch_padding")


def patch_figures(segments: np.ndarray | None, attention: str) -> dict[str, float]:
    """What rows of Qwen2-VL cost the vision tower, from their [B, P] segments of patches: scores that each head computes
    in this implementation of attention, and the share of the patches that are padding. Nothing for rows without patches.
    """
    if segments is None or not segments.size:
        return {}
    used = float((segments > 0).mean())
    return dict(zip(PATCH_FIGURES, (float(computed_scores(segments, attention)), 1 - used)))


def _over_processes(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What processes counted of one step: sums, and the mean of the share of padding over those that have patches."""
    values = {
        name: [part[name] for part in parts if name in part] for name in {k: None for part in parts for k in part}
    }
    return {name: float(np.mean(v)) if name == "patch_padding" else sum(v) for name, v in values.items()}


class Counts(Protocol):
    """What is known of the samples in the rows that this process counts."""

    @property
    def replaced(self) -> int:
        """Samples that could not be read and were replaced."""

    @property
    def dropped(self) -> int:
        """Samples that could not be read and for which nothing fitted."""


class Meter:
    """Sums what happened between two lines of metrics, in all processes: each adds its steps, and all ask together."""

    def __init__(self, rows: Sequence[int], attention: str, unlogged: Sequence[Mapping[str, Any]] = ()) -> None:
        """`rows` of a host batch that this process counts; `attention` is its implementation; `unlogged` as a checkpoint
        kept it: earlier steps that the next line's losses are about."""
        self._rows, self._attention = np.asarray(rows, int), attention
        self.reset()
        self._settled.extend(unlogged)

    def reset(self) -> None:
        self.started = time.perf_counter()
        self.wait = 0.0
        self.steps = 0
        self.samples = 0
        self.used = 0
        self.positions = 0
        self._settled: list[Mapping[str, Any]] = []
        self._open: list[tuple[Mapping[str, Any], Mapping[str, float]]] = []

    def restart_clock(self) -> None:
        """Speeds count from here on: the first step is compiled."""
        self.started = time.perf_counter()

    def unlogged(self) -> list[Mapping[str, Any]]:
        """The metrics of every step since the last reset, as plain numbers; waits for the device and for the processes."""
        opened, self._open = self._open, []
        if opened:
            counts = map(_over_processes, zip(*gather([counted for _, counted in opened])))
            numbers = [{k: np.asarray(v, np.float64).tolist() for k, v in metrics.items()} for metrics, _ in opened]
            self._settled += [{**device, **host} for device, host in zip(numbers, counts)]
        return self._settled

    def add(self, wait: float, host: Batch, info: Counts, metrics: Mapping[str, Any]) -> None:
        """One step: seconds waited for its batch, the batch on the host, and its metrics on the device."""
        segments = host.segment_ids[self._rows]
        self.wait += wait
        self.steps += 1
        self.samples += int(segments.max(axis=1, initial=0).sum())
        self.used += int((segments > 0).sum())
        self.positions += segments.size
        patches = None if host.patch_segments is None else host.patch_segments[self._rows]
        counted = {"replaced": info.replaced, "dropped": info.dropped, **patch_figures(patches, self._attention)}
        self._open.append((metrics, counted))

    def figures(self, tasks: tuple[str, ...]) -> dict[str, float]:
        """The means since the last reset over the steps whose update was not skipped (over all where each was), how many
        were, and how many samples were replaced or dropped; waits for the device and for the processes. The wait for data
        is that of the process that waited longest.
        """
        host = self.unlogged()
        waits, samples, used, positions = zip(*gather((self.wait, self.samples, self.used, self.positions)))
        seconds = time.perf_counter() - self.started
        learned = [m for m in host if not m["skipped"]] or host
        sums = np.sum([m["task_loss_sums"] for m in learned], axis=0)
        tokens = np.sum([m["task_tokens"] for m in learned], axis=0)
        by_task: dict[str, list[float]] = {}
        for task, loss, count in zip(tasks, sums, tokens):
            old = by_task.setdefault(task, [0.0, 0.0])
            by_task[task] = [old[0] + float(loss), old[1] + float(count)]
        return {
            "loss": float(np.mean([m["loss"] for m in learned])),
            **{f"loss/{task}": loss / count for task, (loss, count) in by_task.items() if count},
            "grad_norm": float(np.mean([m["grad_norm"] for m in learned])),
            "tokens_per_second": sum(used) / seconds,
            "samples_per_second": sum(samples) / seconds,
            "padding": 1 - sum(used) / sum(positions),
            "data_wait": max(waits) / seconds,
            "step_seconds": seconds / self.steps,
            **{name: int(sum(m[name] for m in host)) for name in ("skipped", "replaced", "dropped")},
            **{name: float(np.mean([m[name] for m in host])) for name in PATCH_FIGURES if name in host[0]},
        }
