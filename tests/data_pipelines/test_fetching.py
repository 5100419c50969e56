"""A run on sources elsewhere: the batches of the same shards here, lengths measured once, losses counted."""

import os
import shutil
import time
from dataclasses import replace

import pytest
from small_data import make_record, make_run

from data_pipelines.components import own_mixture
from data_pipelines.fetching import AHEAD_WINDOWS, FetchAhead
from data_pipelines.loader import open_loader
from data_pipelines.sources import remote
from data_pipelines.sources.array_record import write_shards
from data_pipelines.tasks import TASKS
from qwenvl_jax.batch import OwnRows
from qwenvl_jax.config import Component
from qwenvl_jax.processing.encoders import stage_encoder

RECORDS, PER_SHARD = 60, 3


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(remote, "_failed", {})


@pytest.fixture
def far(tmp_path):
    """A folder elsewhere with 20 shards."""
    write_shards(tmp_path / "far" / "pictures", map(make_record, range(RECORDS)), records_per_shard=PER_SHARD)
    return tmp_path / "far"


def run_of(root, cache, **data):
    run = make_run(str(root), mixture=(Component("caption", "pictures", 1, lanes=True),), steps=2, rows=4)
    data = {"lanes": 2, "lane_window": 2, "cache": str(cache), "cache_bytes": 20 * 131072, **data}
    return replace(run, data=replace(run.data, **data))


def measured(run):
    """What `qwenvl data index` does."""
    [stage] = run.stages
    encoder = stage_encoder(run.model, stage, run.data.tokenizer)
    return own_mixture(run.data, "pictures", TASKS, encoder, fetch_all=True)


def batches(run, **arguments):
    with open_loader(run, run.stages[0], **arguments) as loader:
        return [(info.records, info.fingerprint) for _, info in loader]


def test_lengths_are_measured_once_and_lie_beside_the_shards(far, tmp_path):
    """A run refuses to fetch everything for them; once measured, another machine opens no shard before it reads."""
    address = f"file://{far}"
    run = run_of(address, tmp_path / "first")
    with pytest.raises(ValueError, match=rf"no lengths of caption .* once: qwenvl data index {address}/pictures"):
        open_loader(run, run.stages[0])
    assert {component.task: component.weight for component in measured(run)} == {"caption": 60, "vqa": 40}
    other = run_of(address, tmp_path / "second")
    with open_loader(other, other.stages[0], start_step=2):
        assert not [*(tmp_path / "second" / "files").rglob("shard*")]


def test_lengths_are_not_kept_where_a_shard_was_missing(far, tmp_path):
    """A network that fails for a while must not leave out a shard's records for good: measuring ends with a sentence."""
    run = run_of(f"file://{far}", tmp_path / "cache")
    (far / "pictures" / "shard-00019.array_record").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"shard-00019.array_record: record 0: there is no such file"):
        measured(run)
    assert not [*far.rglob("lengths-*")]


def test_batches_are_those_of_the_shards_here(far, tmp_path):
    """With 0 and 1 worker, and two processes that share a cache of half the shards."""
    here = batches(run_of(far, tmp_path / "unused"))
    there = run_of(f"file://{far}", tmp_path / "cache", cache_bytes=10 * 131072)
    measured(there)
    assert batches(there) == here
    assert batches(replace(there, data=replace(there.data, workers=1))) == here
    parts = [batches(there, own=OwnRows(rows, rows)) for rows in ((0, 1), (2, 3))]
    assert [first + second for (first, _), (second, _) in zip(*parts)] == [records for records, _ in here]


def test_a_lost_shard_is_replaced_and_counted(far, tmp_path):
    """Its samples are replaced by those of other shards, as always the same, and listed; without any shard, the run ends
    with a sentence."""
    # Each time an empty cache: threads may still be fetching ahead into the one before.
    whole, less, nothing = (
        run_of(f"file://{far}", tmp_path / name, max_bad_share=0.1) for name in ("whole", "less", "nothing")
    )
    measured(whole)
    first = batches(whole)[0][0][0][1]
    lost = f"shard-{first // PER_SHARD:05d}.array_record"
    os.remove(far / "pictures" / lost)
    found = []
    for _ in range(2):
        with open_loader(less, less.stages[0]) as loader:
            found.append([info for _, info in loader])
    assert found[0] == found[1]
    problems = [problem for info in found[0] for problem in info.problems]
    assert {problem.file for problem in problems} == {f"file://{far}/pictures/{lost}"}
    assert sum(info.replaced for info in found[0]) == len(problems) > 0
    assert sum(info.dropped for info in found[0]) == 0
    for shard in far.rglob("*.array_record"):
        shard.unlink()
    with (
        open_loader(nothing, nothing.stages[0]) as loader,
        pytest.raises(ValueError, match=r"could not be read, more than data\.max-bad-share.*there is no such file"),
    ):
        list(loader)


def test_shards_are_fetched_before_they_are_due(far, tmp_path):
    """The shards of the next windows of the stream are there without a read; those looked at are not asked for again."""
    run = run_of(f"file://{far}", tmp_path / "cache", window=4)
    measured(run)
    shutil.rmtree(tmp_path / "cache" / "files")
    with open_loader(run, run.stages[0]) as loader:
        ahead = FetchAhead(loader.plan, loader.components)
        _, samples = loader.plan.streams[0].window_samples(AHEAD_WINDOWS)
        wanted = {f"shard-{sample // PER_SHARD:05d}.array_record" for sample in samples.tolist()}
        ahead(range(1))
        folder = loader.components[0].source.remote.folder
        for _ in range(600):
            if all(map(folder.is_cached, wanted)):
                break
            time.sleep(0.1)
        assert all(map(folder.is_cached, wanted))
        asked = []
        ahead._fetch = lambda *window: asked.append(window)
        ahead(range(1))
        assert asked == []
