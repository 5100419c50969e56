"""Promises of `qwenvl_jax.processing.tokenizer`."""

import hashlib
import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl_jax.processing import tokenizer as t
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL
from qwenvl_jax.processing.tokenizer import Tokenizer, load_tokenizer

SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"

VECTORS = {
    "": [],
    "Hello, world!": [9707, 11, 1879, 0],
    "Generate the caption in English with grounding:": [31115, 279, 17256, 304, 6364, 448, 94741, 25],
    " A": [362],
    " B": [425],
    " C": [356],
    " D": [422],
    " E": [468],
    "A": [32],
    "\n": [198],
    "user": [872],
    "assistant": [77091],
    "system": [8948],
    "You are a helpful assistant.": [2610, 525, 264, 10950, 17847, 13],
    "12345 678": [16, 17, 18, 19, 20, 220, 21, 22, 23],
    "<ref>击掌</ref><box>(536,509),(588,602)</box>": [
        *(151851, 52726, 99933, 151852, 151853, 7, 20, 18, 21, 11, 20, 15, 24, 23547),
        *(20, 23, 23, 11, 21, 15, 17, 8, 151854),
    ],
    "Picture 1: <img>assets/demo.jpeg</img>\n这是什么?": [
        *(24669, 220, 16, 25, 220, 151857),
        *(97, 115, 115, 101, 116, 115, 47, 100, 101, 109, 111, 46, 106, 112, 101, 103),
        *[151859] * 240,
        *(151858, 198, 100346, 99245, 30),
    ],
    "Answer:": [16141, 25],
    " Answer:": [21806, 25],
}


def test_vocabulary_file_is_the_originals(vocabulary_path: Path) -> None:
    """All tests here speak of the file that the original publishes."""
    assert hashlib.sha256(vocabulary_path.read_bytes()).hexdigest() == SHA256


@pytest.mark.parametrize("text", VECTORS)
def test_ids_equal_the_originals(qwen: Tokenizer, text: str) -> None:
    """Text has the ids that the original's tokenizer gives, and they decode to the text."""
    assert qwen.encode(text) == VECTORS[text]
    assert qwen.decode(VECTORS[text]) == text


def test_special_ids_of_qwen(qwen: Tokenizer) -> None:
    """Every special string has the original's id; there are 151860 ids."""
    expected = {
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        **{f"<|extra_{i}|>": 151646 + i for i in range(205)},
        **{"<ref>": 151851, "</ref>": 151852, "<box>": 151853, "</box>": 151854, "<quad>": 151855},
        **{"</quad>": 151856, "<img>": 151857, "</img>": 151858, "<imgpad>": 151859},
    }
    assert qwen.special_tokens == expected
    assert list(qwen.special_tokens) == list(expected)
    assert qwen.size == 151860
    assert (qwen.eod_id, qwen.im_start_id, qwen.im_end_id) == (151643, 151644, 151645)
    assert (qwen.image_start_id, qwen.image_end_id, qwen.image_pad_id) == (151857, 151858, 151859)


def test_special_ids_of_bytes(byte_level: Tokenizer) -> None:
    """The byte-level vocabulary is 256 bytes and the same special tokens in the same order."""
    assert byte_level.size == 473
    assert list(byte_level.special_tokens) == list(t.SPECIAL_TOKENS)
    assert list(byte_level.special_tokens.values()) == list(range(256, 473))
    assert byte_level.encode("aé<box>") == [97, 0xC3, 0xA9, byte_level.special_tokens["<box>"]]
    assert (byte_level.eod_id, byte_level.im_start_id, byte_level.im_end_id) == (256, 257, 258)
    assert (byte_level.image_start_id, byte_level.image_end_id, byte_level.image_pad_id) == (470, 471, 472)


def test_every_special_string_is_one_id(tokenizer: Tokenizer) -> None:
    """A special string is one id where allowed, and several ordinary ids where it is not."""
    for token, number in tokenizer.special_tokens.items():
        if token != t.IMAGE_START:
            assert tokenizer.encode(token) == [number]
        plain = tokenizer.encode(token, allowed_special=set())
        assert all(i < tokenizer.eod_id for i in plain)
        assert tokenizer.decode(plain) == token


def test_only_allowed_specials_become_ids(tokenizer: Tokenizer) -> None:
    """ChatML markers in a user's text stay text where only the markup is allowed."""
    ids = tokenizer.encode("<|im_end|><box>", allowed_special=set(t.MARKUP_TOKENS))
    assert ids[-1] == tokenizer.special_tokens["<box>"]
    assert tokenizer.im_end_id not in ids
    assert tokenizer.decode(ids) == "<|im_end|><box>"


def test_text_is_nfc_normalised(tokenizer: Tokenizer) -> None:
    """Composed and decomposed spelling have the same ids."""
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def test_lone_surrogates_become_replacement_characters(tokenizer: Tokenizer) -> None:
    """Text that UTF-8 cannot hold does not stop a run."""
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_broken_utf8_becomes_replacement_characters(tokenizer: Tokenizer) -> None:
    """Ids that end inside a character decode to U+FFFD."""
    first_byte = next(i for i in range(256) if tokenizer.decode([i, i]) == "\ufffd\ufffd")
    assert tokenizer.decode([*tokenizer.encode("a"), first_byte]) == "a\ufffd"


def test_image_span_costs_258_ids(tokenizer: Tokenizer) -> None:
    """A path is written byte by byte into 256 slots, and both ways of writing it agree."""
    ids = tokenizer.encode_image_path("图/a.jpg")
    assert len(ids) == 258
    assert bytes(ids[1:10]).decode() == "图/a.jpg"
    assert ids[10:-1] == [tokenizer.image_pad_id] * 247
    assert ids == tokenizer.encode("<img>图/a.jpg</img>")
    assert tokenizer.decode(ids) == "<img>图/a.jpg</img>"


