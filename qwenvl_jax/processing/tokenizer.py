"""Text to ids and back: Qwen's byte-pair vocabulary, small ones of the embedded worlds, and one id per byte.

All vocabularies end in the same special tokens in the same order, so everything above works with either.
Source of the behaviour: `tokenization_qwen.py` of the original.
"""

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tiktoken

from qwenvl_jax.json_text import read_json

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
REF_START, REF_END = "<ref>", "</ref>"
BOX_START, BOX_END = "<box>", "</box>"
QUAD_START, QUAD_END = "<quad>", "</quad>"
IMAGE_START, IMAGE_END, IMAGE_PAD = "<img>", "</img>", "<imgpad>"

GROUNDING_TOKENS = (REF_START, REF_END, BOX_START, BOX_END, QUAD_START, QUAD_END)
"""What answers keep of the special tokens, and what is special in the text that a user types."""
MARKUP_TOKENS = (*GROUNDING_TOKENS, IMAGE_START, IMAGE_END, IMAGE_PAD)
"""What is special in the original's chat. Here `<img>` in a user's text is plain text: pictures are given as such."""
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, *(f"<|extra_{i}|>" for i in range(205)), *MARKUP_TOKENS)
"""In the order of their ids, which follow the vocabulary's ordinary ids."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a family of models, and what some of them mean.

    Attributes:
      strings: in the order of their ids, which follow the vocabulary's ordinary ids.
      image_start: stands before an image or video.
      image_end: stands behind it.
      image_pad: stands where a vision token of an image is placed.
      grounding: what answers keep of the special tokens: its own words for `GROUNDING_TOKENS`, in their order.
      image_paths: whether an image's path may stand between start and end, a byte in each place (Qwen-VL).
    """

    strings: tuple[str, ...]
    image_start: str
    image_end: str
    image_pad: str
    grounding: tuple[str, ...]
    image_paths: bool


QWEN_VL = SpecialTokens(SPECIAL_TOKENS, IMAGE_START, IMAGE_END, IMAGE_PAD, GROUNDING_TOKENS, image_paths=True)

IMAGE_SLOTS = 256
"""Ids between `<img>` and `</img>` of an encoded path, whatever its length."""
MAX_PATH_BYTES = 254
"""The original tokenizes 255 and 256 bytes too, but its model then fails to read the path back."""

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is split before byte pairs are merged: cl100k's, but with single digits."""
BYTES = "bytes"
"""The name of the byte-level vocabulary."""
WORLD, NATIVE = "world", "native"
"""The names of the embedded worlds' byte-pair vocabularies (`data_pipelines.synthetic.vocabulary` makes their files)."""
WORLD_FILE = Path(__file__).with_name("world.tiktoken")
EMBEDDED: Mapping[str, Path] = {WORLD: WORLD_FILE, NATIVE: Path(__file__).with_name("native.tiktoken")}
VOCABULARY_FILE = "qwen.tiktoken"
JSON_VOCABULARY_FILES = ("vocab.json", "tokenizer.json")
"""The same vocabulary as checkpoints of Qwen2-VL hold it, in either file."""

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}
"""The printable character that stands for each byte in these files: GPT-2's alphabet."""


