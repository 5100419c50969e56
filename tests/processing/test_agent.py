"""Promises of `qwenvl_jax.processing.agent`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_qwen2_chat import learned

from qwenvl_jax.processing.agent import Action, Call, Step, agent_parts, agent_prompt, format_call, parse_call
from qwenvl_jax.processing.patches import Grid
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL
from qwenvl_jax.processing.sample import Image, Sample
from qwenvl_jax.processing.tokenizer import load_tokenizer
from qwenvl_jax.processing.visual_sample import encode_visual_sample

ACTIONS = (Action("Home", "goes to the first screen."), Action("Tap", "taps a point."))
TASK = ("Open the map. ", Image(0))
STEPS = (
    Step(Call("", "Home", {}), (Image(1),)),
    Step(Call("The map is here.", "Tap", {"point": (348, 291)}), ("done ", Image(2))),
)
GRIDS = (Grid(1, 2, 2),) * 3
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
OPENING = f"""<|im_start|>system
You are a helpful assistant. You can take these actions:
Home: goes to the first screen.
Tap: taps a point.
Continuously take action until the task is completed.
✿FUNCTION✿: The action to take, should be one of Home, Tap.
✿ARGS✿: The input of the action.
✿RESULT✿: Action results.
✿RETURN✿: Reply based on action results.<|im_end|>
<|im_start|>user
Open the map. {IMAGE}<|im_end|>
<|im_start|>assistant
"""
FIRST = "✿FUNCTION✿: Home\n✿ARGS✿: {}\n✿RESULT✿"
SECOND = ' The map is here.\n✿FUNCTION✿: Tap\n✿ARGS✿: {"point": (348,291)}\n✿RESULT✿'


def test_a_solved_task() -> None:
    """One turn of the assistant; its own words are learned, results and the markers behind them are not."""
    tokenizer = load_tokenizer("bytes", QWEN2_VL)
    encoded = encode_visual_sample(Sample(agent_parts(ACTIONS, TASK, STEPS, "Done.")), tokenizer, GRIDS)
    own = [FIRST, SECOND, " Done.<|im_end|>\n"]
    assert tokenizer.decode(encoded.tokens) == (
        f"{OPENING}{own[0]}: {IMAGE}\n✿RETURN✿:{own[1]}: done {IMAGE}\n✿RETURN✿:{own[2]}"
    )
    assert learned(encoded, tokenizer) == own


def test_prompts_are_beginnings_of_the_solved_task() -> None:
    """After every number of steps the prompt has the ids that training had, and the next words are learned ones."""
    tokenizer = load_tokenizer("world", QWEN2_VL)
    whole = encode_visual_sample(Sample(agent_parts(ACTIONS, TASK, STEPS, "Done.")), tokenizer, GRIDS)
    for count in range(3):
        prompt = encode_visual_sample(Sample(agent_prompt(ACTIONS, TASK, STEPS[:count])), tokenizer, GRIDS[: count + 1])
        length = len(prompt.tokens)
        assert prompt.tokens.tolist() == whole.tokens[:length].tolist()
        assert whole.supervised[length]
        assert not whole.supervised[length - 1]


VALUES = st.one_of(
    st.text(st.characters(exclude_characters="✿", exclude_categories=["Cs"]), max_size=12),
    st.integers(-(10**9), 10**9),
    st.tuples(st.integers(0, 999), st.integers(0, 999)),
)
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)


@given(st.sampled_from(["", "I tap.", "Now:\nthe map"]), NAMES, st.dictionaries(NAMES, VALUES, max_size=3))
@settings(max_examples=60, deadline=None)
def test_calls_there_and_back(thought: str, function: str, arguments: dict) -> None:
    """What is written is read again, also with what generation leaves around it."""
    call = Call(thought, function, arguments)
    written = format_call(call)
    assert parse_call(written) == call
    assert parse_call(f" {written}\n") == call
    assert parse_call(f"{written}\n✿RESULT✿") == call


def test_replies_are_no_calls() -> None:
    """Where the model names no function, it replies."""
    assert parse_call(" The map is open.") is None


@pytest.mark.parametrize(
    "text, problem",
    [
        ("✿FUNCTION✿: Tap", "has no ✿ARGS✿"),
        ("✿FUNCTION✿: Tap\n✿ARGS✿: {", "are no arguments"),
        ("✿FUNCTION✿: Tap\n✿ARGS✿: [1]", "are no arguments by name"),
        ("✿FUNCTION✿: Tap\n✿ARGS✿: {'point': (1000, 0)}", "no pair of whole numbers in"),
        ("✿FUNCTION✿: Tap\n✿ARGS✿: {'point': (1, 2, 3)}", "no pair of whole numbers in"),
        ("✿FUNCTION✿: Tap\n✿ARGS✿: {'point': [1, 2]}", "no text, number or point"),
        ("✿FUNCTION✿: Tap\n✿ARGS✿: {'point': __import__('os')}", "are no arguments"),
    ],
)
def test_malformed_calls_are_named(text: str, problem: str) -> None:
    """What a model writes is read, never run."""
    with pytest.raises(ValueError, match=problem):
        parse_call(text)
