"""Promises of `qwenvl_jax.training.json_lines` and of TensorBoard's files: a disk that fails stops no run."""

import struct

import pytest
from small_disk import file_limit

from qwenvl_jax.training.board import Board
from qwenvl_jax.training.json_lines import JsonLines, read_lines


def test_a_cut_last_line_is_dropped(tmp_path) -> None:
    """A kill in the middle of a write costs that line; a missing file has none."""
    file = tmp_path / "metrics.jsonl"
    assert read_lines(file) == []
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert read_lines(file) == [{"step": 1}, {"step": 2}]


def test_a_damaged_line_is_named(tmp_path) -> None:
    """Damage elsewhere is no kill: the sentence names file and line."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2 is no JSON"):
        read_lines(file)


def test_lines_wait_while_the_disk_is_full(tmp_path, capsys) -> None:
    """Nothing is raised and no line is cut; it is said once, and said again when the lines that waited are written."""
    lines = JsonLines(tmp_path / "list.jsonl")
    lines.append({"step": 1})
    with file_limit() as limit:
        limit(20)
        for step in (2, 3, 4):
            lines.append({"step": step})
    assert lines.path.read_text() == '{"step": 1}\n'
    lines.append({"step": 5})
    assert [line["step"] for line in read_lines(lines.path)] == [1, 2, 3, 4, 5]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "list.jsonl cannot be written (File too large): training goes on" in said[0]
    assert "can be written again: 4 lines have waited" in said[1]


def test_lines_that_are_lost_are_counted(tmp_path, capsys) -> None:
    """The folder has gone and does not come back."""
    lines = JsonLines(tmp_path / "gone" / "list.jsonl")
    lines.append({"step": 1})
    lines.append({"step": 2})
    lines.close()
    assert "list.jsonl could not be written: 2 lines are lost" in capsys.readouterr().err


def records(folder) -> list[int]:
    """Sizes of the whole records in each of TensorBoard's files; fails at a cut one that is not the last."""
    counts = []
    for file in sorted(folder.iterdir(), key=lambda file: int(file.suffix[1:])):
        content, count = file.read_bytes(), 0
        while len(content) >= 12 and len(content) >= (size := 16 + struct.unpack("<Q", content[:8])[0]):
            content, count = content[size:], count + 1
        counts.append(count)
    return counts


def test_the_board_goes_on_in_another_file(tmp_path, capsys) -> None:
    """A full disk costs the figures of that time, and never the training thread."""
    board = Board(tmp_path / "board", 0)
    board.add(1, {"loss": 1.0, "mfu": None})
    size = next((tmp_path / "board").iterdir()).stat().st_size
    with file_limit() as limit:
        limit(size + 5)  # the next record is cut
        board.add(2, {"loss": 1.0})
        limit(10)  # less than a new file begins with
        for step in range(3, 40):
            board.add(step, {"loss": 1.0})
    board.add(40, {"loss": 1.0})
    assert capsys.readouterr().err.count("training goes on without TensorBoard's files") == 1
    assert records(tmp_path / "board") == [3, 3]  # version, start and one step
