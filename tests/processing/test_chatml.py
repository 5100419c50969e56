"""Promises of `qwenvl_jax.processing.chatml` and of the encoding of samples."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl_jax.config import QwenVLConfig
from qwenvl_jax.processing.chat_formats import CHAT_FORMATS, chat_prompt, trim_history
from qwenvl_jax.processing.chatml import ChatTurn, Parts, Round, chat_parts, query_of
from qwenvl_jax.processing.sample import EncodedSample, Image, Sample, Text, encode_sample
from qwenvl_jax.processing.tokenizer import IM_END, IM_START, Tokenizer

QWEN_VL = CHAT_FORMATS[QwenVLConfig]
SYSTEM = [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645]


def encode(parts: Parts | Sample, tokenizer: Tokenizer, queries: int = 256) -> EncodedSample:
    return encode_sample(parts if isinstance(parts, Sample) else Sample(parts), tokenizer, queries)


def length(tokenizer: Tokenizer, queries: int) -> Callable[[Sample], int]:
    """Tokens of a sample."""
    return lambda sample: encode(sample, tokenizer, queries).tokens.size


def asked(text: str) -> Sample:
    """A query without pictures."""
    return query_of(text, ())


def test_fine_tuning_example_of_the_original(qwen: Tokenizer) -> None:
    """Ids, length and supervised positions are those that the original's `preprocess` was seen to make."""
    turns = [ChatTurn("user", "Picture 1: <img>0</img>\nhi"), ChatTurn("assistant", "ok.")]
    sample = encode(chat_parts(turns), qwen)
    assert sample.tokens.size == 288
    supervised = {
        **{0: 151644, 9: 151645, 10: 198, 11: 151644, 279: 151645, 280: 198, 281: 151644},
        **{284: 562, 285: 13, 286: 151645, 287: 198},
    }
    assert dict(zip(np.flatnonzero(sample.supervised), sample.tokens[sample.supervised])) == supervised
    span = qwen.encode("Picture 1: <img>a.jpg</img>\nhi")
    original = [*SYSTEM, 198, 151644, 872, 198, *span, 151645, 198, 151644, 77091, 198, 562, 13, 151645, 198]
    paths = slice(20, 25)  # the original writes the path into the slots, which the model never reads as text
    assert original[paths] == list(b"a.jpg")
    original[paths] = [151859] * 5
    assert sample.tokens.tolist() == original
    placed = np.flatnonzero(sample.vision_index >= 0)
    assert placed.tolist() == list(range(20, 276))
    assert sample.vision_index[placed].tolist() == list(range(256))


def test_chat_prompt_example_of_the_original(qwen: Tokenizer) -> None:
    """The prompt with one past turn has the ids of `make_context`; nothing in it is supervised."""
    sample = encode(chat_prompt(QWEN_VL, [Round(asked("q1"), "a1")], query_of("<img>0</img>hi", (b"x",))), qwen)
    ids = [i for i in sample.tokens.tolist() if i != qwen.image_pad_id]
    assert ids == [
        *(*SYSTEM, 198, 151644, 872, 198, 80, 16, 151645, 198, 151644, 77091, 198, 64, 16, 151645),
        *(198, 151644, 872, 198, 151857, 151858, 6023, 151645, 198, 151644, 77091, 198),
    ]
    assert not sample.supervised.any()


def test_first_turn_is_dropped_unless_from_the_user(byte_level: Tokenizer) -> None:
    """As in the original, one leading answer without a question is not learned."""
    turns = [ChatTurn("user", "q"), ChatTurn("assistant", "a")]
    assert chat_parts([ChatTurn("assistant", "hello"), *turns]) == chat_parts(turns)


def test_several_turns_and_images() -> None:
    """Every answer is supervised, no question is, and images keep their numbers wherever they stand."""
    turns = [
        ChatTurn("user", "<img>0</img><img>2</img>which?"),
        ChatTurn("assistant", "the first"),
        ChatTurn("user", "and <img>1</img>"),
        ChatTurn("assistant", "second"),
    ]
    parts = chat_parts(turns, system="S")
    assert [part.index for part in parts if isinstance(part, Image)] == [0, 2, 1]
    texts = [part for part in parts if isinstance(part, Text)]
    learned = [part.text for part in texts if part.supervised and IM_START not in part.text]
    assert learned == [f"{IM_END}\n"] * 2 + [
        "the first",
        f"{IM_END}\n",
        f"{IM_END}\n",
        "second",
        f"{IM_END}\n",
    ]
    assert [part.text for part in texts if not part.supervised] == [
        *("system\n", "S", "user\n", "which?", "assistant\n", "user\n", "and ", "assistant\n")
    ]


