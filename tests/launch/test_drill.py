"""A short seeded part of the drill of `launch.drills.faults`: real processes of `qwenvl train`, and real faults."""

import json

import pytest

from launch.drills import faults, jobs, verdict

SECRET = "hf_never-write-this-down"


def test_a_short_drill_is_survived(tmp_path, monkeypatch) -> None:
    """Killed while saving, a loader that hangs, one of two processes killed: the run ends with the batches, the losses and
    the skipped updates of a run without faults, no step lost and none learned twice; the table has it. Nothing that is
    written, logs, stacks and TensorBoard's files among it, has what only the environment knows."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(jobs, "STEPS", 28)
    monkeypatch.setattr(verdict, "STEPS", 28)
    monkeypatch.setattr(faults, "STEPS", 28)
    monkeypatch.setattr(jobs, "OPTIONS", tuple("28" if option == "90" else option for option in jobs.OPTIONS))
    monkeypatch.setattr(jobs, "HANG_SECONDS", 15.0)
    kinds = ["kill while saving", "loader hangs", "2 processes, one killed"]
    tallies = faults.drill(tmp_path, kinds, seed=1, enough=3)
    assert {kind: (tallies[kind].tried, tallies[kind].survived) for kind in kinds} == dict.fromkeys(kinds, (1, 1))
    assert all(tally.lost_steps <= jobs.EVERY + 2 for tally in tallies.values())
    table = (tmp_path / "drill.md").read_text()
    assert all(f"| {kind} | 1 | 1 |" in table for kind in kinds)
    assert json.loads((tmp_path / "drill.json").read_text())["faults"]["loader hangs"]["survived"] == 1
    assert "for batch" in (tmp_path / "000" / "stacks" / "process-0.txt").read_text()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.json", "000.log", "process-1.log"} <= {path.name for path in written}
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_a_stopped_drill_goes_on(tmp_path) -> None:
    """What its runs have found is known again, and a drill of other faults is refused."""
    plan = {"seed": 1, "steps": 90, "kinds": ["SIGTERM", "loader hangs"]}
    assert verdict.done_before(tmp_path, plan) == (0, {})
    tallies = {"SIGTERM": verdict.Tally(2, 1, 3, [4.5]), "loader hangs": verdict.Tally()}
    verdict.write_table(tmp_path, tallies, plan, runs=2)
    assert verdict.done_before(tmp_path, plan) == (2, {"SIGTERM": tallies["SIGTERM"]})
    with pytest.raises(ValueError, match="a drill of other faults"):
        verdict.done_before(tmp_path, {**plan, "seed": 2})


def test_a_difference_is_found(tmp_path) -> None:
    """The judge is no yes-man: a step that is missing or stands twice, another batch, another loss and another skipped
    update are each named."""
    lines = [{"step": n, "fingerprint": f"{n:016x}", "loss": 1.0 / n} for n in range(1, verdict.STEPS + 1)]
    skipped = [{"step": 7, "samples": [["a", 1]]}]

    def write(name: str, metrics: list, bad: list):
        folder = tmp_path / name
        folder.mkdir()
        for file, content in (("metrics.jsonl", metrics), ("skipped.jsonl", bad)):
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in content))
        return folder

    reference = write("reference", lines, skipped)
    assert verdict.differences(write("same", lines, skipped), reference, exact=False) == []
    changed = [*lines[:4], {**lines[4], "loss": 0.201}, *lines[5:]]
    other = [*lines[:4], {**lines[4], "fingerprint": "f" * 16}, *lines[5:]]
    for name, metrics, bad, found in (
        ("twice", [*lines[:5], *lines[4:-1]], skipped, "steps are missing, or stand there twice"),
        ("batch", other, skipped, "other batches"),
        ("loss", changed, skipped, "losses beyond rounding"),
        ("skipped", lines, [], "other updates skipped"),
    ):
        assert found in verdict.differences(write(name, metrics, bad), reference, exact=False)


@pytest.mark.parametrize("kind", faults.FAULTS)
def test_every_kind_can_be_drawn(kind: str) -> None:
    """Each has a share and codes, and those that change the order of sums are not compared bit by bit."""
    fault = faults.FAULTS[kind]
    assert fault.share > 0
    assert fault.codes
    assert fault.exact == ("processes" not in kind and "devices" not in kind)
