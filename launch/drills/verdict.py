"""Whether a run survived its faults, and the table of a drill."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from launch.drills.jobs import STAGE, STEPS, lines
from qwenvl_jax.training.checkpoints import load_parameters

ROUNDING = 2e-3
"""Relative, of losses on other devices: sums in another order, over 90 updates that Adam and Muon make independent of the
gradients' scale."""


@dataclass
class Tally:
    """What happened to a kind of fault."""

    tried: int = 0
    survived: int = 0
    lost_steps: int = 0
    """Steps computed again behind one of them, at most."""
    seconds: list[float] = field(default_factory=list)
    """From the start of the next process to its first new step."""


def differences(folder: Path, reference: Path, exact: bool) -> list[str]:
    """How a run that has ended differs from the one without faults; bit by bit where `exact`."""
    ours, theirs = (lines(f, "metrics.jsonl") for f in (folder, reference))
    found = []
    if [x["step"] for x in ours] != list(range(1, STEPS + 1)):
        found.append("steps are missing, or stand there twice")
    if [(x["step"], x["fingerprint"]) for x in ours] != [(x["step"], x["fingerprint"]) for x in theirs]:
        found.append("other batches")
    losses, expected = ([np.nan if x["loss"] is None else x["loss"] for x in run] for run in (ours, theirs))
    if not np.allclose(losses, expected, rtol=0 if exact else ROUNDING, atol=0, equal_nan=True):
        found.append("other losses" if exact else "losses beyond rounding")
    if _skipped(folder) != _skipped(reference):
        found.append("other updates skipped")
    if exact:
        ours_last, theirs_last = _parameters(folder), _parameters(reference)
        found += [f"other {path}" for path, array in theirs_last.items() if not np.array_equal(ours_last[path], array)]
    return found


def _skipped(folder: Path) -> list[tuple[int, Any]]:
    return [(line["step"], line["samples"]) for line in lines(folder, "skipped.jsonl")]


def _parameters(folder: Path) -> dict[str, np.ndarray]:
    return {path: np.asarray(array) for path, array in load_parameters(folder, STAGE, STEPS).items()}


def done_before(folder: Path, plan: Mapping[str, Any]) -> tuple[int, dict[str, Tally]]:
    """Runs of the drill that have ended in an earlier process, and what happened in them.

    Raises:
      ValueError: the folder holds a drill with another plan.
    """
    file = folder / "drill.json"
    if not file.is_file():
        return 0, {}
    content = json.loads(file.read_text())
    if {key: content.get(key) for key in plan} != plan:
        raise ValueError(f"{folder} holds a drill of other faults: remove it, or choose another --folder")
    return content["runs"], {kind: Tally(**tally) for kind, tally in content["faults"].items()}


def write_table(folder: Path, tallies: Mapping[str, Tally], plan: Mapping[str, Any], runs: int) -> str:
    """Writes `drill.json` and `drill.md`, and returns the latter: one line for each kind of fault that was tried.

    Args:
      plan: what the drill is, by which it is known again.
      runs: that have ended.
    """
    tried = {kind: tally for kind, tally in tallies.items() if tally.tried}
    content = {**plan, "runs": runs, "faults": {kind: asdict(tally) for kind, tally in tried.items()}}
    written = folder / ".drill.json"
    written.write_text(json.dumps(content, indent=1) + "\n")
    written.replace(folder / "drill.json")
    rows = [
        "| fault | tried | survived | steps computed again, at most | seconds to a new step: median | longest |",
        "|---|---|---|---|---|---|",
    ]
    for kind, tally in tried.items():
        times = (f"{np.median(tally.seconds):.0f}", f"{max(tally.seconds):.0f}") if tally.seconds else ("", "")
        rows.append(f"| {kind} | {tally.tried} | {tally.survived} | {tally.lost_steps} | {' | '.join(times)} |")
    table = "\n".join(rows) + "\n"
    (folder / "drill.md").write_text(table)
    return table
