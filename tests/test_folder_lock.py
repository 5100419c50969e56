"""Promises of `qwenvl_jax.folder_lock`: two commands never write into one folder, and a killed one keeps nobody out."""

import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_data import make_picture
from small_files import write_corpus

from data_pipelines.cleaning.job import clean
from data_pipelines.synthetic import world
from launch.train import train
from qwenvl_jax import folder_lock
from qwenvl_jax.folder_lock import only_writer

WRITER = """
import sys
from pathlib import Path
from qwenvl_jax.folder_lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("writes", flush=True)
    sys.stdin.read()
"""


@contextmanager
def writer(folder: Path) -> Iterator[subprocess.Popen]:
    """Another process that writes into the folder; it ends with the block."""
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writes\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """It is told who writes there; after that process has ended, or was killed, the folder is free."""
    folder = tmp_path / "run"
    with writer(folder) as process:
        refusal = f"run is being written by process {process.pid} on .*: wait until it ends"
        with pytest.raises(ValueError, match=refusal), only_writer(folder):
            pytest.fail("two processes write")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with only_writer(folder):
            pass


def test_data_and_runs_have_one_writer(tmp_path: Path) -> None:
    """Making data, cleaning and training ask for the lock before they write anything."""
    with writer(tmp_path), pytest.raises(ValueError, match="is being written by"):
        world.make_world(tmp_path, scenes=1, documents=1, chats=1, texts=1, workers=1)
    with writer(tmp_path), pytest.raises(ValueError, match="is being written by"):
        train(["tiny", "--workdir", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == [folder_lock.LOCK]
    write_corpus(tmp_path / "raw", [{"caption": "a dog", "picture": make_picture(0).data, "width": 20, "height": 16}])
    cleaning = tmp_path / ".clean.cleaning"
    with writer(cleaning), pytest.raises(ValueError, match="is being written by"):
        clean(tmp_path / "raw", tmp_path / "clean", "web")
    assert [path.name for path in cleaning.iterdir()] == [folder_lock.LOCK]


def test_without_locks_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A file system without locks stops nobody, with a sentence."""

    def refused(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(folder_lock.fcntl, "lockf", refused)
    with only_writer(tmp_path):
        assert "cannot be locked (Operation not supported): run no second command" in capsys.readouterr().err