class Tokenizer:
    """Text to ids and back. Picklable; made by `load_tokenizer`.

    Attributes:
      name: `bytes`, `world`, `native`, or `qwen` for the vocabulary of a file.
      special_tokens: special string to id, in the order of the ids.
      special: the family's special tokens.
      size: number of ids (151860 for Qwen-VL, 473 with bytes); an embedding needs at least as many rows.
      fingerprint: 16 hexadecimal digits that identify the vocabulary and its special tokens.
    """

    def __init__(self, name: str, ranks: Mapping[bytes, int], special: SpecialTokens = QWEN_VL) -> None:
        """Use `load_tokenizer`. `ranks` maps a token's bytes to its id; ids are 0 .. len(ranks) - 1."""
        self.name, self.special = name, special
        self.special_tokens = {token: len(ranks) + i for i, token in enumerate(special.strings)}
        self.size = len(ranks) + len(special.strings)
        self.eod_id = self.special_tokens[END_OF_TEXT]
        self.im_start_id = self.special_tokens[IM_START]
        self.im_end_id = self.special_tokens[IM_END]
        self.image_start_id = self.special_tokens[special.image_start]
        self.image_end_id = self.special_tokens[special.image_end]
        self.image_pad_id = self.special_tokens[special.image_pad]
        self._encoding = tiktoken.Encoding(
            name, pat_str=PATTERN, mergeable_ranks=dict(ranks), special_tokens=self.special_tokens
        )
        # Measured on 340 characters: 27 us through tiktoken without merges, 3 us when bytes are taken as ids.
        self._byte_level = name == BYTES
        self._special = re.compile("(" + "|".join(map(re.escape, special.strings)) + ")")
        by_id = sorted(ranks.items(), key=lambda item: item[1])
        digest = hashlib.sha256(PATTERN.encode())
        digest.update(b"".join(len(token).to_bytes(4) + token for token, _ in by_id))
        digest.update("\n".join(special.strings).encode())
        self.fingerprint = digest.hexdigest()[:16]

    @property
    def ranks(self) -> Mapping[bytes, int]:
        """The bytes of every ordinary token, and its id."""
        ranks: Mapping[bytes, int] = self._encoding._mergeable_ranks
        return ranks

    def encode(self, text: str, allowed_special: Literal["all"] | Collection[str] = "all") -> list[int]:
        """The ids of NFC-normalised text. Nothing is put before or after it.

        Args:
          text: any string; lone surrogates become U+FFFD.
          allowed_special: special strings that become their id; the others are plain text. Where Qwen-VL's `<img>` is
            allowed, `<img>path</img>` becomes a span of `encode_image_path`.

        Raises:
          ValueError: `<img>` is allowed and not closed, or holds a path that is too long.
        """
        text = unicodedata.normalize("NFC", text)
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids = self._encode_plain_and_special(text, allowed_special)
        allowed = allowed_special == "all" or IMAGE_START in allowed_special
        if not (self.special.image_paths and allowed and IMAGE_START in text):
            return ids
        return self._replace_image_paths(ids)

    def _encode_plain_and_special(self, text: str, allowed: Literal["all"] | Collection[str]) -> list[int]:
        if allowed != "all" and not self._byte_level and "<" in text:
            # What is special and not allowed here is plain text, which merges with its neighbours.
            return self._encoding.encode(text, allowed_special=set(allowed), disallowed_special=())
        # All special strings start with "<". Handing tiktoken the set of them took five times what a caption's ids take.
        ids: list[int] = []
        for part in self._special.split(text) if "<" in text else (text,):
            special = self.special_tokens.get(part)
            if special is not None and (allowed == "all" or part in allowed):
                ids.append(special)
            elif self._byte_level:
                ids += part.encode()
            else:
                ids += self._encoding.encode_ordinary(part)
        return ids

    def _replace_image_paths(self, ids: Sequence[int]) -> list[int]:
        replaced: list[int] = []
        end = 0
        while self.image_start_id in ids[end:]:
            start = ids.index(self.image_start_id, end)
            if self.image_end_id not in ids[start:]:
                raise ValueError(f"{IMAGE_START} is not closed; write {IMAGE_START}path{IMAGE_END}")
            replaced += ids[end:start]
            end = ids.index(self.image_end_id, start) + 1
            replaced += self._image_span(self._encoding.decode_bytes(ids[start + 1 : end - 1]))
        return replaced + list(ids[end:])

    def encode_image_path(self, path: str) -> list[int]:
        """`<img>`, one id per UTF-8 byte of the path (its value), `<imgpad>` up to 256 slots, `</img>`.

        The path is taken as it is (no NFC). Source: `tokenize._encode_imgurl` of the original.

        Raises:
          ValueError: the path has more than 254 bytes, which the original cannot read back.
        """
        return self._image_span(path.encode())

    def _image_span(self, path: bytes) -> list[int]:
        if len(path) > MAX_PATH_BYTES:
            raise ValueError(
                f"image path {path[:40].decode(errors='replace')!r}... has {len(path)} bytes; "
                f"give one of at most {MAX_PATH_BYTES}"
            )
        padding = [self.image_pad_id] * (IMAGE_SLOTS - len(path))
        return [self.image_start_id, *path, *padding, self.image_end_id]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False, keep: Collection[str] = ()) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD.

        An image span of Qwen-VL becomes `<img>path</img>`, the path being empty where the slots hold no path; an `<img>`
        that opens no span (generated text) stays as it is.

        Args:
          ids: integers in [0, size).
          skip_special_tokens: leave out the special tokens; what stands between them stays.
          keep: special strings that stay nevertheless, such as `GROUNDING_TOKENS`.

        Raises:
          ValueError: an id is outside [0, size).
        """
        plain = [int(i) for i in ids]
        if plain and (min(plain) < 0 or max(plain) >= self.size):
            raise ValueError(f"ids {min(plain)}..{max(plain)} lie outside [0, {self.size}) of the vocabulary")
        if self.special.image_paths and self.image_start_id in plain:
            plain = self._restore_image_paths(plain)
        if skip_special_tokens:
            kept = {self.special_tokens[token] for token in keep}
            plain = [i for i in plain if i < self.eod_id or i in kept]
        return self._encoding.decode(plain, errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of the ids, of special tokens their strings; a character may begin in one id and end in the next."""
        return self._encoding.decode_bytes(ids)

    def _restore_image_paths(self, ids: list[int]) -> list[int]:
        restored: list[int] = []
        position = 0
        while position < len(ids):
            restored.append(ids[position])
            position += 1
            if restored[-1] != self.image_start_id or self.image_end_id not in ids[position:]:
                continue
            slots = ids[position : ids.index(self.image_end_id, position)]
            length = slots.index(self.image_pad_id) if self.image_pad_id in slots else -1
            if length < 0 or any(i > 255 for i in slots[:length]):
                continue
            path = bytes(slots[:length]).decode(errors="replace")
            restored += self._encode_plain_and_special(path, ())
            position += len(slots)
        return restored


