"""Pure text of the native world: as `texts`, with videos and episodes told in words."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from data_pipelines.records import Record, Turn
from data_pipelines.synthetic.documents import document_questions
from data_pipelines.synthetic.documents import sample_text as sample_document_text
from data_pipelines.synthetic.scenes import COLOURS, SHAPES
from data_pipelines.synthetic.screens import SENT, Screen, elements, expert, middle, sample_screen
from data_pipelines.synthetic.small_print import LINES, sample_small_page
from data_pipelines.synthetic.texts import described_scene, located_scene, read_document, told_picture
from data_pipelines.synthetic.videos import Clip, clip_questions, sample_clip
from data_pipelines.synthetic.wording import Fact, caption, caption_with_places, grounded_caption, name, word
from data_pipelines.tasks import ENVIRONMENT, agent
from qwenvl_jax.processing.agent import Call, format_call
from qwenvl_jax.processing.chatml import ASSISTANT, USER
from qwenvl_jax.processing.prompts import vqa_prompt
from qwenvl_jax.processing.qwen2_chat import SYSTEM
from qwenvl_jax.processing.sample import Text
from qwenvl_jax.processing.tokenizer import END_OF_TEXT

told_native_picture = partial(told_picture, captions=(caption, grounded_caption, caption_with_places))
"""Where things are is said in words too."""

NAMED_AGAIN = 2
"""Times that a told list of names is said again."""
MOST_LINES = len(LINES)
BACKWARDS = 0.7
"""Share of what is asked from a shape to its colour, which stands before it, and so is harder to find."""

REPLY = "Done."
"""What the expert says when the goal is reached."""


def told_names(rng: np.random.Generator) -> str:
    """Names of objects, said again in other orders ("circle red, blue square"), and asked for by one of their words.

    Said again, a word stands right before the one that has to be looked up. That is learned soon, and then what stands some
    words behind it, as in all questions on pictures (`qwenvl_jax/models/qwen2_vl/README.md` has the figures).
    """
    count = int(rng.integers(2, len(SHAPES) + 1))
    shapes, colours = (rng.permutation(list(words))[:count].tolist() for words in (SHAPES, COLOURS))

    def by(of_shape: Callable[[str, str], str], of_colour: Callable[[str, str], str]) -> list[str]:
        ways = [of_shape if share < BACKWARDS else of_colour for share in rng.random(count)]
        return [ways[i](shapes[i], colours[i]) for i in rng.permutation(count)]

    lists = [", ".join(f"{colour} {shape}" for shape, colour in zip(shapes, colours))]
    for _ in range(NAMED_AGAIN):
        lists.append(", ".join(by("{0} {1}".format, "{1} {0}".format)))
    return END_OF_TEXT.join(
        lists
        + by(
            lambda shape, colour: _answered(Fact("colour", (shape,), colour)),
            lambda shape, colour: _answered(Fact("shape", (f"{colour} object",), shape)),
        )
    )


def told_lines(rng: np.random.Generator) -> str:
    """The lines of a page, said again by their numbers ("line 3 SALE, line 1 48"), and asked for.

    As `told_names`: to find a line by its number and to spell it is what reading a picture takes, beside the picture.
    """
    texts = tuple(sample_document_text(rng, held_out=False) for _ in range(int(rng.integers(2, MOST_LINES + 1))))
    lists = [", ".join(texts)]
    for _ in range(NAMED_AGAIN):
        lists.append(", ".join(f"line {i + 1} {texts[i]}" for i in rng.permutation(len(texts))))
    asked = [f"{vqa_prompt(item.question)} {item.answer}" for item in document_questions(texts, rng)]
    return END_OF_TEXT.join(lists + asked)


def _answered(fact: Fact) -> str:
    item = word(fact, fact.template)
    return f"{vqa_prompt(item.question)} {item.answer}"


def told_clip(rng: np.random.Generator) -> str:
    """What happens in a video, in words, and questions that it answers."""
    clip = sample_clip(rng, held_out=False)
    parts = [f"{vqa_prompt(item.question)} {item.answer}" for item in clip_questions(clip, rng)]
    return END_OF_TEXT.join([_events(clip), *parts])


def _events(clip: Clip) -> str:
    names = [name(item) for item in clip.scene.objects]
    if any(clip.appears):
        return ", then ".join(names[i] for i in np.argsort(clip.appears))
    return ", ".join(f"{phrase} {direction or 'still'}" for phrase, direction in zip(names, clip.directions))


def played(start: Screen) -> Iterator[tuple[Screen, Call | None]]:
    """The expert's episode: each screen with what is done on it; None on the last."""
    screen, call = start, expert(start)
    while call is not None:
        yield screen, call
        screen = screen.after(call)
        call = expert(screen)
    yield screen, None


def episode_turns(start: Screen, show: Callable[[int, Screen], str]) -> tuple[Turn, ...]:
    """The expert's episode as turns, for `data_pipelines.tasks.agent`.

    Args:
      show: what stands for the n-th screen: its picture, or words.
    """
    actions = "\n".join(f"{action.name}: {action.description}" for action in start.actions)
    turns = [Turn(SYSTEM, actions)]
    for number, (screen, call) in enumerate(played(start)):
        shown = show(number, screen)
        turns.append(Turn(ENVIRONMENT, shown) if number else Turn(USER, f"{start.task} {shown}"))
        turns.append(Turn(ASSISTANT, format_call(call) if call else REPLY))
    return tuple(turns)


def _told(number: int, screen: Screen) -> str:
    if screen.page == SENT:
        return "SENT"
    told = []
    for element, box in elements(screen):
        x, y = middle(box)
        if element == "field":
            element = f"{'chosen ' if screen.chosen else ''}field{f' {screen.text}' if screen.text else ''}"
        told.append(f"{element} ({x},{y})")
    return ", ".join(told)


def told_episode(rng: np.random.Generator) -> str:
    """An episode whose screens are told in words: names of what can be tapped, and its middles."""
    sample = agent(Record("", conversation=episode_turns(sample_screen(rng, held_out=False), _told)))
    return "".join(part.text for part in sample.parts if isinstance(part, Text)) if sample else ""


KINDS: dict[Callable[[np.random.Generator], str], float] = {
    told_native_picture: 0.32,
    told_names: 0.28,
    told_lines: 0.12,
    described_scene: 0.04,
    located_scene: 0.02,
    partial(read_document, page_of=sample_small_page): 0.05,
    told_clip: 0.10,
    told_episode: 0.07,
}
"""Share of the texts of each kind; a text has some 50 to 1,500 bytes."""
