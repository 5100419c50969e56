"""The list of records that a run could not use: one line of JSON each, with source, index, reason and step."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipelines.components import Samples
from data_pipelines.sources.source import Problem

FILE = "quarantine.jsonl"
OPENING = -1
"""The step of records that were left out when the stage's sources were opened."""


class Quarantine:
    """Writes the list of one process of a run.

    A resumed run writes the lines of its steps again, so those of later steps are taken out when it starts; the file
    then reads like that of a run never stopped.
    """

    def __init__(self, workdir: Path, stage: str, start: int, process: int = 0) -> None:
        self.path = workdir / (FILE if process == 0 else FILE.replace(".", f"-{process}."))
        self._stage = stage
        kept = [line for line in read_quarantine(self.path) if line["stage"] != stage or line["step"] < start]
        if start == 0:
            kept = [line for line in kept if line["stage"] != stage]
        if kept or self.path.exists():
            written = self.path.with_suffix(".partial")
            written.write_text("".join(_line(line) for line in kept))
            written.replace(self.path)

    def add(self, step: int, problems: Iterable[Problem]) -> None:
        """Lists records; there is no file as long as there are none."""
        lines = "".join(
            _line({"stage": self._stage, "step": step, "source": p.file, "index": p.index, "reason": p.reason})
            for p in problems
        )
        if lines:
            with self.path.open("a") as file:
                file.write(lines)

    def add_opened(self, components: Iterable[Samples]) -> None:
        """Lists what was left out when sources were opened, a source of several components once."""
        self.add(OPENING, dict.fromkeys(problem for samples in components for problem in samples.problems))


def _line(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def read_quarantine(path: Path) -> list[dict]:
    """The lines of a list; a last line that was cut by a kill is dropped. A missing file has none."""
    return list(_lines(path)) if path.exists() else []


def _lines(path: Path) -> Iterator[dict]:
    for line in path.read_text().split("\n"):
        try:
            if line:
                yield json.loads(line)
        except json.JSONDecodeError:
            return
