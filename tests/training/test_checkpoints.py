"""Promises of `qwenvl_jax.training.checkpoints`."""

import dataclasses
from contextlib import closing

import jax
import numpy as np
import pytest
from small_model import PRECISION, TRAIN_ALL, small_run, small_stage

from qwenvl_jax.config import MeshConfig, ParameterRule
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.training.checkpoints import Checkpoints, load_parameters, newest, read_position
from qwenvl_jax.training.loop import initial_state

OFFLOADED = dataclasses.replace(PRECISION, offload_moments=True)
POSITION = {"stage": "multitask", "fingerprint": "abc", "unlogged": []}


@pytest.fixture(scope="module")
def state_on(architecture, parameters):
    """mesh sizes, rules of the stage -> its first state."""

    def make(sizes: tuple[int, int, int], rules=TRAIN_ALL, initial=parameters, precision=PRECISION):
        stage = small_stage(parameters=rules)
        mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
        return initial_state(small_run(stage, precision=precision), stage, architecture, initial, mesh)[0]

    return make


def test_another_mesh_restores_the_same_bits(tmp_path, parameters, state_on) -> None:
    """Saved from 2 x 2 x 2 devices, restored on one: parameters, moments, step and position are the same."""
    state = state_on((2, 2, 2))
    with closing(Checkpoints(tmp_path / "s", keep=2)) as checkpoints:
        checkpoints.save(7, state, POSITION)
        checkpoints.wait()
        like = state_on((1, 1, 1), initial={p: np.zeros_like(a) for p, a in parameters.items()})
        restored, position = checkpoints.restore(checkpoints.latest(), like)
    assert position == POSITION
    assert restored.step == 7
    jax.tree.map(np.testing.assert_array_equal, restored[1:], state[1:])
    jax.tree.map(lambda a, b: a.sharding == b.sharding or pytest.fail("sharding"), restored[1:], like[1:])


def test_moments_come_back_where_the_run_wants_them(tmp_path, state_on) -> None:
    """Saved from the hosts' memory, restored to it and to the devices'."""
    with closing(Checkpoints(tmp_path / "s", keep=2)) as checkpoints:
        checkpoints.save(2, state_on((2, 2, 2), precision=OFFLOADED), POSITION)
        checkpoints.wait()
        for precision in (OFFLOADED, PRECISION):
            like = state_on((1, 4, 1), precision=precision)
            restored, _ = checkpoints.restore(2, like)
            jax.tree.map(np.testing.assert_array_equal, restored.optimizer, like.optimizer)
            jax.tree.map(lambda a, b: a.sharding == b.sharding or pytest.fail("sharding"), restored, like)


@pytest.mark.parametrize("frozen", [(), ("vision/.*",)])
def test_all_parameters_come_back_by_path(tmp_path, parameters, state_on, frozen) -> None:
    """Trained and frozen together, bit by bit, with or without frozen ones; the position is readable by itself."""
    rules = (*(ParameterRule(pattern, frozen=True) for pattern in frozen), ParameterRule(".*"))
    with closing(Checkpoints(tmp_path / "checkpoints" / "multitask", keep=2)) as checkpoints:
        checkpoints.save(3, state_on((1, 1, 1), rules), POSITION)
    loaded = load_parameters(tmp_path, "multitask", 3)
    assert loaded.keys() == parameters.keys()
    assert all(np.array_equal(loaded[p], parameters[p]) for p in parameters)
    assert read_position(tmp_path, "multitask", 3) == POSITION


def test_newest_looks_at_the_last_stage_first(tmp_path, state_on) -> None:
    """The last stage that has a checkpoint, its newest step; a folder without one is told what to do."""
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of pretrain, sft; train first"):
        newest(tmp_path, ("pretrain", "sft"))
    state = state_on((1, 1, 1))
    for stage, steps in (("pretrain", (4, 12)), ("sft", ())):
        with closing(Checkpoints(tmp_path / "checkpoints" / stage, keep=2)) as checkpoints:
            for step in steps:
                checkpoints.save(step, state, POSITION)
    assert newest(tmp_path, ("pretrain", "sft")) == ("pretrain", 12)


def damage(folder, kind: str) -> None:
    """The data position, or the largest file of the parameters, cut in the middle or with one bit turned over."""
    if kind == "other position":
        file = folder / "position" / "metadata"
        file.write_text(file.read_text().replace("multitask", "multitesk"))
        return
    parameters = max((folder / "trained").glob("**/d/*"), key=lambda p: p.stat().st_size)
    file = folder / "position" / "metadata" if kind == "position" else parameters
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 64
    file.write_bytes(content if kind == "flip" else content[: len(content) // 2])


@pytest.mark.parametrize("kind", ["cut", "flip", "position", "other position"])
def test_a_damaged_checkpoint_is_set_aside(tmp_path, state_on, capsys, kind: str) -> None:
    """The one before is taken, the damaged one keeps its content under another name that is said."""
    state = state_on((1, 1, 1))
    with closing(Checkpoints(tmp_path / "s", keep=9)) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(step, state, {**POSITION, "step": step})
        checkpoints.wait()
        damage(tmp_path / "s" / "6", kind)
        step, restored, position = checkpoints.resume(state)
        assert (step, int(restored.step), position["step"]) == (4, 4, 4)
        jax.tree.map(np.testing.assert_array_equal, restored[1:], state[1:])
        assert "6 is damaged" in capsys.readouterr().out
        assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["2", "4", "6.broken"]
        checkpoints.save(6, state, POSITION)
    with closing(Checkpoints(tmp_path / "s", keep=9)) as checkpoints:
        assert checkpoints.resume(state)[0] == 6


def test_nothing_is_moved_where_none_can_be_read(tmp_path, state_on) -> None:
    """All damaged: a sentence with the folder and the reason, and every folder keeps its name."""
    state = state_on((1, 1, 1))
    with closing(Checkpoints(tmp_path / "s", keep=9)) as checkpoints:
        assert checkpoints.resume(state) is None
        for step in (2, 4):
            checkpoints.save(step, state, POSITION)
            checkpoints.wait()
            damage(tmp_path / "s" / str(step), "cut")
        with pytest.raises(ValueError, match=r"none of 2 checkpoints in .*can be read; 4: .*begin the stage anew"):
            checkpoints.resume(state)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["2", "4"]


def test_every_turned_bit_is_noticed(tmp_path, state_on) -> None:
    """Wherever a bit of the files of a checkpoint is turned over: either the same numbers are read, or it is refused."""
    state = state_on((1, 1, 1))
    with closing(Checkpoints(tmp_path / "s", keep=2)) as checkpoints:
        checkpoints.save(2, state, POSITION)
    rng = np.random.default_rng(0)
    chunks = max((tmp_path / "s" / "2" / "trained").glob("ocdbt.process_0/d/*"), key=lambda p: p.stat().st_size)
    reasons = []
    for file in [chunks] * 8:
        content = file.read_bytes()
        changed = bytearray(content)
        changed[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        with closing(Checkpoints(tmp_path / "s", keep=2)) as checkpoints:
            try:
                restored, _ = checkpoints.restore(2, state)
            except Exception as error:
                reasons.append(str(error))
            else:
                jax.tree.map(np.testing.assert_array_equal, restored[1:], state[1:])
        file.write_bytes(content)
    assert any("not those that were saved" in reason for reason in reasons)
