"""The list of records that a run could not use: one line of JSON each, with source, index, reason and step."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipelines.components import Samples
from data_pipelines.sources.source import Problem

FILE = "quarantine.jsonl"
OPENING = -1
"""The step of records that were left out when the stage's sources were opened."""


class Quarantine:
    """Writes the list of one process of a run, in a file of its own: quarantine.jsonl, quarantine-1.jsonl, ...

    A resumed run writes the lines of its steps again, so those of later steps are taken out when it starts; the files
    then read like those of a run never stopped. Where there are fewer processes than before, process 0 takes care of the
    files that nobody writes any more.
    """

    def __init__(self, workdir: Path, stage: str, start: int, process: int = 0, processes: int = 1) -> None:
        self.path = workdir / (FILE if process == 0 else FILE.replace(".", f"-{process}."))
        self._stage = stage
        orphans = (path for path in workdir.glob(FILE.replace(".", "-*.")) if int(path.stem.split("-")[1]) >= processes)
        for path in (self.path, *(orphans if process == 0 else ())):
            _forget_later(path, stage, start)

    def add(self, step: int, problems: Iterable[Problem]) -> None:
        """Lists records; there is no file as long as there are none."""
        lines = "".join(
            _line({"stage": self._stage, "step": step, "source": p.file, "index": p.index, "reason": p.reason})
            for p in problems
        )
        if lines:
            try:
                with self.path.open("a") as file:
                    file.write(lines)
            except OSError as error:  # training goes on; what could not be read is at least said
                print(
                    f"{self.path} cannot be written ({error.strerror}), it lacks: {lines}", file=sys.stderr, flush=True
                )

    def add_opened(self, components: Iterable[Samples]) -> None:
        """Lists what was left out when sources were opened, a source of several components once."""
        self.add(OPENING, dict.fromkeys(problem for samples in components for problem in samples.problems))


def _forget_later(path: Path, stage: str, start: int) -> None:
    """Takes the lines of a stage out of a list, from step `start` on; from step 0 also what was found when it opened."""
    if path.exists():
        before = start if start else OPENING
        kept = [line for line in read_quarantine(path) if line["stage"] != stage or line["step"] < before]
        written = path.with_suffix(".partial")
        written.write_text("".join(_line(line) for line in kept))
        written.replace(path)


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
