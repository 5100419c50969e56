"""Promises of `qwenvl_jax.processing.qwen2_tokens`, and of the tokenizer with the special tokens of Qwen2-VL."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2TokenizerFast
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

from qwenvl_jax.processing import qwen2_tokens as t
from qwenvl_jax.processing.markup import Box, Quad, Reference
from qwenvl_jax.processing.tokenizer import GROUNDING_TOKENS, WORLD_FILE, Tokenizer, load_tokenizer

IDS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|object_ref_start|>": 151646,
    "<|object_ref_end|>": 151647,
    "<|box_start|>": 151648,
    "<|box_end|>": 151649,
    "<|quad_start|>": 151650,
    "<|quad_end|>": 151651,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}


def test_special_ids(vocabulary_path: Path) -> None:
    """Behind Qwen's vocabulary every special string has the released id; there are 151657 ids."""
    tokenizer = load_tokenizer(vocabulary_path, t.QWEN2_VL)
    assert tokenizer.special_tokens == IDS
    assert tokenizer.size == 151657
    assert (tokenizer.eod_id, tokenizer.im_start_id, tokenizer.im_end_id) == (151643, 151644, 151645)
    assert (tokenizer.image_start_id, tokenizer.image_end_id, tokenizer.image_pad_id) == (151652, 151653, 151655)
    assert tokenizer.encode("Hello, world!<|im_end|>") == [9707, 11, 1879, 0, 151645]
    assert tokenizer.fingerprint != load_tokenizer(vocabulary_path).fingerprint


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Tokenizer, Qwen2TokenizerFast]:
    """Ours and transformers', from the embedded world's vocabulary written as `vocab.json` and `merges.txt`."""
    folder = tmp_path_factory.mktemp("vocabulary")
    letters = bytes_to_unicode()
    ranks = load_tokenizer("world")._encoding._mergeable_ranks
    by_id = sorted(ranks, key=ranks.__getitem__)
    vocabulary = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    merges = []
    for token in by_id:
        if len(token) == 1:
            continue
        # A token came to be by merging the two tokens that all earlier merges leave of it.
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
            first = pairs.index(min(pairs))
            parts[first : first + 2] = [parts[first] + parts[first + 1]]
        merges.append(" ".join("".join(letters[byte] for byte in part) for part in parts))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    theirs = Qwen2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    theirs.add_special_tokens({"additional_special_tokens": list(IDS)})
    return load_tokenizer(folder, t.QWEN2_VL), theirs


TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from([*IDS, "the", " red", " box", "\n", "  ", "\n\n ", "12", "'s", "你好", "(", "é"]), max_size=12
    ).map("".join),
)


@given(text=TEXTS)
@settings(max_examples=150, deadline=None)
def test_ids_are_those_of_transformers(both, text: str) -> None:
    """Any text, special tokens, digits, white space and line ends included."""
    ours, theirs = both
    assert ours.encode(text) == theirs.encode(text)


def test_json_vocabulary_is_the_same_vocabulary(both) -> None:
    """`vocab.json` and a tiktoken file of one vocabulary give one tokenizer."""
    assert both[0].fingerprint == load_tokenizer(WORLD_FILE, t.QWEN2_VL).fingerprint


def test_other_json_is_refused(tmp_path: Path) -> None:
    """A file that is no vocabulary is named in a sentence."""
    for content in ("[]", "{", '{"a": "b"}', '{"\\u4e00": 1}'):
        (tmp_path / "vocab.json").write_text(content)
        with pytest.raises(ValueError, match=r"is no JSON of tokens"):
            load_tokenizer(tmp_path, t.QWEN2_VL)


def test_vision_tokens_stay_in_decoded_text() -> None:
    """No path is looked for between `<|vision_start|>` and `<|vision_end|>`; `<img>` is plain text."""
    tokenizer = load_tokenizer("bytes", t.QWEN2_VL)
    text = "a<|vision_start|><|image_pad|><|image_pad|><|vision_end|><img>b"
    ids = tokenizer.encode(text)
    assert len(ids) == 1 + 4 + 6
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<img>b"


def test_markup_is_the_originals() -> None:
    """The paper's example, and every tag of references, boxes and quads."""
    ours = f"{Reference('the eyes on a giraffe')}{Box((176, 106, 232, 160))}"
    theirs = "<|object_ref_start|>the eyes on a giraffe<|object_ref_end|><|box_start|>(176,106),(232,160)<|box_end|>"
    assert t.to_qwen2_markup(ours) == theirs
    quad = str(Quad(((1, 2), (3, 4), (5, 6), (7, 8))))
    assert t.to_qwen2_markup(quad) == "<|quad_start|>(1,2),(3,4),(5,6),(7,8)<|quad_end|>"
    assert t.QWEN2_VL.grounding == tuple(map(t.to_qwen2_markup, GROUNDING_TOKENS))  # answers are written back by this
