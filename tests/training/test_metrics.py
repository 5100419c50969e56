"""Promises of `qwenvl_jax.training.metrics`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from qwenvl_jax.training.json_lines import read_lines
from qwenvl_jax.training.metrics import Meter, Recorder

DONE = {"skipped": 0.0}
"""The update was done."""

INFO = SimpleNamespace(replaced=0, dropped=0)
"""No sample of the step was unreadable."""


def host(segments: np.ndarray) -> SimpleNamespace:
    """A batch of text, as far as it is counted."""
    return SimpleNamespace(segment_ids=segments, patch_segments=None)


def write(recorder: Recorder, *steps: int) -> None:
    for step in steps:
        recorder.write(step, {"loss": 1.0 / step, "samples_per_second": 2.0}, "abc")
    recorder.close()


def test_a_restart_removes_what_will_be_computed_again(tmp_path) -> None:
    """Lines of the stage behind the checkpoint go, also a cut one; other stages and earlier steps stay."""
    write(Recorder(tmp_path, "first", 0, 9), 1, 2, 3)
    write(Recorder(tmp_path, "second", 0, 9), 1, 2, 3, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "second", "st')
    write(Recorder(tmp_path, "second", 2, 9), 3)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [(line["stage"], line["step"]) for line in lines] == [
        *(("first", n) for n in (1, 2, 3)),
        *(("second", n) for n in (1, 2, 3)),
    ]
    assert lines[0]["fingerprint"] == "abc"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_numbers_that_are_not_finite_stay_json(tmp_path) -> None:
    """NaN and infinity are written as null, which every reader of JSON takes."""
    recorder = Recorder(tmp_path, "first", 0, 9)
    recorder.write(1, {"loss": np.nan, "mfu": np.inf, "samples_per_second": 1}, "abc")
    recorder.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    assert line["loss"] is None
    assert line["mfu"] is None


def test_figures_of_several_steps() -> None:
    """Means of losses and norms, losses per task over its tokens (also of a task that stands twice), padding, counts."""
    meter = Meter(range(2), "xla")
    segments = np.array([[1, 1, 2, 0], [1, 1, 1, 1]])
    for loss in (1.0, 3.0):
        sums, tokens = np.array([loss * 4, 2.0, 0.0, 6.0]), np.array([4.0, 1.0, 0.0, 1.0])
        metrics = {"loss": loss, "grad_norm": 2 * loss, "task_loss_sums": sums, "task_tokens": tokens, **DONE}
        meter.add(0.0, host(segments), INFO, metrics)
    figures = meter.figures(("vqa", "ocr", "text", "ocr"))
    expected = {"loss": 2.0, "grad_norm": 4.0, "loss/vqa": 2.0, "loss/ocr": 4.0, "padding": 0.125}
    assert {name: figures[name] for name in expected} == expected
    assert "loss/text" not in figures
    assert figures["samples_per_second"] * figures["step_seconds"] == pytest.approx(3)
    assert figures["tokens_per_second"] * figures["step_seconds"] == pytest.approx(7)


def test_losses_are_of_the_steps_that_were_learned() -> None:
    """A step whose update was skipped is counted and spoils no mean; where all were, the figures show it."""
    meter, segments = Meter([0], "xla"), np.ones((1, 2), int)
    tokens = np.ones(1)
    good = {"loss": 2.0, "grad_norm": 3.0, "task_loss_sums": 2 * tokens, "task_tokens": tokens, **DONE}
    bad = {**good, "loss": np.nan, "grad_norm": np.nan, "task_loss_sums": np.nan * tokens, "skipped": 1.0}
    for metrics in (good, bad):
        meter.add(0.0, host(segments), INFO, metrics)
    figures = meter.figures(("a",))
    expected = {"loss": 2.0, "grad_norm": 3.0, "loss/a": 2.0, "skipped": 1}
    assert {name: figures[name] for name in expected} == expected
    meter.reset()
    meter.add(0.0, host(segments), INFO, bad)
    assert np.isnan(meter.figures(("a",))["loss"])


def test_unlogged_steps_count_in_the_losses_after_a_restart() -> None:
    """A meter that goes on from a checkpoint's JSON gives the same bits as one never stopped."""
    rng = np.random.default_rng(0)
    whole, segments = Meter(range(2), "xla"), np.ones((2, 3), int)
    steps = [
        {"loss": x, "grad_norm": x, "task_loss_sums": np.array([x, x]), "task_tokens": np.array([x, x]), **DONE}
        for x in rng.random(5).astype(np.float32)
    ]
    for metrics in steps[:3]:
        whole.add(0.0, host(segments), INFO, metrics)
    resumed = Meter(range(2), "xla", json.loads(json.dumps(whole.unlogged())))
    for meter in (whole, resumed):
        for metrics in steps[3:]:
            meter.add(0.0, host(segments), INFO, metrics)
    names = ("loss", "grad_norm", "loss/a", "loss/b")
    first, second = (meter.figures(("a", "b")) for meter in (whole, resumed))
    assert [first[n] for n in names] == [second[n] for n in names]
