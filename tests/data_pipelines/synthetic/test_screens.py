"""Episodes on screens: pure, winnable, and lost by what is wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.synthetic.native_texts import played
from data_pipelines.synthetic.screens import ACTIONS, elements, expert, middle, render, sample_screen
from data_pipelines.synthetic.wording import place
from qwenvl_jax.processing.agent import Call
from qwenvl_jax.processing.markup import SCALE

SCREENS = [sample_screen(np.random.default_rng(seed), bool(seed % 2)) for seed in range(60)]


def test_the_expert_solves_every_task_in_few_steps() -> None:
    """One step to open, four to enter and send; no screen before the last one counts as solved."""
    for start in SCREENS:
        screens = [screen for screen, _ in played(start)]
        assert [screen.solved for screen in screens] == [False] * (len(screens) - 1) + [True]
        assert len(screens) - 1 == (4 if start.goal.text else 1)


def test_actions_of_the_expert_are_listed() -> None:
    """It uses no action that the system's text does not name."""
    used = {call.function for start in SCREENS for _, call in played(start) if call}
    assert used <= {action.name for action in ACTIONS}


def test_the_expert_says_what_it_taps_and_where() -> None:
    """The words before a tap name the element and the place that the point lies in; nothing else is said."""
    for start in SCREENS:
        for screen, call in played(start):
            if call and call.function == "Tap":
                x, y = (share / SCALE for share in call.arguments["point"])
                tapped = next(name for name, (x1, y1, x2, y2) in elements(screen) if x1 <= x <= x2 and y1 <= y <= y2)
                assert call.thought == f"The {tapped} is at the {place(x, y)}."
            elif call:
                assert call.thought == ""


@pytest.mark.parametrize("wrong", ["other icon", "no field", "other text", "red button", "nothing"])
def test_wrong_ways_do_not_solve(wrong: str) -> None:
    """Each step matters: with one of them done wrongly and the others right the goal is not reached."""
    for start in (screen for screen in SCREENS if screen.goal.text):
        icons = [name for name, _ in elements(start)]
        other = Call("", "Tap", {"point": middle(dict(elements(start))[icons[start.goal.icon - 1]])})
        calls = [call for _, call in played(start) if call]
        form = start.after(calls[0])
        changes = {
            "other icon": [other, *calls[1:]],
            "no field": [calls[0], *calls[2:]],
            "other text": [*calls[:2], Call("", "Type", {"text": start.goal.text + "A"}), calls[3]],
            "red button": [*calls[:3], Call("", "Tap", {"point": middle(dict(elements(form))["red button"])})],
            "nothing": [],
        }
        screen = start
        for call in changes[wrong]:
            screen = screen.after(call)
        assert not screen.solved


def test_mistakes_can_be_mended() -> None:
    """From the wrong form, with the wrong text, or after sending it, the expert still reaches the goal."""
    for start in SCREENS:
        lost = start
        for call in (Call("", "Tap", {"point": (270, 270)}), Call("", "Tap", {"point": (500, 300)})):
            lost = lost.after(call)
        for screen in (lost, lost.after(Call("", "Type", {"text": "X"}))):
            for _ in range(8):
                call = expert(screen)
                screen = screen.after(call) if call else screen
            assert screen.solved


POINTS = st.tuples(st.integers(0, 999), st.integers(0, 999))
CALLS = st.one_of(
    st.builds(lambda point: Call("", "Tap", {"point": point}), POINTS),
    st.builds(lambda text: Call("", "Type", {"text": text}), st.text(max_size=20)),
    st.sampled_from([Call("", "Home", {}), Call("", "Fly", {}), Call("", "Tap", {}), Call("", "Type", {"text": 3})]),
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SCREENS), st.lists(CALLS, max_size=6))
def test_any_calls_give_a_picture(start, calls) -> None:
    """Whatever a model does, the environment answers with a screen of its size, and twice with the same one."""
    screen = start
    for call in calls:
        screen = screen.after(call)
    assert render(screen).size == (start.width, start.height)
    assert screen.screenshot() == screen.screenshot()


def test_what_was_done_is_seen() -> None:
    """Each step of the expert changes the pixels: a model that looks can tell how far it is."""
    for start in SCREENS[:20]:
        pictures = [screen.screenshot() for screen, _ in played(start)]
        assert len(set(pictures)) == len(pictures)
