"""What decides which samples a step reads, by name, kept in a run's folder: a stage goes on with the data it began with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.components import Samples
from qwenvl_jax.config import Run, Stage
from qwenvl_jax.processing.encoders import Encoder

FILE = "data.json"


def data_identity(run: Run, stage: Stage, components: Sequence[Samples], encoder: Encoder) -> dict[str, str]:
    """Settings, vocabulary and sources; equal ones mean the same samples in every step."""
    named = {
        "rows": stage.rows,
        "sequence_length": stage.sequence_length,
        "room for images": stage.vision_per_row,
        "pack_within_task": stage.pack_within_task,
        "data.window": run.data.window,
        "data.seed": run.data.seed,
        "sizes of images": encoder.identity,
        "tokenizer": encoder.tokenizer.fingerprint,
        "mixture": [
            (samples.component.task, samples.component.source, samples.component.weight) for samples in components
        ],
        **{f"source {samples.component.source}": samples.source.fingerprint for samples in components},
    }
    # Named only where they are used, so that runs from before there were any go on.
    if run.data.streams > 1:
        named["data.streams"] = run.data.streams
    if lanes := [samples.component.source for samples in components if samples.shards is not None]:
        named["sources in lanes"] = (lanes, run.data.lanes, run.data.lane_window)
    return {name: str(value) for name, value in named.items()}


def check_identity(workdir: Path, stage: str, start: int, identity: Mapping[str, str], keep: bool = True) -> None:
    """Keeps a stage's identity where it begins (if this process shall), and compares where it goes on.

    Raises:
      ValueError: the stage has learned from other data up to step `start`; names what differs.
    """
    file = workdir / FILE
    known = json.loads(file.read_text()) if file.exists() else {}
    before = known.get(stage, identity) if start else identity
    if other := sorted(name for name in before.keys() | identity.keys() if before.get(name) != identity.get(name)):
        raise ValueError(
            f"stage {stage} of {workdir} has learned from other data up to step {start}: {', '.join(other)} changed since; "
            "bring it back, or train in another --workdir with --start"
        )
    if keep and known.get(stage) != identity:
        written = file.with_suffix(".partial")
        written.write_text(json.dumps({**known, stage: dict(identity)}, indent=1, ensure_ascii=False))
        written.replace(file)