def test_token_borders_lie_at_the_roles_line_end(qwen: Tokenizer) -> None:
    """A text that starts with line ends never merges with the one behind the role as in the original."""
    turns = [ChatTurn("user", "\n\nq"), ChatTurn("assistant", "\n\na")]
    ids = encode(chat_parts(turns), qwen).tokens.tolist()
    role, two_lines = qwen.encode("user\n"), qwen.encode("\n\n")
    start = ids.index(role[0])
    assert ids[start : start + 3] == [*role, *two_lines]


def test_markers_in_text(qwen: Tokenizer) -> None:
    """In training they are special (as originally); in a prompt nobody's text can end a turn or show a picture, but
    boxes work: not the system's, not a question's, not an answer's.
    """
    text = "a<|im_end|><|endoftext|><img>0</img><imgpad><box>(1,2),(3,4)</box>"
    learned = [ChatTurn("user", "a<|im_end|>"), ChatTurn("assistant", "b")]
    assert np.count_nonzero(encode(chat_parts(learned), qwen).tokens == qwen.im_end_id) == 4
    typed = Sample((Text(text, typed=True),))
    prompt = encode(chat_prompt(QWEN_VL, [Round(typed, text)], typed, system=text), qwen).tokens.tolist()
    assert prompt.count(qwen.im_end_id) == 4
    assert prompt.count(qwen.im_start_id) == 5
    assert prompt.count(qwen.special_tokens["<box>"]) == 4
    assert not {qwen.image_start_id, qwen.image_pad_id, qwen.image_end_id, qwen.eod_id} & set(prompt)


@pytest.mark.parametrize(
    "turns, sentence",
    [
        ([("user", "q"), ("bot", "a")], "turn 1 has role 'bot'; use 'user' or 'assistant'"),
        ([("user", "q")], "has no 'assistant' turn"),
        ([("assistant", "a")], "has no 'assistant' turn"),
        ([], "has no 'assistant' turn"),
        ([("user", "<img>a.jpg</img>"), ("assistant", "a")], "<img>a.jpg</img> names no image"),
        ([("user", "<img></img>"), ("assistant", "a")], "<img></img> names no image"),
        ([("user", "<img>0"), ("assistant", "a")], "<img> is not closed"),
    ],
)
def test_bad_conversations_are_refused(turns: Sequence[tuple[str, str]], sentence: str) -> None:
    """What a user's file gets wrong is said in a sentence, with the turn."""
    with pytest.raises(ValueError, match=sentence):
        chat_parts([ChatTurn(*turn) for turn in turns])


def test_pictures_of_all_rounds_are_numbered_in_order() -> None:
    """Each round brings its own pictures; a prompt holds them behind each other, whatever their order in the text."""
    images = (b"a", b"b", b"c")
    history = [Round(query_of("<img>2</img><img>0</img>", images), "x"), Round(asked("y"), "z")]
    prompt = chat_prompt(QWEN_VL, history, query_of("and <img>1</img>", images))
    assert prompt.images == (b"c", b"a", b"b")
    assert [part.index for part in prompt.parts if isinstance(part, Image)] == [0, 1, 2]
    with pytest.raises(ValueError, match="<img>3</img>: the sample has 3 images"):
        query_of("<img>3</img>", images)


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=5),
    window=st.integers(0, 200),
)
def test_trimming_keeps_the_newest_rounds_that_fit(
    byte_level: Tokenizer, lengths: list[tuple[int, int]], window: int
) -> None:
    """Law: the kept rounds are the longest tail below the window, the system block counted."""
    history = [Round(asked("x" * ask), "x" * answer) for ask, answer in lengths]
    empty = encode(chat_prompt(QWEN_VL, [], asked(""), system="?"), byte_level).tokens.size
    system_block = 2 + len("system\n?")

    def fits(tail: Sequence[Round]) -> bool:
        return (
            encode(chat_prompt(QWEN_VL, tail, asked(""), system="?"), byte_level).tokens.size - empty + system_block
            < window
        )

    kept = trim_history(QWEN_VL, history, length(byte_level, 4), system="?", max_window_size=window)
    tails = (history[start:] for start in range(len(history)))
    assert list(kept) == next((tail for tail in tails if fits(tail)), [])


def test_trimming_counts_images(byte_level: Tokenizer) -> None:
    """An image takes its vision tokens and two tags from the window."""
    shown, plain = [Round(query_of("<img>0</img>", (b"x",)), "a")], [Round(asked("12"), "a")]
    tokens = encode(chat_prompt(QWEN_VL, plain, asked("")), byte_level).tokens.size
    limits = [
        next(n for n in range(tokens + 80) if trim_history(QWEN_VL, history, length(byte_level, 50), max_window_size=n))
        for history in (plain, shown)
    ]
    assert limits[1] - limits[0] == 50
