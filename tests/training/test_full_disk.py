"""A disk that is full, or gone, for a while: training goes on, it is said at once, and what was saved stays."""

import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from process_worker import STEPS, train
from small_disk import file_limit

from qwenvl_jax.training import loop
from qwenvl_jax.training.json_lines import read_lines

ONE = (1, 1, 1)
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # Orbax's, of failed saves


@pytest.fixture(scope="module", autouse=True)
def _compiled_once():
    """All runs of this file have the same step."""
    compiled, compile_step = [], loop.compile_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "peak_flops", lambda: 1e12)
        patch.setattr(
            loop,
            "compile_step",
            lambda *args: compiled[0] if compiled else compiled.append(compile_step(*args)) or compiled[0],
        )
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict]:
    """(folder, parameters) of a run without faults."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder, ONE)


def steps_on_disk(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints" / "sft").iterdir() if path.name.isdigit())


def the_same(folder: Path, parameters: dict, whole: tuple[Path, dict]) -> None:
    """Lines of metrics, skipped updates and parameters are those of the run without faults."""
    for name in ("metrics.jsonl", "skipped.jsonl"):
        ours, theirs = read_lines(folder / name), read_lines(whole[0] / name)
        assert [(x["step"], x["loss"]) for x in ours] == [(x["step"], x["loss"]) for x in theirs]
    jax.tree.map(np.testing.assert_array_equal, parameters, whole[1])


def wait_for_saves() -> None:
    """Until Orbax writes nothing."""
    while any(thread.name == "save_finalize" for thread in threading.enumerate()):
        time.sleep(0.01)


class Gone:
    """A mount that vanishes: in its place lies something that is no folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.away = folder, folder.with_name("away")

    def begin(self) -> None:
        self.folder.rename(self.away)
        self.folder.write_text("")

    def end(self) -> None:
        self.folder.unlink()
        self.away.rename(self.folder)


@pytest.mark.parametrize("kind", ["full", "gone"])
def test_training_goes_on_without_the_disk(tmp_path, whole, capsys, kind: str) -> None:
    """From batch 4 to 7 nothing can be written. Checkpoint 6 fails, which is said at once; checkpoint 3 stays, 9 is written;
    the lines of that time come later; the parameters are those of a run without faults."""
    folder = tmp_path / "run"
    gone, said = Gone(folder), {}
    with file_limit() as limit:

        def strike(step: int) -> None:
            if step in (4, 7):
                wait_for_saves()
            if step == 4:
                gone.begin() if kind == "gone" else limit(100)
            if step == 8:
                gone.end() if kind == "gone" else limit(-1)
                said["early"] = capsys.readouterr().err

        parameters = train(folder, ONE, strike=strike)
    assert "checkpoint 6 in" in said["early"]
    assert "training goes on and saves the next one as usual; the newest is step 3" in said["early"]
    assert "metrics.jsonl cannot be written" in said["early"]
    assert "metrics.jsonl can be written again" in capsys.readouterr().err
    assert steps_on_disk(folder) == ["3", "9"]
    the_same(folder, parameters, whole)
    train(folder, ONE)  # nothing is left to train; what Orbax's threads have left half written goes
    assert not [*folder.glob("checkpoints/sft/*tmp*")]


def test_a_last_checkpoint_that_fails_is_an_error(tmp_path, whole) -> None:
    """The run ends with a sentence; with room again it goes on from the checkpoint before, and ends with the same bits."""
    sentence = r"checkpoint 9 in .* could not be written .*; the newest is step 6\. Make room"
    with pytest.raises(OSError, match=sentence), file_limit() as limit:
        train(tmp_path, ONE, strike=lambda step: wait_for_saves() or limit(100) if step == STEPS - 1 else None)
    assert steps_on_disk(tmp_path) == ["3", "6"]
    the_same(tmp_path, train(tmp_path, ONE), whole)
    assert not [*tmp_path.glob("checkpoints/sft/*tmp*")]
