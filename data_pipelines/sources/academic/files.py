"""Reading the files of academic sets: JSON, and pickles that may hold plain values only."""

import pickle
from pathlib import Path
from typing import Any

from qwenvl_jax.json_text import read_json


def load_json(file: Path) -> Any:
    """Raises ValueError where the file is no JSON."""
    try:
        return read_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file.name} is no readable JSON ({error})") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"it wants to run {module}.{name}; annotations hold plain values only")


def load_pickle(file: Path) -> Any:
    """A pickle of lists, maps, texts and numbers (RefCOCO's, written by Python 2). Code in it is never run.

    Raises:
      ValueError: it holds anything else, or is cut off.
    """
    with file.open("rb") as opened:
        try:
            return _PlainUnpickler(opened, encoding="utf-8").load()
        except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise ValueError(f"{file.name} is no pickle of plain values ({error})") from error


def sibling(file: Path, *names: str) -> Path:
    """The first of several files that exists; names are relative to the folder of `file`.

    Raises:
      ValueError: none does.
    """
    for name in names:
        if (file.parent / name).is_file():
            return file.parent / name
    raise ValueError(f"{file.name} belongs to {' or '.join(names)}, which is missing: put it beside it")
