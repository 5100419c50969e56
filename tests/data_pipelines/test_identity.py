"""A stage goes on with the data that it began with, or says what changed."""

import json
from dataclasses import replace

import pytest
from small_data import make_record, make_run

from data_pipelines.identity import FILE, check_identity
from data_pipelines.loader import open_loader
from data_pipelines.sources.array_record import write_shards


def identity(run):
    with open_loader(run, run.stages[0]) as loader:
        return loader.identity


def test_what_changed_is_named(data_root, tmp_path):
    """Another seed, another mixture and another source of the same name are three names; the same data passes."""
    run = make_run(str(data_root))
    stage = run.stages[0]
    known = identity(run)
    check_identity(tmp_path, stage.name, 0, known)
    check_identity(tmp_path, stage.name, 3, identity(make_run(str(data_root))))
    other = tmp_path / "other"
    write_shards(other / "pictures", map(make_record, range(1, 41)), records_per_shard=16)
    (other / "texts").symlink_to(data_root / "texts")
    weighed = replace(stage, mixture=tuple(replace(c, weight=c.weight + i) for i, c in enumerate(stage.mixture)))
    for changed, names in (
        (replace(run, data=replace(run.data, seed=run.data.seed + 1)), "data.seed"),
        (replace(run, stages=(weighed,)), "mixture"),
        (replace(run, data=replace(run.data, root=str(other))), "source pictures"),
    ):
        with pytest.raises(ValueError, match=f"up to step 3: {names} changed since"):
            check_identity(tmp_path, stage.name, 3, identity(changed))
    assert json.loads((tmp_path / FILE).read_text()) == {stage.name: known}


def test_a_stage_that_begins_anew_takes_what_is_there(tmp_path):
    """From step 0 nothing has been learned yet; other stages' entries stay."""
    check_identity(tmp_path, "first", 0, {"data.seed": "1"})
    check_identity(tmp_path, "second", 0, {"data.seed": "1"})
    check_identity(tmp_path, "second", 0, {"data.seed": "2"})
    assert json.loads((tmp_path / FILE).read_text()) == {"first": {"data.seed": "1"}, "second": {"data.seed": "2"}}
