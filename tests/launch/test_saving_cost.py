"""The figures of what saving costs: right on lines whose cost is known; no more than one copy of the state in memory."""

import pytest

from launch.benchmarks.saving import copies_in_memory, saving_cost


def lines(extra: float, log_every: int = 10, save_every: int = 50, steps: int = 400) -> list[dict]:
    """Steps of 0.1 s; the line behind each checkpoint pays `extra` seconds."""
    return [
        {"step": step, "step_seconds": 0.1 + (extra / log_every if (step - log_every) % save_every == 0 else 0.0)}
        for step in range(log_every, steps + 1, log_every)
    ]


def test_the_cost_of_saving_is_found() -> None:
    """A checkpoint that costs 0.4 s behind 50 steps of 0.1 s takes 8 % of the time; the first line is no payer."""
    found = saving_cost(lines(0.4), 50)
    assert found is not None
    assert found.checkpoints == 7
    assert (found.mean_seconds, found.most_seconds) == (pytest.approx(0.4), pytest.approx(0.4))
    assert (found.step_seconds, found.share) == (pytest.approx(0.1), pytest.approx(0.08))


def test_a_cost_that_cannot_be_seen_is_none() -> None:
    """Without a checkpoint, or with one in every line, there is nothing to compare."""
    assert saving_cost(lines(0.0), 1000) is None
    assert saving_cost(lines(0.0), 10) is None


def test_saving_keeps_one_copy(tmp_path) -> None:
    """While a state of 100 MB is saved, the process holds it at most once more. 0.25 of it are free for what else the
    threads that write take; a second copy would be 1.0."""
    assert copies_in_memory(tmp_path, 0.1) < 1.25
