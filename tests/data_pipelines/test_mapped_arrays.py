"""Long arrays lie once in the memory of a machine: they go to other processes as names of files."""

import logging
import pickle

import numpy as np
import pytest

from data_pipelines import mapped_arrays
from data_pipelines.mapped_arrays import MappedArray, shared


@pytest.fixture(autouse=True)
def _short_is_long(monkeypatch):
    monkeypatch.setattr(mapped_arrays, "MAPPED_FROM", 100)


def test_a_long_array_is_sent_as_its_path(tmp_path) -> None:
    """The same numbers, in a few hundred bytes instead of 80,000; a part of it, and what is computed from it, as numbers."""
    array = np.arange(10_000) ** 2
    mapped = shared(array, tmp_path / "new" / "squares.npy")
    assert isinstance(mapped, MappedArray)
    sent = pickle.dumps(mapped)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent), array)
    for part, expected in ((mapped[5:7], array[5:7]), (mapped[[3, 1]], array[[3, 1]]), (mapped + 1, array + 1)):
        assert np.array_equal(pickle.loads(pickle.dumps(part)), expected)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1


def test_the_file_is_written_once(tmp_path) -> None:
    """A second process finds it; no partial file is left."""
    path = tmp_path / "a.npy"
    shared(np.arange(200), path)
    written = path.stat().st_mtime_ns
    assert np.array_equal(shared(np.arange(200), path), np.arange(200))
    assert path.stat().st_mtime_ns == written
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]


def test_short_arrays_stay_in_memory(tmp_path) -> None:
    """They cost less than a file."""
    array = np.arange(99)
    assert shared(array, tmp_path / "a.npy") is array
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said(tmp_path, caplog) -> None:
    """The run goes on with the array as it is."""
    (tmp_path / "file").write_text("no folder")
    array = np.arange(200)
    with caplog.at_level(logging.WARNING):
        assert shared(array, tmp_path / "file" / "a.npy") is array
    assert "every process of this machine holds its" in caplog.text


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch, caplog) -> None:
    """What was written of it is removed, and the run goes on."""

    def full(file, array):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped_arrays.np, "save", full)
    array = np.arange(200)
    with caplog.at_level(logging.WARNING):
        assert shared(array, tmp_path / "a.npy") is array
    assert "No space left" in caplog.text
    assert not any(tmp_path.iterdir())
