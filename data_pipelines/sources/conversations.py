"""The fine-tuning JSON of Qwen-VL: a list of `{"id": ..., "conversations": [{"from": "user", "value": ...},
...]}`.

`<img>path</img>` in a value names a picture below the JSON's folder; `<box>(x1,y1),(x2,y2)</box>` and `<quad>` hold
coordinates in [0, 1000). Ours are `<video>path</video>`, which Qwen2-VL reads, and a first turn of the `system`. The same
entries as JSON lines are read too, and other forms (`data_pipelines.sources.conversation_forms`), among them documents with
pictures by path (`data_pipelines.sources.interleaved`).
Every entry is checked when the file is opened; what cannot be used is left out and reported. Source
of the format: `finetune.py` of the original, which also drops a first turn of the assistant's.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.records import Record, StoredImage, StoredVideo, Turn
from data_pipelines.sources.conversation_forms import as_qwen, is_foreign, learnable
from data_pipelines.sources.interleaved import IMAGES, TEXTS, article, is_interleaved
from data_pipelines.sources.paths import file_below
from data_pipelines.sources.remote import RemoteShards
from data_pipelines.sources.source import Problem, RecordError
from qwenvl_jax.json_text import read_json
from qwenvl_jax.processing.images import image_size
from qwenvl_jax.processing.markup import ImageSpan, PlainText, parse
from qwenvl_jax.processing.video import probe_video

ROLES = ("system", "user", "assistant")
VIDEO = re.compile("<video>(.*?)</video>")


class Conversation(NamedTuple):
    """A usable entry: its number in the file, key, turns (pictures and videos by number) and the paths of both; a document
    has a text and no turns."""

    number: int
    key: str
    turns: tuple[Turn, ...]
    pictures: tuple[str, ...]
    videos: tuple[str, ...]
    text: str = ""


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
        self._records: list[Conversation] = []
        for index, entry in entries:
            try:
                conversation = _check(index, entry, self._path.parent)
                for file in conversation.pictures + conversation.videos:
                    digest.update(f"{file}:{Path(file).stat().st_size}".encode())
            except (ValueError, OSError) as error:
                problems.append(Problem(str(self._path), index, str(error)))
            else:
                self._records.append(conversation)
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
          RecordError: a picture or a video of it cannot be read.
        """
        conversation = self._records[position]
        images, videos, path = [], [], ""
        try:
            for path in conversation.pictures:
                data = Path(path).read_bytes()
                images.append(StoredImage(data, *image_size(data)))
            for path in conversation.videos:
                data = Path(path).read_bytes()
                info = probe_video(data)
                videos.append(StoredVideo(data, info.frames, info.frames_per_second, info.width, info.height))
        except (OSError, ValueError) as error:
            kind = "video" if path in conversation.videos else "picture"
            raise RecordError(str(self._path), conversation.number, f"{kind} {path}: {error}") from error
        turns, text = conversation.turns, conversation.text
        return Record(conversation.key, tuple(images), conversation=turns, text=text, videos=tuple(videos))

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
        entries = read_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON (line {error.lineno}: {error.msg}): give a list of conversations"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): give a list of conversations") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds a {type(entries).__name__}: give a list of conversations")
    return list(enumerate(entries)), []


def _parse_lines(content: bytes) -> tuple[list[tuple[int, Any]], list[tuple[int, str]]]:
    good, broken = [], []
    # Split at line feeds alone: JSON may hold U+2028 and other characters that str.splitlines takes for line ends.
    lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    for index, line in enumerate(lines):
        try:
            good.append((index, read_json(line.decode())))
        except UnicodeDecodeError:
            broken.append((index, "not UTF-8"))
        except json.JSONDecodeError as error:
            broken.append((index, f"not JSON ({error.msg})"))
        except ValueError as error:
            broken.append((index, str(error)))
    return good, broken


def _check(index: int, entry: Any, folder: Path) -> Conversation:
    """An entry as it will be read; ValueError with the reason if it cannot be used."""
    if isinstance(entry, dict) and is_interleaved(entry.get(TEXTS), entry.get(IMAGES)):
        return _check_document(index, entry, folder)
    if isinstance(entry, dict) and is_foreign(entry):
        entry = as_qwen(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
        raise ValueError('no list under "conversations"')
    for message in entry["conversations"]:
        if not isinstance(message, dict) or not isinstance(message.get("value"), str):
            raise ValueError('a turn lacks "from" or a text under "value"')
        if message.get("from") not in ROLES:
            raise ValueError(f"unknown role {message.get('from')!r}; roles are {' and '.join(ROLES[1:])}")
    paths: tuple[list[str], list[str]] = [], []
    turns = tuple(
        Turn(role, _number_files(text, folder, *paths))
        for role, text in learnable([(message["from"], message["value"]) for message in entry["conversations"]])
    )
    pictures, videos = map(tuple, paths)
    return Conversation(index, str(entry.get("id", "")) or str(index), turns, pictures, videos)


def _check_document(index: int, entry: dict[str, Any], folder: Path) -> Conversation:
    text, pictures = article(entry[TEXTS], entry[IMAGES]), [path for path in entry[IMAGES] if path]
    if not all(isinstance(path, str) for path in pictures):
        raise ValueError(f'"{IMAGES}" holds something that is no path')
    files = tuple(str(file_below(folder, path.strip())) for path in pictures)
    return Conversation(index, str(entry.get("id", "")) or str(index), (), files, (), text)


def _number_files(text: str, folder: Path, pictures: list[str], videos: list[str]) -> str:
    """Checks all markup of a turn and writes `<img>N</img>` and `<video>N</video>`; the paths go to the end of the lists."""

    def numbered(video: re.Match[str]) -> str:
        videos.append(str(file_below(folder, video[1].strip(), "video")))
        return f"<video>{len(videos) - 1}</video>"

    pieces = []
    for element in parse(text):
        if isinstance(element, ImageSpan):
            pictures.append(str(file_below(folder, element.path.strip())))
            element = ImageSpan(str(len(pictures) - 1))
        pieces.append(VIDEO.sub(numbered, element.text) if isinstance(element, PlainText) else str(element))
    return "".join(pieces)
