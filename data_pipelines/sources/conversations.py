"""The fine-tuning JSON of Qwen-VL: a list of `{"id": ..., "conversations": [{"from": "user", "value": ...},
...]}`.

`<img>path</img>` in a value names a picture below the JSON's folder; `<box>(x1,y1),(x2,y2)</box>` and `<quad>` hold
coordinates in [0, 1000). The same entries as JSON lines are read too, and LLaVA's form (`data_pipelines.sources.llava`).
Every entry is checked when the file is opened; what cannot be used is left out and reported. Source
of the format: `finetune.py` of the original, which also drops a first turn that is not the user's.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from data_pipelines.records import Record, StoredImage, Turn
from data_pipelines.sources.llava import as_qwen, is_llava
from data_pipelines.sources.paths import picture_below
from data_pipelines.sources.remote import RemoteShards
from data_pipelines.sources.source import Problem, RecordError
from qwenvl_jax.processing.images import image_size
from qwenvl_jax.processing.markup import ImageSpan, parse

ROLES = ("user", "assistant")


class ConversationSource:
    """The usable entries of a file of conversations; pictures are read when a record is."""

    def __init__(self, path: Path) -> None:
        """Reads the file and checks every entry (pictures: only that the files exist).

        Raises:
          ValueError: the file is no JSON list and no JSON lines, or no entry of it can be used.
        """
        self._path = Path(path)
        self.name = self._path.name
        self.cache_folder = str(self._path.parent)
        self.remote: RemoteShards | None = None
        content = _read(self._path)
        digest = hashlib.sha256(content)
        entries, broken = _parse(content, self._path)
        problems = [Problem(str(self._path), index, reason) for index, reason in broken]
        self._records: list[tuple[int, str, tuple[Turn, ...], tuple[str, ...]]] = []
        for index, entry in entries:
            try:
                key, turns, pictures = _check(entry, self._path.parent)
                for picture in pictures:
                    digest.update(f"{picture}:{Path(picture).stat().st_size}".encode())
            except (ValueError, OSError) as error:
                problems.append(Problem(str(self._path), index, str(error)))
            else:
                self._records.append((index, key or str(index), turns, pictures))
        self.shard_ends = [len(self._records)]
        self.problems = tuple(sorted(problems))
        self.fingerprint = digest.hexdigest()[:16]
        if not self._records:
            first = f"; entry {self.problems[0].index}: {self.problems[0].reason}" if self.problems else ""
            raise ValueError(f"{self._path}: none of its {len(self.problems)} entries can be used{first}")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, position: int) -> Record:
        """Record number `position` of the usable entries.

        Raises:
          RecordError: a picture of it cannot be read.
        """
        index, key, turns, pictures = self._records[position]
        images = []
        for picture in pictures:
            try:
                data = Path(picture).read_bytes()
                images.append(StoredImage(data, *image_size(data)))
            except (OSError, ValueError) as error:
                raise RecordError(str(self._path), index, f"picture {picture}: {error}") from error
        return Record(key=key, images=tuple(images), conversation=turns)

    def outline(self, position: int) -> Record:
        """The whole record: entries of a fine-tuning file are few, and a picture that cannot be read shows here."""
        return self[position]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _parse(content: bytes, path: Path) -> tuple[list[tuple[int, Any]], list[tuple[int, str]]]:
    """Entries with their index, and the lines (JSON lines only) that are no JSON, with the reason."""
    if path.suffix == ".jsonl":
        return _parse_lines(content)
    try:
        entries = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON (line {error.lineno}: {error.msg}): give a list of conversations"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply: give a list of conversations") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds a {type(entries).__name__}: give a list of conversations")
    return list(enumerate(entries)), []


def _parse_lines(content: bytes) -> tuple[list[tuple[int, Any]], list[tuple[int, str]]]:
    good, broken = [], []
    # Split at line feeds alone: JSON may hold U+2028 and other characters that str.splitlines takes for line ends.
    lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    for index, line in enumerate(lines):
        try:
            good.append((index, json.loads(line.decode())))
        except UnicodeDecodeError:
            broken.append((index, "not UTF-8"))
        except json.JSONDecodeError as error:
            broken.append((index, f"not JSON ({error.msg})"))
        except RecursionError:
            broken.append((index, "nested too deeply"))
    return good, broken


def _check(entry: Any, folder: Path) -> tuple[str, tuple[Turn, ...], tuple[str, ...]]:
    """Key, turns (pictures by number) and paths of the pictures; ValueError with the reason if it cannot be
    used."""
    if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
        raise ValueError('no list under "conversations"')
    if is_llava(entry):
        entry = as_qwen(entry)
    messages = entry["conversations"]
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("value"), str):
            raise ValueError('a turn lacks "from" or a text under "value"')
        if message.get("from") not in ROLES:
            raise ValueError(f"unknown role {message.get('from')!r}; roles are {' and '.join(ROLES)}")
    if messages and messages[0]["from"] != "user":
        messages = messages[1:]
    if all(message["from"] != "assistant" for message in messages):
        raise ValueError("no assistant turn after a user turn: there is nothing to learn")
    turns: list[Turn] = []
    pictures: list[str] = []
    for message in messages:
        text = _number_pictures(message["value"], folder, pictures)
        turns.append(Turn(message["from"], text))
    return str(entry.get("id", "")), tuple(turns), tuple(pictures)


def _number_pictures(text: str, folder: Path, pictures: list[str]) -> str:
    """Checks all markup of a turn and writes `<img>N</img>` for pictures, whose paths go to the end of
    `pictures`."""
    pieces = []
    for element in parse(text):
        if isinstance(element, ImageSpan):
            pictures.append(str(picture_below(folder, element.path.strip())))
            element = ImageSpan(str(len(pictures) - 1))
        pieces.append(str(element))
    return "".join(pieces)