def load_tokenizer(name: str | Path, special: SpecialTokens = QWEN_VL) -> Tokenizer:
    """The tokenizer of a vocabulary.

    Args:
      name: `bytes` for one id per byte, `world` or `native` for an embedded world's vocabulary, else the path of
        `qwen.tiktoken` or of Qwen2's `vocab.json` or `tokenizer.json`, or of a folder that holds one of them.
      special: the special tokens behind the vocabulary's.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file does not give the ranks 0, 1, 2, ... to tokens with all single bytes among them.
    """
    if name == BYTES:
        return Tokenizer(BYTES, {bytes([byte]): byte for byte in range(256)}, special)
    if name in EMBEDDED:
        return Tokenizer(str(name), _read_ranks(EMBEDDED[str(name)]), special)
    path = Path(name)
    if path.is_dir():
        files = [path / name for name in (VOCABULARY_FILE, *JSON_VOCABULARY_FILES)]
        path = next((file for file in files if file.is_file()), files[0])
    if not path.is_file():
        raise FileNotFoundError(
            f"no vocabulary at {path}; give a checkpoint's {VOCABULARY_FILE} or {' or '.join(JSON_VOCABULARY_FILES)}, its "
            f"folder, {WORLD!r}, {NATIVE!r} or {BYTES!r}"
        )
    return Tokenizer("qwen", _read_ranks(path), special)


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks = _read_json_ranks(path) if path.suffix == ".json" else _read_tiktoken_ranks(path)
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"the ranks of {path} are not 0..{len(ranks) - 1} once each; fetch the file again")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError(f"{path} lacks single bytes, so it cannot encode every text; fetch the file again")
    return ranks


def _read_tiktoken_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"{path} line {number} is not `base64 rank`; is the file a complete {VOCABULARY_FILE}?"
            ) from error
    return ranks


def _read_json_ranks(path: Path) -> dict[bytes, int]:
    """Tokens are written in `BYTE_LETTERS`; merges follow the order of ids."""
    byte_of = {letter: byte for byte, letter in BYTE_LETTERS.items()}
    try:
        content = read_json(path.read_bytes())
        words = content["model"]["vocab"] if isinstance(content.get("model"), dict) else content
        return {bytes(byte_of[c] for c in token): int(rank) for token, rank in words.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is no JSON of tokens and their ids; is it a complete {' or '.join(JSON_VOCABULARY_FILES)}?"
        ) from error
