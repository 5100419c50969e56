"""Promises of `qwenvl_jax.training.loop`: a stage from end to end, killed, stopped and resumed."""

import os
import re
import signal
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from qwenvl_jax.config import CheckpointConfig, MeshConfig, OptimizerConfig
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.training import loop
from qwenvl_jax.training.checkpoints import load_parameters, read_position
from qwenvl_jax.training.json_lines import read_lines

STEPS = 9
# Lines every 2 steps and checkpoints every 3: a checkpoint falls between two lines.
EVERY = {"checkpoint": CheckpointConfig(every=3, keep=2), "log_every": 2}
TIMES = {"time", "tokens_per_second", "samples_per_second", "step_seconds", "data_wait", "flops_per_second", "mfu"}
TIMES |= {"padding"}  # of the steps since the restart


class Stop(Exception):
    """A kill."""


def info(step: int) -> SimpleNamespace:
    return SimpleNamespace(
        fingerprint=f"{step:016x}",
        replaced=step,
        dropped=step % 2,
        records=((0, 10 * step), (1, 10 * step + 1)),
        windows=((1, step // 2, step), (0, step, step)),
    )


@pytest.fixture(scope="module")
def batches(family):
    """The stream as a pure function of the step; before step `at`, `act()` happens."""

    def stream(start: int, windows, at: int | None = None, act=None):
        for step in range(start, STEPS):
            if step == at:
                act()
            yield family.random_batch(step), info(step)

    return stream


def kill():
    raise Stop


@pytest.fixture(scope="module")
def train(family, family_architecture, family_parameters, batches):
    """(workdir, stream) -> parameters after the stage; the step is compiled once for all runs of this file."""
    stage = family.small_stage(name="sft", steps=STEPS, parameters=family.TABLES["sft"])
    run = family.small_run(stage, **EVERY)
    mesh, compiled = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), {}
    compile_step = loop.compile_step

    def compile_once(traced, mesh):
        if mesh not in compiled:
            compiled[mesh] = compile_step(traced, mesh)
        return compiled[mesh]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "compile_step", compile_once)
        patch.setattr(loop, "peak_flops", lambda: 1e12)
        from_parameters = partial(dict, family_parameters)
        yield lambda workdir, stream=batches, run=run, start=from_parameters: loop.train_stage(
            run, stage, family_architecture, start, stream, mesh, workdir
        )


@pytest.fixture(scope="module")
def never_stopped(train, tmp_path_factory):
    """(workdir, parameters after the stage) of a run from the first step to the last."""
    workdir = tmp_path_factory.mktemp("never")
    return workdir, train(workdir)


