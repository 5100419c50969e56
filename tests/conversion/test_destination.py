"""The folder of a conversion: whole or not there, and nothing left of earlier ones."""

import os
from multiprocessing import get_context
from pathlib import Path

import pytest

from qwenvl_jax.conversion.destination import new_folder


def killed(destination: Path) -> None:
    with new_folder(destination, print) as folder:
        (folder / "half").write_text("a")
        os._exit(1)


def test_what_a_killed_conversion_left_is_removed(tmp_path):
    """The next conversion to the same destination removes it and says so; other destinations' are left."""
    for name in ("ours", "other"):
        process = get_context("spawn").Process(target=killed, args=(tmp_path / name,))
        process.start()
        process.join(60)
        assert process.exitcode == 1
    left, others = tmp_path.glob(".ours-*"), [path.name for path in tmp_path.glob(".other-*")]
    said: list[str] = []
    [gone] = left
    with new_folder(tmp_path / "ours", said.append) as folder:
        (folder / "whole").write_text("a")
    assert [str(gone) in line for line in said] == [True]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*others, "ours"]
    assert (tmp_path / "ours" / "whole").exists()


def test_a_conversion_that_runs_is_left_alone(tmp_path):
    """Two at once to one destination: the second removes nothing of the first, and the last to end fails."""
    said: list[str] = []
    first = new_folder(tmp_path / "ours", said.append)
    (first.__enter__() / "a").write_text("")
    with new_folder(tmp_path / "ours", said.append) as second:
        (second / "b").write_text("")
    with pytest.raises(OSError, match="not empty"):
        first.__exit__(None, None, None)
    assert not said
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
