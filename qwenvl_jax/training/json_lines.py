"""Lists that a run appends to, one JSON object a line. A disk that is full or gone for a while costs no line of them."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qwenvl_jax.parallel.processes import tell


class JsonLines:
    """Appends lines to a file. What cannot be written is said once, waits in memory, and is written when it can be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[str] = []
        """Lines that are not in the file."""
        self._failing = False

    def append(self, line: Mapping[str, Any]) -> None:
        """Writes a line, behind those that wait. The file is opened each time, as its folder may have gone and come back."""
        self.waiting.append(json.dumps(line) + "\n")
        self.flush()

    def flush(self) -> None:
        """Tries to write the lines that wait."""
        if not self.waiting:
            return
        try:
            _append(self.path, "".join(self.waiting).encode())
        except OSError as error:
            if not self._failing:
                tell(
                    f"{self.path} cannot be written ({error.strerror}): training goes on, and its lines wait in memory"
                )
            self._failing = True
            return
        if self._failing:
            tell(f"{self.path} can be written again: {len(self.waiting)} lines have waited")
        self.waiting, self._failing = [], False

    def close(self) -> None:
        """Tries once more, and says how many lines are lost."""
        self.flush()
        if self.waiting:
            tell(f"{self.path} could not be written: {len(self.waiting)} lines are lost")


def _append(path: Path, content: bytes) -> None:
    """All of it or, where that fails with an OSError, nothing."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        whole = os.fstat(file).st_size
        try:
            while content:
                content = content[os.write(file, content) :]
        except OSError:
            os.ftruncate(file, whole)
            raise
    finally:
        os.close(file)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of such a file; a last line that was cut by a kill is dropped. A missing file has none.

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
        rewritten.write_text("".join(json.dumps(line) + "\n" for line in read_lines(file) if keep(line)))
        rewritten.replace(file)
