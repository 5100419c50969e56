"""Paths that a file of annotations or a conversation names: they stay below the folder that they belong to."""

import hashlib
import os
import re
import unicodedata
from pathlib import Path

REMOTE = ("http://", "https://", "gs://", "s3://", "file://", "data:")


def index_name(name: str) -> str:
    """Name of what belongs to a file or folder. The digest keeps names apart that differ in letters which are replaced."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[-80:]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def file_below(folder: Path, path: str, kind: str = "picture") -> Path:
    """The existing file that `path` names below `folder`.

    Names are compared by their letters alone: a link that lies in the folder is followed, as its owner put it there.

    Raises:
      ValueError: the path is an address, leaves the folder, or names no file.
    """
    if path.startswith(REMOTE):
        raise ValueError(f"{kind} {path[:200]} is on the web: download it first and give its path")
    if "\0" in path:
        raise ValueError(f"{kind} {path[:200]!r} is no path: it holds a zero byte")
    root = os.path.abspath(folder)
    if os.path.commonpath([root, os.path.abspath(os.path.join(root, path))]) != root:
        raise ValueError(f"{kind} {path[:200]} lies outside {folder}: put it there, or a link to its folder")
    # Annotations may be in NFC by now, while file names written on a Mac are often in NFD.
    for form in ("NFC", "NFD"):
        found = Path(os.path.join(root, unicodedata.normalize(form, path)))
        if _is_file(found):
            return found
    raise ValueError(f"{kind} {os.path.join(root, path)[:300]} does not exist")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def first_folder(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of several usual places that exists.

    Raises:
      ValueError: none does; the sentence lists them.
    """
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise ValueError(f"{folder} has none of the folders {', '.join(names)}: put the pictures into one of them")
