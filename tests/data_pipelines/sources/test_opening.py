"""Names in a mixture: what they open, and what is said where they open nothing."""

import json

import pytest
from small_data import make_record

from data_pipelines.sources.array_record import ArrayRecordSource, write_shards
from data_pipelines.sources.conversations import ConversationSource
from data_pipelines.sources.opening import open_source


def test_folder_and_file_below_the_root_or_by_path(tmp_path, monkeypatch):
    """A folder of shards, a JSON below the root, and a JSON by its own path all open."""
    write_shards(tmp_path / "data" / "shards", [make_record(0)])
    turns = [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]
    (tmp_path / "own.json").write_text(json.dumps([{"conversations": turns}]))
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_source("data", "shards"), ArrayRecordSource)
    for root, name in (("data", str(tmp_path / "own.json")), ("data", "own.json"), (tmp_path, "own.json")):
        assert isinstance(open_source(root, name), ConversationSource)


def test_nothing_to_open_is_said_with_what_was_found(tmp_path):
    """The sentence lists what lies there instead."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.tar").write_bytes(b"")
    (tmp_path / "other" / "x.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no source .*captions; .* holds: other"):
        open_source(tmp_path, "captions")
    with pytest.raises(ValueError, match=r"none of its 1 entries can be used .*no tar"):
        open_source(tmp_path, "other")
    with pytest.raises(ValueError, match=r"x.txt cannot be opened; what can be opened is our shards"):
        open_source(tmp_path, "other/x.txt")
    with pytest.raises(ValueError, match="no such folder"):
        open_source(tmp_path / "nowhere", "captions")
