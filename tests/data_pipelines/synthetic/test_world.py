"""Making the world: deterministic, whole or absent, and cheap to ask for again."""

import pytest

from data_pipelines.sources.array_record import ArrayRecordSource
from data_pipelines.synthetic import world
from data_pipelines.tasks import TASKS

COUNTS = {"scenes": 5, "documents": 4, "chats": 4, "texts": 6, "held_out": (3, 2, 2)}
FOLDERS = {
    "scenes": 5,
    "documents": 4,
    "chats": 4,
    "texts": 6,
    "held_out/scenes": 3,
    "held_out/documents": 2,
    "held_out/chats": 2,
}


def fingerprints(folder):
    return {name: ArrayRecordSource(folder / name).fingerprint for name in FOLDERS}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "small"
    world.make_world(folder, seed=1, workers=1, **COUNTS)
    return folder


def test_sources(made):
    """Each source has the records that were asked for, and each task applies to some record."""
    assert {name: len(ArrayRecordSource(made / name)) for name in FOLDERS} == FOLDERS
    records = [record for name in FOLDERS for record in ArrayRecordSource(made / name)]
    assert len({record.key for record in records}) == len(records)
    for name, task in TASKS.items():
        assert any(task(record) for record in records), name


def test_any_number_of_workers(made, tmp_path, monkeypatch):
    """Two processes make the same bytes as one, whatever the size of their jobs."""
    monkeypatch.setattr(world, "RECORDS_PER_JOB", 2)
    world.make_world(tmp_path / "w", seed=1, workers=2, **COUNTS)
    assert fingerprints(tmp_path / "w") == fingerprints(made)


def test_seeds_differ(made):
    """Another seed is another world, and training and held-out records differ under one seed."""
    source = world.Source("scenes", "scenes", False, 5, 0)
    assert world.make_record(2, source, 0) != ArrayRecordSource(made / "scenes")[0]
    assert world.make_record(1, source, 0) == ArrayRecordSource(made / "scenes")[0]


def test_second_call_makes_nothing(made, monkeypatch):
    """What is there is kept: a second call makes no record."""
    monkeypatch.setattr(world, "make_record", None)
    world.make_world(made, seed=1, workers=1, **COUNTS)


def test_other_settings_are_refused(made):
    """A folder is never silently taken for, or mixed with, a world of other settings."""
    with pytest.raises(ValueError, match="other settings"):
        world.make_world(made, seed=2, workers=1, **COUNTS)


def test_interrupted(made, tmp_path, monkeypatch):
    """Stopped in the middle of a source, no such source appears; the next call finishes the same world."""
    make_record, calls = world.make_record, []

    def stop_at_eleven(*args):
        calls.append(args)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return make_record(*args)

    folder = tmp_path / "w"
    monkeypatch.setattr(world, "make_record", stop_at_eleven)
    with pytest.raises(KeyboardInterrupt):
        world.make_world(folder, seed=1, workers=1, **COUNTS)
    assert (folder / "documents").exists()
    assert not (folder / "chats").exists()
    done = []
    monkeypatch.setattr(world, "make_record", make_record)
    world.make_world(folder, seed=1, workers=1, progress=lambda *args: done.append(args), **COUNTS)
    assert fingerprints(folder) == fingerprints(made)
    assert done[0] == ("chats", 4, 4)
