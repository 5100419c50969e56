"""From the name in a mixture to the source that it means, decided by what lies at the path."""

from pathlib import Path

from data_pipelines.sources.academic.sets import academic_set
from data_pipelines.sources.annotations import AnnotationFormat
from data_pipelines.sources.array_record import MANIFEST, ArrayRecordSource
from data_pipelines.sources.conversations import ConversationSource
from data_pipelines.sources.image_folder import ImageFolder, has_pictures
from data_pipelines.sources.index import IndexedSource
from data_pipelines.sources.parquet import ParquetPictures
from data_pipelines.sources.source import RecordSource
from data_pipelines.sources.tfds import INFO, Prepared, is_prepared, splits
from data_pipelines.sources.webdataset import WebDataset

KNOWN = (
    "our shards (manifest.json), tars of img2dataset, Parquet with pictures, pictures with .txt files, "
    "a dataset prepared by TFDS, a .json or .jsonl of conversations, or a published annotation file"
)


def find(root: str | Path, name: str) -> Path:
    """The path that a mixture's source names: below `root`, or as it is, absolute or below the working directory."""
    path = Path(root) / name
    return Path(name) if not path.exists() and Path(name).exists() else path


def open_source(root: str | Path, name: str) -> RecordSource:
    """Opens what lies at a path; see `KNOWN`.

    Args:
      root: folder of the data.
      name: path below `root`; a path that exists, absolute or below the working directory, is taken as it is.
        A split of a TFDS dataset is named behind its folder: `ref_coco/1.0.0/train`.

    Raises:
      ValueError: there is no such source, or it cannot be used; the sentence says what was found instead.
    """
    path = find(root, name)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_file(path)
    if is_prepared(path.parent):
        return _open_prepared(path.parent, path.name)
    folder = path.parent
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    raise ValueError(f"there is no source {path}; {folder} holds: {found or 'nothing'}")


def _open_folder(path: Path) -> RecordSource:
    if (path / MANIFEST).is_file():
        return ArrayRecordSource(path)
    if is_prepared(path):
        there = splits(path)
        if len(there) != 1:
            raise ValueError(f"{path} has the splits {', '.join(there)}: name one, as {path / there[0]}")
        return _open_prepared(path, there[0])
    if (found := academic_set(path)) is not None:
        return IndexedSource(path.parent, [path.name], AnnotationFormat(found.reader), path.name)
    if tars := sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*.tar")):
        return IndexedSource(path, tars, WebDataset(), path.name)
    if files := sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*.parquet")):
        return IndexedSource(path, files, ParquetPictures(), path.name)
    if has_pictures(path):
        return IndexedSource(path, ["."], ImageFolder(), path.name)
    inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    raise ValueError(f"{path} is no source: it has {inside}; what can be opened is {KNOWN}")


def _open_file(path: Path) -> RecordSource:
    if (found := academic_set(path)) is not None:
        return IndexedSource(path.parent, [path.name], AnnotationFormat(found.reader), path.name)
    if path.suffix in (".json", ".jsonl"):
        return ConversationSource(path)
    if path.suffix == ".tar":
        return IndexedSource(path.parent, [path.name], WebDataset(), path.name)
    if path.suffix == ".parquet":
        return IndexedSource(path.parent, [path.name], ParquetPictures(), path.name)
    raise ValueError(f"{path} cannot be opened; what can be opened is {KNOWN}")


def _open_prepared(folder: Path, split: str) -> RecordSource:
    if split not in (there := splits(folder)):
        raise ValueError(f"{folder} has no split {split}; there are {', '.join(there)}")
    return IndexedSource(folder, [INFO], Prepared(split), f"{folder.name}-{split}")
