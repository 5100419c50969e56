"""Updates that were skipped, as a step finds its loss or gradient bad: listed, counted, and the end of a hopeless run."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qwenvl_jax.parallel.processes import gather, writes
from qwenvl_jax.training.json_lines import JsonLines, keep_lines

FILE = "skipped.jsonl"
UNSUPERVISED = "no supervised token"


class Records(Protocol):
    """What is known of the samples in a batch."""

    @property
    def records(self) -> Sequence[tuple[int, int]]:
        """Component and record of every sample."""


class SkippedUpdates:
    """The list of a stage's skipped updates, one line of JSON each: step, reason, loss, norm of the gradient, and the
    samples of the batch as (source, record).

    A resumed run computes its steps again, so the lines of later ones are taken out when it starts.
    """

    def __init__(self, workdir: Path, stage: str, sources: Sequence[str], start: int, most: int, in_a_row: int) -> None:
        """`sources` of the stage's components; `most` skipped in a row are borne; `in_a_row` were before `start`."""
        self.in_a_row = in_a_row
        self._lines, self._stage, self._sources, self._most = JsonLines(workdir / FILE), stage, tuple(sources), most
        self._open: list[tuple[int, Mapping[str, Any], Records]] = []
        if writes():
            keep_lines(self._lines.path, lambda line: line["stage"] != stage or line["step"] <= start)

    def add(self, step: int, metrics: Mapping[str, Any], info: Records) -> None:
        """One step's metrics, still on the device, and its batch."""
        self._open.append((step, metrics, info))

    def settle(self) -> None:
        """Lists what was skipped since the last call, with the samples of all processes; waits for the device. All
        processes call it alike, and process 0 writes.

        Raises:
          ValueError: more updates in a row were skipped than is borne.
        """
        self._lines.flush()
        waiting, self._open = self._open, []
        for step, metrics, info in waiting:
            if not metrics["skipped"]:
                self.in_a_row = 0
                continue
            loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
            reason = _reason(loss, norm, float(np.sum(metrics["task_tokens"])))
            records = itertools.chain.from_iterable(gather(info.records))
            samples = [(self._sources[component], record) for component, record in records]
            line = {"stage": self._stage, "step": step, "reason": reason, "loss": repr(loss), "grad_norm": repr(norm)}
            if writes():
                self._lines.append({**line, "samples": samples})
            if reason != UNSUPERVISED:
                self.in_a_row += 1
            if self.in_a_row > self._most:
                raise ValueError(
                    f"stage {self._stage}: {self.in_a_row} updates in a row were skipped up to step {step} ({reason}; "
                    f"the batches are listed in {self._lines.path}): look at these samples, lower the learning rate, or "
                    "start from an earlier checkpoint; --optimizer.most-skipped sets how many are borne"
                )

    def close(self) -> None:
        """Says what could not be listed."""
        self._lines.close()


def _reason(loss: float, norm: float, tokens: float) -> str:
    if not tokens:
        return UNSUPERVISED
    if not math.isfinite(loss):
        return "the loss is not finite"
    if not math.isfinite(norm):
        return "the gradient is not finite"
    return "the gradient is larger than optimizer.skip_above"