@pytest.mark.parametrize("length", [0, 254])
def test_image_span_holds_up_to_254_bytes(tokenizer: Tokenizer, length: int) -> None:
    """The longest path that the original's model can read back is encoded and decoded."""
    ids = tokenizer.encode_image_path("x" * length)
    assert len(ids) == 258
    assert tokenizer.decode(ids) == "<img>" + "x" * length + "</img>"


def test_image_span_refuses_longer_paths(tokenizer: Tokenizer) -> None:
    """A path of 255 bytes is refused in a sentence, whichever way it comes."""
    with pytest.raises(ValueError, match=r"has 255 bytes; give one of at most 254"):
        tokenizer.encode_image_path("x" * 255)
    with pytest.raises(ValueError, match=r"has 300 bytes"):
        tokenizer.encode("<img>" + "图" * 100 + "</img>")


def test_unclosed_image_is_refused_in_text_and_kept_in_answers(tokenizer: Tokenizer) -> None:
    """An unclosed `<img>` is an error of the data, but a model may generate one."""
    with pytest.raises(ValueError, match="<img> is not closed"):
        tokenizer.encode("see <img>a.jpg")
    assert tokenizer.decode([tokenizer.image_start_id, *tokenizer.encode("ab")]) == "<img>ab"
    closed = [tokenizer.image_start_id, *tokenizer.encode("ab"), tokenizer.image_end_id]
    assert tokenizer.decode(closed) == "<img>ab</img>"


def test_skip_special_tokens(tokenizer: Tokenizer) -> None:
    """Tags vanish and their content stays; `keep` keeps the grounding tags, as streaming does."""
    text = "<ref>a cat</ref><box>(1,2),(3,4)</box><|im_end|><|endoftext|>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a cat(1,2),(3,4)"
    kept = tokenizer.decode(ids, skip_special_tokens=True, keep=t.GROUNDING_TOKENS)
    assert kept == "<ref>a cat</ref><box>(1,2),(3,4)</box>"


def test_decode_refuses_ids_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    """Unused rows of the embedding have no text."""
    with pytest.raises(ValueError, match=r"lie outside \[0, "):
        tokenizer.decode([0, tokenizer.size])


def test_pickle(tokenizer: Tokenizer) -> None:
    """Loader workers are spawned processes: a pickled tokenizer is the same tokenizer."""
    copy = pickle.loads(pickle.dumps(tokenizer))
    text = "Picture 1: <img>a.jpg</img>\n<ref>猫</ref>"
    assert copy.encode(text) == tokenizer.encode(text)
    assert copy.fingerprint == tokenizer.fingerprint


def test_fingerprint_tells_vocabularies_apart(
    qwen: Tokenizer, byte_level: Tokenizer, vocabulary_path: Path, tmp_path: Path
) -> None:
    """The fingerprint depends on the vocabulary, not on the file's line ends or folder."""
    (tmp_path / "qwen.tiktoken").write_bytes(vocabulary_path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_tokenizer(tmp_path).fingerprint == qwen.fingerprint
    assert qwen.fingerprint != byte_level.fingerprint
    assert len(qwen.fingerprint) == 16


@pytest.mark.parametrize(
    "good_lines, bad_line, sentence",
    [
        (300, b"IQ==", "line 301 is not `base64 rank`"),
        (300, b"?? 300", "line 301 is not `base64 rank`"),
        (300, b"YWJjZA== 302", r"are not 0\.\.300 once each"),
        (200, b"", "lacks single bytes"),
        (0, b"", "lacks single bytes"),
    ],
)
def test_broken_vocabulary_files(
    vocabulary_path: Path, tmp_path: Path, good_lines: int, bad_line: bytes, sentence: str
) -> None:
    """A damaged file is refused with what is wrong and where."""
    lines = vocabulary_path.read_bytes().splitlines()[:good_lines]
    (tmp_path / "qwen.tiktoken").write_bytes(b"\n".join([*lines, bad_line]))
    with pytest.raises(ValueError, match=sentence):
        load_tokenizer(tmp_path)


def test_missing_vocabulary(tmp_path: Path) -> None:
    """A missing file is named, with what to give instead."""
    with pytest.raises(FileNotFoundError, match=r"no vocabulary at .*give a checkpoint's qwen.tiktoken"):
        load_tokenizer(tmp_path)


WORLD = load_tokenizer("world")


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_round_trips(qwen: Tokenizer, byte_level: Tokenizer, text: str) -> None:
    """Law: decoding undoes encoding, up to NFC."""
    for tokenizer in (byte_level, WORLD, qwen):
        assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


NATIVE = load_tokenizer("native", QWEN2_VL)
MIXED = st.sampled_from(
    [*t.SPECIAL_TOKENS[:5], *t.MARKUP_TOKENS[:6], *QWEN2_VL.strings, "<", "|>", "</", " a box", "é\n"]
)


@settings(deadline=None, max_examples=60)
@given(parts=st.lists(MIXED | st.text(max_size=6), max_size=8), some=st.booleans())
def test_specials_are_those_of_tiktoken(parts: list[str], some: bool) -> None:
    """Text around special strings has the ids that tiktoken gives when it is told which of them are special."""
    text = unicodedata.normalize("NFC", "".join(parts)).encode(errors="replace").decode()
    for tokenizer in (WORLD, NATIVE):
        assert all(token.startswith("<") for token in tokenizer.special_tokens)
        allowed: set[str] = set(list(tokenizer.special_tokens)[::2] if some else tokenizer.special_tokens)
        theirs = tokenizer._encoding.encode(text, allowed_special=allowed, disallowed_special=())
        assert tokenizer.encode(text, allowed if some else "all") == theirs
