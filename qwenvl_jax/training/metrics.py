"""What a run writes down: `metrics.jsonl`, TensorBoard files and the line that a person sees."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from qwenvl_jax.batch import Batch
from qwenvl_jax.models.segment_attention import computed_scores


class Recorder:
    """Writes one line of metrics every so many steps, for one stage. Only process 0 should own one.

    Lines of steps that will be computed again after a restart are removed at the start, so that a resumed run's file
    reads like that of a run never stopped.
    """

    def __init__(self, workdir: Path, stage: str, start: int, steps: int):
        self.stage, self.steps = stage, steps
        self._file = workdir / "metrics.jsonl"
        keep_lines(self._file, lambda line: line["stage"] != stage or line["step"] <= start)
        self._stream = self._file.open("a", buffering=1)
        self._board = SummaryWriter(str(workdir / "tensorboard" / stage), purge_step=start)
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

    def write(self, step: int, figures: Mapping[str, float], info: Any) -> None:
        """Records and shows the figures of a step; numbers that are not finite are written as null.

        Args:
          info: of the step's batch; its fingerprint proves which samples the step has seen.
        """
        clean = {k: (float(v) if math.isfinite(v) else None) for k, v in figures.items()}
        line = {
            "stage": self.stage,
            "step": step,
            "time": time.time(),
            "fingerprint": info.fingerprint,
            **clean,
        }
        self._stream.write(json.dumps(line) + "\n")
        for name, value in clean.items():
            if value is not None:
                self._board.add_scalar(name, value, step)
        self._show(step, figures["loss"], figures["samples_per_second"])

    def _show(self, step: int, loss: float, samples_per_second: float) -> None:
        """Moves the progress bar; without a terminal, prints a line every ten seconds."""
        shown = f"loss {loss:.3f}  {samples_per_second:.1f} samples/s"
        self._progress.update(self._bar, completed=step, figures=shown)
        if not self._console.is_terminal and (step == self.steps or time.monotonic() - self._printed > 10):
            self._printed = time.monotonic()
            left = self._progress.tasks[0].time_remaining
            ends = "" if left is None else f"  left {left / 60:.1f} min"
            print(f"{self.stage}  step {step}/{self.steps}  {shown}{ends}", flush=True)

    def close(self) -> None:
        self._progress.stop()
        self._stream.close()
        self._board.close()


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that was cut by a kill is dropped. A missing file has none.

    Raises:
      ValueError: another line is damaged.
    """
    if not file.exists():
        return []
    lines = []
    texts = file.read_text().splitlines()
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            if number < len(texts):
                raise ValueError(f"{file} line {number} is no JSON ({error}); correct or remove it") from error
    return lines


def keep_lines(file: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Takes the other lines out of such a file, in one step: a kill leaves the old file or the new one."""
    if file.exists():
        rewritten = file.with_suffix(".partial")
        rewritten.write_text("".join(json.dumps(line) + "\n" for line in read_metrics(file) if keep(line)))
        rewritten.replace(file)


PATCH_FIGURES = ("vision_scores", "patch_padding")


def patch_figures(batch: Batch) -> dict[str, float]:
    """What a host batch of Qwen2-VL costs its vision tower: scores that each head computes, and the share of its patches
    that are padding. Nothing for a batch without patches."""
    segments = batch.patch_segments
    if segments is None or not segments.size:
        return {}
    used = float((segments > 0).mean())
    return dict(zip(PATCH_FIGURES, (float(computed_scores(segments)), 1 - used)))


class Meter:
    """Sums what happened between two lines of metrics."""

    def __init__(self, unlogged: Sequence[Mapping[str, Any]] = ()) -> None:
        """`unlogged` as a checkpoint kept it: earlier steps that the next line's losses are about."""
        self.reset()
        self.device.extend(unlogged)

    def reset(self) -> None:
        self.started = time.perf_counter()
        self.wait = 0.0
        self.steps = 0
        self.samples = 0
        self.used = 0
        self.positions = 0
        self.device: list[Mapping[str, Any]] = []

    def restart_clock(self) -> None:
        """Speeds count from here on: the first step is compiled."""
        self.started = time.perf_counter()

    def unlogged(self) -> list[dict[str, Any]]:
        """The metrics of every step since the last reset, as plain numbers; waits for the device."""
        return [{k: np.asarray(v, np.float64).tolist() for k, v in m.items()} for m in self.device]

    def add(self, wait: float, segment_ids: np.ndarray, metrics: Mapping[str, Any]) -> None:
        """One step: seconds waited for its batch, its [B, S] segments on the host, its metrics on the device with
        the numbers of samples `replaced` and `dropped`."""
        self.wait += wait
        self.steps += 1
        self.samples += int(segment_ids.max(axis=1).sum())
        self.used += int((segment_ids > 0).sum())
        self.positions += segment_ids.size
        self.device.append(metrics)

    def figures(self, tasks: tuple[str, ...]) -> dict[str, float]:
        """The means since the last reset over the steps whose update was not skipped (over all where each was), how many
        were, and how many samples were replaced or dropped; waits for the device.
        """
        host = self.unlogged()
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
            "tokens_per_second": self.used / seconds,
            "samples_per_second": self.samples / seconds,
            "padding": 1 - self.used / self.positions,
            "data_wait": self.wait / seconds,
            "step_seconds": seconds / self.steps,
            **{name: int(sum(m[name] for m in host)) for name in ("skipped", "replaced", "dropped")},
            **{name: float(np.mean([m[name] for m in host])) for name in PATCH_FIGURES if name in host[0]},
        }
