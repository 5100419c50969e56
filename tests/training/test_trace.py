"""Promises of `qwenvl_jax.training.trace`: the asked steps are traced, into files that viewers open."""

import gzip
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from small_model import small_run, small_stage

from qwenvl_jax.training.trace import Trace

RUN = small_run(small_stage())


def train(trace: Trace, start: int, stop: int) -> None:
    """Steps that are told apart by their names in the trace."""
    made = None
    for step in range(start + 1, stop + 1):
        trace.begin(step, made)
        with jax.profiler.TraceAnnotation(f"step-{step}"):
            made = jnp.sin(jnp.ones(8))
        trace.end(step, made)
    trace.close()


def traced(workdir) -> set[str]:
    """Names of the steps in the trace for Perfetto."""
    [file] = (workdir / "profile" / "sft").rglob("*.trace.json.gz")
    assert [*file.parent.glob("*.xplane.pb")]
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return {event["name"] for event in events if event.get("name", "").startswith("step-")}


@pytest.mark.parametrize("last, there", [(4, {"step-3", "step-4"}), (9, {"step-3", "step-4", "step-5"})])
def test_the_chosen_steps_are_traced(tmp_path, capsys, last, there) -> None:
    """Those and no others; as far as they come where the stage ends before."""
    train(Trace(replace(RUN, profile=(3, last)), tmp_path, "sft", 0), 0, 5)
    assert traced(tmp_path) == there
    assert f"trace of steps 3 to {last}" in capsys.readouterr().out


def test_nothing_is_traced_unasked(tmp_path) -> None:
    """No folder, no cost."""
    train(Trace(RUN, tmp_path, "sft", 0), 0, 5)
    assert not [*tmp_path.iterdir()]


def test_steps_that_lie_behind_are_said(tmp_path, capsys) -> None:
    """A run that goes on behind the first step has no trace, and says so."""
    train(Trace(replace(RUN, profile=(3, 4)), tmp_path, "sft", 3), 3, 5)
    assert "goes on behind step 3: there will be no trace" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("asked", [(3,), (4, 3), (0, 2), (1, 2, 3)])
def test_other_numbers_are_refused(tmp_path, asked) -> None:
    """One sentence, before anything is trained."""
    with pytest.raises(ValueError, match=r"give the first and the last step of a stage"):
        Trace(replace(RUN, profile=asked), tmp_path, "sft", 0)


def test_a_trace_that_cannot_be_written_costs_no_step(tmp_path, capsys) -> None:
    """The folder's place is taken by a file; the steps go on."""
    (tmp_path / "profile").write_text("")
    train(Trace(replace(RUN, profile=(1, 2)), tmp_path, "sft", 0), 0, 3)
    assert "trace could not be written" in capsys.readouterr().err
