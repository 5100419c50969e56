"""Promises of `qwenvl_jax.inference.streaming`: pieces are final, whole, and together the answer."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl_jax.inference.streaming import AnswerWriter, stop_ids
from qwenvl_jax.processing.tokenizer import GROUNDING_TOKENS, Tokenizer, load_tokenizer

STOPS = ("Human:", "man a", "的。")


@pytest.fixture(scope="module")
def world() -> Tokenizer:
    """Byte pairs, so that tokens begin within characters and stop words begin within tokens."""
    return load_tokenizer("world")


def pieces_of(tokenizer: Tokenizer, ids: list[int], portions: list[int], stop: tuple[str, ...]) -> list[str]:
    writer, pieces, position = AnswerWriter(tokenizer, stop), [], 0
    for portion in [*portions, len(ids)]:
        pieces.append(writer.write(ids[position : position + portion]))
        position += portion
    return [*pieces, writer.close()]


fragments = st.sampled_from(
    ["Hu", "man", ": ", " a", "的", "。", "é", "\n", " ", "🙂", "<ref>", "</box>", "x", "Human:"]
)


@settings(deadline=None, max_examples=200)
@given(
    text=st.lists(fragments | st.text(max_size=3), max_size=12).map("".join),
    noise=st.lists(st.integers(0, 255), max_size=3),
    portions=st.lists(st.integers(0, 4), max_size=12),
    stop=st.lists(st.sampled_from(STOPS), max_size=3).map(tuple),
)
def test_portions_change_nothing(world, tokenizer, text, noise, portions, stop) -> None:
    """Law: however the tokens come in, broken bytes among them, the pieces together are the answer at once; it has no
    outer white space, no stop word, and a piece never ends within a character of the text.
    """
    for vocabulary in (world, tokenizer):
        ids = vocabulary.encode(text, GROUNDING_TOKENS) + noise
        pieces = pieces_of(vocabulary, ids, portions, stop)
        [whole, rest] = pieces_of(vocabulary, ids, [], stop)
        assert "".join(pieces) == whole + rest
        assert whole + rest == (whole + rest).strip()
        assert not any(word in whole + rest for word in stop)
        if not noise and not stop:
            kept = unicodedata.normalize("NFC", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
            assert whole + rest == kept.strip()


@pytest.mark.parametrize("portion", [1, 2, 3, 100])
def test_stop_words_are_found_across_tokens_and_portions(world, portion) -> None:
    """The text in front of the word that ends first is the answer; nothing of the word was ever given out."""
    ids = world.encode("The Human: x")
    assert len(world.encode("Human:")) > 2
    pieces = pieces_of(world, ids, [portion] * len(ids), ("Human:", "xx"))
    assert "".join(pieces) == "The"
    # "Human a" ends later than "man", whatever the portions are.
    pieces = pieces_of(world, ids, [portion] * len(ids), ("Human: x", "man"))
    assert "".join(pieces) == "The Hu"


def test_what_only_looks_like_a_stop_word_comes_out(tokenizer) -> None:
    """The beginning of a stop word is held back until it cannot become one, and given out in the end."""
    writer = AnswerWriter(tokenizer, ("Human:",))
    assert writer.write(b"A Hum") == "A"
    assert writer.write(b"ble") == " Humble"
    assert writer.write(b" Human") == ""
    assert writer.close() == " Human"


def test_a_character_comes_out_whole(tokenizer) -> None:
    """Bytes of a character wait for the last of them; what never becomes one is U+FFFD."""
    writer = AnswerWriter(tokenizer, ())
    moon = "月".encode()
    assert [writer.write([byte]) for byte in moon] == ["", "", "月"]
    assert writer.write(moon[:2]) == ""
    assert writer.close() == "\N{REPLACEMENT CHARACTER}"


def test_tags_of_grounding_stay_and_others_vanish(tokenizer) -> None:
    """Tags are tokens, so they come out whole; an <img> that a model writes is left out and changes nothing behind it."""
    box = tokenizer.encode("<ref>a</ref><box>(1,2),(3,4)</box>")
    strange = [tokenizer.image_start_id, *b"b", tokenizer.image_pad_id, tokenizer.image_end_id]
    pieces = pieces_of(tokenizer, box + strange, [1] * 60, ())
    assert "".join(pieces) == "<ref>a</ref><box>(1,2),(3,4)</box>b"
    assert {"<ref>", "</ref>", "<box>", "</box>"} <= set(pieces)


def test_end_tokens_end_the_answer(tokenizer) -> None:
    """<|endoftext|> and the ChatML tags, as tokens; the same characters as text do not."""
    for end in stop_ids(tokenizer):
        writer = AnswerWriter(tokenizer, ())
        assert writer.write([*b"yes", end, *b"no"]) == "yes"
        assert writer.finished
        assert writer.write(b"more") == writer.close() == ""
    writer = AnswerWriter(tokenizer, ())
    assert writer.write(b"<|im_end|>.") == "<|im_end|>."
