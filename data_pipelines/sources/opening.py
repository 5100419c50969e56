"""From the name in a mixture to the source that it means."""

from pathlib import Path

from data_pipelines.sources.array_record import MANIFEST, ArrayRecordSource
from data_pipelines.sources.conversations import ConversationSource
from data_pipelines.sources.source import RecordSource


def open_source(root: str | Path, name: str) -> RecordSource:
    """Opens a folder of shards, or a JSON file of conversations.

    Args:
      root: folder of the data.
      name: path below `root`; a path that exists, absolute or below the working directory, is taken as it is.

    Raises:
      ValueError: there is no such source, or it cannot be used; the sentence says what was found instead.
    """
    path = Path(root) / name
    if not path.exists() and Path(name).exists():
        path = Path(name)
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return ArrayRecordSource(path)
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise ValueError(f"{path} is no folder of shards: it has no {MANIFEST}, but {found}")
    if path.is_file():
        if path.suffix in (".json", ".jsonl"):
            return ConversationSource(path)
        raise ValueError(f"{path} is neither a folder of shards nor a .json or .jsonl file of conversations")
    folder = path.parent
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    raise ValueError(f"there is no source {path}; {folder} holds: {found or 'nothing'}")
