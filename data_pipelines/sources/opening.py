"""From the name in a mixture to the source that it means, decided by what lies at the path."""

from pathlib import Path

from data_pipelines.sources.academic.sets import academic_set
from data_pipelines.sources.annotations import AnnotationFormat
from data_pipelines.sources.array_record import MANIFEST, ArrayRecordSource
from data_pipelines.sources.conversations import ConversationSource
from data_pipelines.sources.image_folder import ImageFolder, has_pictures
from data_pipelines.sources.indexed import open_indexed
from data_pipelines.sources.parquet import ParquetPictures
from data_pipelines.sources.remote import FetchError, RemoteFolder, check_address, is_address
from data_pipelines.sources.remote_index import make_remote_index, open_remote_index
from data_pipelines.sources.shard_cache import ShardCache
from data_pipelines.sources.source import RecordSource
from data_pipelines.sources.tfds import INFO, Prepared, is_prepared, splits
from data_pipelines.sources.transfer import UNLISTED, file_system
from data_pipelines.sources.webdataset import WebDataset

KNOWN = (
    "our shards (manifest.json), tars of img2dataset, Parquet with pictures, pictures with .txt files, "
    "a dataset prepared by TFDS, a .json or .jsonl of conversations, or a published annotation file"
)

REMOTE = "our shards, and tars or Parquet with an index"


def find(root: str | Path, name: str) -> Path | str:
    """The path that a mixture's source names: below `root`, or as it is, absolute or below the working directory; or its
    address."""
    if is_address(name):
        return name.rstrip("/")
    if is_address(str(root)):
        return f"{str(root).rstrip('/')}/{name}".rstrip("/")
    path = Path(root) / name
    return Path(name) if not path.exists() and Path(name).exists() else path


def open_source(root: str | Path, name: str, cache: ShardCache | None = None) -> RecordSource:
    """Opens what lies at a path or an address; see `KNOWN` and `REMOTE`.

    Args:
      root: folder of the data, here or elsewhere.
      name: path below `root`; a path that exists, absolute or below the working directory, and an address are taken as
        they are. A split of a TFDS dataset is named behind its folder: `ref_coco/1.0.0/train`.
      cache: for files of sources that lie elsewhere.

    Raises:
      ValueError: there is no such source, or it cannot be used; the sentence says what was found instead.
    """
    path = find(root, name)
    if isinstance(path, str):
        return open_remote(remote_folder(path, cache))
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_file(path)
    if is_prepared(path.parent):
        return _open_prepared(path.parent, path.name)
    folder = path.parent
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    raise ValueError(f"there is no source {path}; {folder} holds: {found or 'nothing'}")


def remote_folder(address: str, cache: ShardCache | None) -> RemoteFolder:
    """Raises ValueError where the address cannot be used, its package is missing, or there is no cache for its files."""
    check_address(address)
    file_system(address.partition("://")[0])
    if cache is None:
        raise ValueError(f"{address} lies elsewhere, and only what a run trains on is fetched: copy it here first")
    return RemoteFolder(address.rstrip("/"), cache)


def open_remote(folder: RemoteFolder) -> RecordSource:
    """Opens a folder that lies elsewhere.

    Raises:
      ValueError: it cannot be read, or is nothing of `REMOTE`.
    """
    try:
        for opened in (ArrayRecordSource, open_remote_index):
            try:
                return opened(folder)
            except FileNotFoundError:
                continue
    except FetchError as error:
        raise ValueError(str(error)) from error
    how = f"qwenvl data index {folder.address} makes one"
    if folder.protocol in UNLISTED:
        how = "qwenvl data index FOLDER makes one, before the folder is copied there with its .index"
    raise ValueError(
        f"{folder.address} is no source: it has no {MANIFEST} and no index; what can be opened is {REMOTE} ({how})"
    )


def index_source(root: str | Path, name: str, cache: ShardCache) -> RecordSource:
    """Opens a source after its index was made or refreshed, also where it lies elsewhere.

    Raises:
      ValueError: as `open_source`, or the index cannot be written there.
    """
    path = find(root, name)
    if isinstance(path, str):
        folder = remote_folder(path, cache)
        try:
            if not folder.has(MANIFEST) and folder.protocol not in UNLISTED:
                make_remote_index(folder)
        except FetchError as error:
            raise ValueError(str(error)) from error
    return open_source(root, name, cache)


def _open_folder(path: Path) -> RecordSource:
    if (path / MANIFEST).is_file():
        return ArrayRecordSource(path)
    if is_prepared(path):
        there = splits(path)
        if len(there) != 1:
            raise ValueError(f"{path} has the splits {', '.join(there)}: name one, as {path / there[0]}")
        return _open_prepared(path, there[0])
    if (found := academic_set(path)) is not None:
        return open_indexed(path.parent, [path.name], AnnotationFormat(found.reader), path.name)
    if tars := sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*.tar")):
        return open_indexed(path, tars, WebDataset(), path.name)
    if files := sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*.parquet")):
        return open_indexed(path, files, ParquetPictures(), path.name)
    if has_pictures(path):
        return open_indexed(path, ["."], ImageFolder(), path.name)
    inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    raise ValueError(f"{path} is no source: it has {inside}; what can be opened is {KNOWN}")


def _open_file(path: Path) -> RecordSource:
    if (found := academic_set(path)) is not None:
        return open_indexed(path.parent, [path.name], AnnotationFormat(found.reader), path.name)
    if path.suffix in (".json", ".jsonl"):
        return ConversationSource(path)
    if path.suffix == ".tar":
        return open_indexed(path.parent, [path.name], WebDataset(), path.name)
    if path.suffix == ".parquet":
        return open_indexed(path.parent, [path.name], ParquetPictures(), path.name)
    raise ValueError(f"{path} cannot be opened; what can be opened is {KNOWN}")


def _open_prepared(folder: Path, split: str) -> RecordSource:
    if split not in (there := splits(folder)):
        raise ValueError(f"{folder} has no split {split}; there are {', '.join(there)}")
    return open_indexed(folder, [INFO], Prepared(split), f"{folder.name}-{split}")