def lines(workdir) -> list[dict]:
    """The metrics without what a clock measures."""
    found = read_lines(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def same_end(workdir, parameters, never_stopped) -> None:
    assert lines(workdir) == lines(never_stopped[0])
    for path, expected in never_stopped[1].items():
        assert np.array_equal(parameters[path], expected), path


def test_a_stage_records_every_second_step_and_the_last(never_stopped, family_architecture) -> None:
    """Losses per task, FLOPs by part, bad samples and the batch's fingerprint stand in metrics.jsonl; TensorBoard files
    beside it."""
    workdir, _ = never_stopped
    found = read_lines(workdir / "metrics.jsonl")
    assert [line["step"] for line in found] == [2, 4, 6, 8, 9]
    assert found[-1]["fingerprint"] == f"{8:016x}"
    assert [(line["replaced"], line["dropped"]) for line in found] == [(1, 1), (5, 1), (9, 1), (13, 1), (8, 0)]
    assert {"loss", "loss/caption", "loss/vqa", "grad_norm", "learning_rate", "padding", "data_wait", "mfu"} <= set(
        found[0]
    )
    parts = {path.split("/")[0] for path in family_architecture.shapes}
    assert {f"flops/{part}" for part in (*parts, "loss")} <= set(found[0])
    assert all(0 <= line["data_wait"] <= 1 for line in found)
    assert list((workdir / "tensorboard" / "sft").iterdir())


def test_the_newest_checkpoints_stay(never_stopped, family_architecture) -> None:
    """The last two of 3, 6, 9; the last one holds the parameters that were returned, and where the data stood."""
    workdir, parameters = never_stopped
    assert sorted(p.name for p in (workdir / "checkpoints" / "sft").iterdir() if p.name.isdigit()) == ["6", "9"]
    loaded = load_parameters(workdir, "sft", 9)
    assert loaded.keys() == family_architecture.shapes.keys()
    assert all(np.array_equal(loaded[p], parameters[p]) for p in parameters)
    assert read_position(workdir, "sft", 9) == {
        "stage": "sft",
        "fingerprint": f"{8:016x}",
        "windows": [[0, 8, 8], [1, 4, 8]],
        "unlogged": [],
        "skipped_in_a_row": 0,
    }


def test_frozen_parameters_keep_their_bits(never_stopped, family, family_parameters) -> None:
    """After a stage with a frozen ViT its parameters are the old ones, and all others are not."""
    for path, after in never_stopped[1].items():
        frozen = bool(re.fullmatch(family.SFT_FROZEN, path))
        assert np.array_equal(after, family_parameters[path]) == frozen, path


def test_a_finished_stage_trains_nothing(train, never_stopped) -> None:
    """A second call reads the last checkpoint; the data is not even opened."""
    workdir, parameters = never_stopped
    before = (workdir / "metrics.jsonl").read_bytes()
    again = train(workdir, lambda *_: pytest.fail("data was opened"))
    assert all(np.array_equal(again[p], parameters[p]) for p in parameters)
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("at", [2, 5, 8])
def test_a_killed_run_ends_with_the_same_bits(train, batches, never_stopped, tmp_path, at: int) -> None:
    """Killed before the first checkpoint, between two lines, and before the last step: losses and parameters are those
    of a run never stopped; the loader is given the windows of the last batch that is saved, and what a stage
    starts from is not loaded beside the checkpoint."""
    with pytest.raises(Stop):
        train(tmp_path, lambda *start: batches(*start, at, kill))
    starts, start = [], at - at % 3
    known = {"start": lambda: pytest.fail("the starting point was loaded")} if start else {}
    parameters = train(tmp_path, lambda *start: starts.append(start) or batches(*start), **known)
    assert starts == [(start, [[0, start - 1, start - 1], [1, (start - 1) // 2, start - 1]] if start else [])]
    same_end(tmp_path, parameters, never_stopped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(train, batches, never_stopped, tmp_path, number: signal.Signals) -> None:
    """Ctrl-C, or a machine's notice, ends the step, saves it and is told; the handlers are put back, and the run goes on
    from that very step."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(loop.Stopped) as stopped:
        train(tmp_path, lambda *start: batches(*start, 4, lambda: os.kill(os.getpid(), number)))
    assert stopped.value.number == number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert read_position(tmp_path, "sft", 5)["fingerprint"] == f"{4:016x}"
    starts = []
    parameters = train(tmp_path, lambda *start: starts.append(start) or batches(*start))
    assert starts == [(5, [[0, 4, 4], [1, 2, 4]])]
    same_end(tmp_path, parameters, never_stopped)


@pytest.fixture(scope="module")
def bad_batches(batches):
    """The stream with losses that are NaN in the batches `bad`; killed before step `at`."""

    def stream(start: int, windows, bad: tuple[int, ...], at: int | None = None):
        for step, (batch, known) in enumerate(batches(start, windows, at, kill), start):
            weights = np.where(batch.loss_weights > 0, np.nan, 0) if step in bad else batch.loss_weights
            yield batch._replace(loss_weights=weights.astype(np.float32)), known

    return stream


def test_a_bad_batch_is_skipped_and_listed(train, bad_batches, tmp_path) -> None:
    """One line with step, reason and samples; counted in the metrics, whose losses stay finite; a killed run that goes on
    lists it once and ends with the same bits."""
    whole = train(tmp_path / "whole", lambda *start: bad_batches(*start, (3, 4)))
    with pytest.raises(Stop):
        train(tmp_path / "killed", lambda *start: bad_batches(*start, (3, 4), at=5))
    parameters = train(tmp_path / "killed", lambda *start: bad_batches(*start, (3, 4)))
    assert all(np.isfinite(array).all() for array in whole.values())
    same_end(tmp_path / "killed", parameters, (tmp_path / "whole", whole))
    for folder in (tmp_path / "whole", tmp_path / "killed"):
        listed = read_lines(folder / "skipped.jsonl")
        assert [(line["step"], line["reason"]) for line in listed] == [(n, "the loss is not finite") for n in (4, 5)]
        assert listed[0]["samples"] == [["pictures", 30], ["pictures", 31]]
        found = read_lines(folder / "metrics.jsonl")
        assert [line["skipped"] for line in found] == [0, 1, 1, 0, 0]
        assert all(np.isfinite(line["loss"]) for line in found)


def test_too_many_in_a_row_end_the_run(family, train, bad_batches, tmp_path) -> None:
    """The sentence names the stage, the step and the list; what was saved before stays."""
    stage = family.small_stage(name="sft", steps=STEPS, parameters=family.TABLES["sft"])
    patient = family.small_run(stage, **EVERY, optimizer=OptimizerConfig(most_skipped=2))
    with pytest.raises(ValueError, match=r"stage sft: 3 updates in a row were skipped up to step 7 .*skipped\.jsonl"):
        train(tmp_path, lambda *start: bad_batches(*start, (4, 5, 6, 7, 8)), run=patient)
    assert read_position(tmp_path, "sft", 6)["skipped_in_a_row"] == 2
