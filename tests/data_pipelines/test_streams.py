"""Streams and lanes in a run: the same rows for every number of processes and workers, each process with its own shards."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from small_data import make_record, make_run

from data_pipelines.components import open_components
from data_pipelines.identity import data_identity
from data_pipelines.loader import open_loader
from data_pipelines.packing import PackingPlan
from data_pipelines.rows import SHARD_TRIES, _candidates
from data_pipelines.sources.array_record import write_shards
from data_pipelines.streams import plan_rows
from data_pipelines.tasks import TASKS
from qwenvl_jax.batch import OwnRows
from qwenvl_jax.config import Component
from qwenvl_jax.processing.encoders import stage_encoder

MIXTURE = (Component("caption", "pictures", 2, lanes=True), Component("vqa", "pictures", 1))
RECORDS, PER_SHARD = 240, 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """48 shards of 5 pictures."""
    folder = tmp_path_factory.mktemp("lanes")
    write_shards(folder / "pictures", map(make_record, range(RECORDS)), records_per_shard=PER_SHARD)
    return folder


def run_of(root, streams=4, **data):
    run = make_run(str(root), mixture=MIXTURE, steps=3, rows=8)
    return replace(run, data=replace(run.data, streams=streams, lanes=2, lane_window=2, **data))


def components_of(run):
    [stage] = run.stages
    return open_components(stage, run.data, TASKS, stage_encoder(run.model, stage, run.data.tokenizer))


def part(process, count):
    """The rows of a batch of 8 that a process makes."""
    rows = tuple(range(8 * process // count, 8 * (process + 1) // count))
    return OwnRows(rows, rows)


def infos(run, **arguments):
    with open_loader(run, run.stages[0], **arguments) as loader:
        return [info for _, info in loader]


def test_processes_and_workers_change_nothing(root):
    """One process with a worker, and 2 or 4 processes: the records of every row of every step are the same."""
    whole = [info.records for info in infos(run_of(root))]
    assert [info.records for info in infos(run_of(root, workers=1), start_step=1)] == whole[1:]
    for count in (2, 4):
        parts = [infos(run_of(root), own=part(p, count)) for p in range(count)]
        assert [sum((info.records for info in step), ()) for step in zip(*parts)] == whole


def test_a_restart_packs_no_window_again(root, monkeypatch):
    """The windows that all processes tell of a batch are enough for any number of them to go on, each planning its own
    streams from there; a process tells of its own alone."""
    run, count = run_of(root, window=2), 2
    told = [infos(run, own=part(process, count))[1].windows for process in range(count)]
    assert [[known.stream for known in windows] for windows in told] == [[0, 1], [2, 3]]
    assert all(known.row > 0 for windows in told for known in windows)
    expected = {count: [infos(run, own=part(p, count))[2] for p in range(count)] for count in (1, 4)}
    packed, pack_window = set(), PackingPlan._pack_window
    monkeypatch.setattr(
        PackingPlan, "_pack_window", lambda plan, window: packed.add(window) or pack_window(plan, window)
    )
    windows = [known for part_told in told for known in part_told]
    for count, infos_there in expected.items():
        later = [infos(run, own=part(p, count), start_step=2, windows=windows) for p in range(count)]
        assert [found for [found] in later] == infos_there
    assert min(packed) >= min(known.window for known in windows) > 0


def test_an_epoch_is_complete_over_all_streams(root):
    """Streams that were packed equally far have together taken every sample as often, but for those on the way."""
    run = run_of(root)
    components = components_of(run)
    plan = plan_rows(run, run.stages[0], components)
    windows = 3 * RECORDS // (4 * run.data.window)
    taken = Counter(
        item.sample
        for stream in plan.streams for window in range(windows) for row in stream.window_rows(window)
        for item in row if item.component == 0
    )  # fmt: skip
    epochs = sum(taken.values()) / len(components[0].records)
    assert epochs > 1
    assert set(taken.values()) <= {int(epochs), int(epochs) + 1}


def test_a_process_reads_its_own_shards(root):
    """With as many streams as processes, what two processes read of a component in lanes hardly meets in an epoch."""
    run = run_of(root)
    shards = []
    for process in range(4):
        read = infos(run, own=part(process, 4))[:2]
        shards.append({record // PER_SHARD for info in read for component, record in info.records if component == 0})
    shared = sum(len(shards[a] & shards[b]) for a in range(4) for b in range(a))
    assert shared <= 4  # lanes are cut within a shard, so neighbours share one
    assert min(map(len, shards)) >= 4


def test_replacements_are_of_the_same_shard_first(root):
    """A picture that does not decode costs no shard that nobody else reads; later candidates are anywhere."""
    samples = replace(components_of(run_of(root))[0], vision=np.zeros(RECORDS), tokens=np.zeros(RECORDS))
    found = list(_candidates(samples, 12))
    assert found[:5] == [12, 13, 14, 10, 11]
    assert len(found) == PER_SHARD - 1 + 200
    assert SHARD_TRIES >= PER_SHARD - 1


def test_impossible_numbers_are_refused(root):
    """Rows that streams cannot share, and lanes without a shard, are sentences."""
    for run, reason in (
        (run_of(root, streams=3), "8 rows cannot be shared by 3 streams"),
        (replace(run_of(root), data=replace(run_of(root).data, lanes=0)), "must be at least 1"),
    ):
        with pytest.raises(ValueError, match=reason):
            plan_rows(run, run.stages[0], components_of(run))


def test_lanes_and_streams_are_part_of_the_identity(root):
    """They decide the order, so a run cannot go on with others; a run without them has the identity that it had."""
    found = []
    for run in (
        run_of(root),
        run_of(root, streams=2),
        replace(run_of(root), data=replace(run_of(root).data, lane_window=3)),
    ):
        encoder = stage_encoder(run.model, run.stages[0], run.data.tokenizer)
        found.append(data_identity(run, run.stages[0], components_of(run), encoder))
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    assert "data.streams" not in data_identity(run_of(root, streams=1), run.stages[0], [], encoder)
    assert "sources in lanes" not in data_identity(run_of(root), run.stages[0], [], encoder)
