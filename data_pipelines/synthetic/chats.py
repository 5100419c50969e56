"""Conversations: several pictures compared, one picture described, a sign read, and talk without a picture.

Pictures stand in the first user turn as `Picture 1: <img>0</img>` and so on. A question on several pictures
with a short answer is also kept in `Record.questions` with kind `chat`, worded as the first turn of a
conversation, so that an evaluation can ask it by itself.
"""

from collections.abc import Callable

import numpy as np

from data_pipelines.records import Question, Record, Turn
from data_pipelines.synthetic.documents import document_questions, sample_document
from data_pipelines.synthetic.rendering import render_scene
from data_pipelines.synthetic.scenes import LOOKS, SHAPES, Look, Scene, sample_scene
from data_pipelines.synthetic.wording import PLURALS, box_markup, caption, name, pick, questions, unique
from data_pipelines.tasks import CHAT_KIND
from qwenvl_jax.processing.markup import format_ref

KINDS = {"pictures": 0.68, "picture": 0.16, "sign": 0.08, "text": 0.08}
"""Share of conversations by what they are about. Held-out ones are all about several pictures."""
TURNS = (2, 4)
TURNS_ON_PICTURES = (3, 6)
"""Questions of a conversation; about several pictures, which cost most of its time, there are more."""
LONG_ANSWERS = (0.5, 0.4, 0.1)
"""Share of conversations about several pictures that end in 0, 1, 2 questions for a box or a caption."""

Pair = tuple[str, str]


def picture_prefix(count: int) -> str:
    """The lines that introduce a turn's pictures, as `from_list_format` of the original writes them."""
    return "".join(f"Picture {i + 1}: <img>{i}</img>\n" for i in range(count))


def _names(scene: Scene) -> list[str]:
    return [name(item) for item in scene.objects]


def _shapes(scene: Scene) -> list[str]:
    return [item.look.shape for item in scene.objects]


def compare_counts(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Pair | None:
    """Which picture has more objects, or whether both have equally many."""
    counts = [len(scene.objects) for scene in scenes]
    if counts[0] == counts[1] or rng.random() < 0.35:
        return "Do both pictures have the same number of objects?", "yes" if counts[0] == counts[1] else "no"
    return "Which picture has more objects?", f"Picture {counts.index(max(counts)) + 1}"


def picture_with(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Pair | None:
    """In which picture an object is that no other picture has."""
    every = [phrase for scene in scenes for phrase in _names(scene)]
    single = [(phrase, i) for i, scene in enumerate(scenes) for phrase in _names(scene) if every.count(phrase) == 1]
    if not single:
        return None
    phrase, i = pick(rng, single)
    return f"In which picture is the {phrase}?", f"Picture {i + 1}"


def colour_in(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Pair | None:
    """The colour of an object of one picture."""
    i = int(rng.integers(len(scenes)))
    items = unique(scenes[i], lambda item: item.look.shape)
    if not items:
        return None
    item = pick(rng, items)
    return f"What color is the {item.look.shape} in Picture {i + 1}?", item.look.colour


def shape_in(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Pair | None:
    """The shape of an object of one picture."""
    i = int(rng.integers(len(scenes)))
    items = unique(scenes[i], lambda item: item.look.colour)
    if not items:
        return None
    item = pick(rng, items)
    return f"What shape is the {item.look.colour} object in Picture {i + 1}?", item.look.shape


def count_in(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Pair | None:
    """The number of objects, or of one shape, in one picture."""
    i = int(rng.integers(len(scenes)))
    if rng.random() < 0.6:
        return f"How many objects are in Picture {i + 1}?", str(len(scenes[i].objects))
    shapes = _shapes(scenes[i])
    shape = pick(rng, shapes) if rng.random() < 0.6 else pick(rng, SHAPES)
    return f"How many {PLURALS[shape]} are in Picture {i + 1}?", str(shapes.count(shape))


def larger(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Pair | None:
    """Which picture shows the larger object of a shape that each has once, in different sizes."""
    found = []
    for item in unique(scenes[0], lambda item: item.look.shape):
        for other in unique(scenes[1], lambda item: item.look.shape):
            if other.look.shape == item.look.shape and other.look.size != item.look.size:
                found.append((item.look.shape, 1 if item.look.size == "large" else 2))
    if not found:
        return None
    shape, number = pick(rng, found)
    return f"Which picture shows the larger {shape}?", f"Picture {number}"


Asker = Callable[[tuple[Scene, ...], np.random.Generator], Pair | None]
SHORT_QUESTIONS: tuple[Asker, ...] = (
    compare_counts,
    picture_with,
    colour_in,
    shape_in,
    count_in,
    larger,
)
"""Questions on several pictures with a short answer; each gives None where the pictures do not allow it."""


def where_in(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Pair:
    """The box of an object of one picture."""
    i = int(rng.integers(len(scenes)))
    item = pick(rng, scenes[i].objects)
    phrase = f"the {name(item)}"
    return f"Where is {phrase} in Picture {i + 1}?", format_ref(phrase) + box_markup(scenes[i], item)


def describe(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Pair:
    """The caption of one picture."""
    i = int(rng.integers(len(scenes)))
    return f"Describe Picture {i + 1}.", caption(scenes[i]).answer


def _counterpart(rng: np.random.Generator, scene: Scene, held_out: bool) -> tuple[Look, ...]:
    """A look for another picture: () or one that shares with this picture a colour, or a shape in the other
    size.
    """
    look, share = pick(rng, scene.objects).look, rng.random()
    if share < 0.35:
        return ()
    if share < 0.55:
        return (pick(rng, [other for other in LOOKS[held_out] if other.colour == look.colour]),)
    return (pick(rng, [o for o in LOOKS[held_out] if o.shape == look.shape and o.size != look.size]),)


def sample_pictures(rng: np.random.Generator, held_out: bool) -> tuple[Scene, ...]:
    """Two scenes that invite comparison."""
    scenes = [sample_scene(rng, held_out)]
    scenes.append(sample_scene(rng, held_out, _counterpart(rng, scenes[0], held_out)))
    return tuple(scenes[i] for i in rng.permutation(len(scenes)))


def short_questions(
    scenes: tuple[Scene, ...],
    rng: np.random.Generator,
    most: int,
    askers: tuple[Asker, ...] = SHORT_QUESTIONS,
) -> list[Pair]:
    """Up to `most` different questions on the pictures, each with a short answer."""
    pairs: list[Pair] = []
    for i in rng.permutation(len(askers)):
        pair = askers[i](scenes, rng)
        if pair is not None and len(pairs) < most:
            pairs.append(pair)
    return pairs


def turns(pairs: list[Pair], prefix: str = "") -> tuple[Turn, ...]:
    """User and assistant turns in order; `prefix` stands before the first question."""
    conversation = []
    for i, (question, answer) in enumerate(pairs):
        conversation += [Turn("user", (prefix if i == 0 else "") + question), Turn("assistant", answer)]
    return tuple(conversation)


def _pictures_chat(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    scenes = sample_pictures(rng, held_out)
    # Last, as a caption or a located object gives away what short questions ask.
    ends = (where_in, describe) if rng.random() < 0.5 else (describe, where_in)
    long = [ask(scenes, rng) for ask in ends[: int(rng.choice(3, p=LONG_ANSWERS))]]
    most = int(rng.integers(TURNS_ON_PICTURES[0], TURNS_ON_PICTURES[1] + 1))
    short = short_questions(scenes, rng, max(1, most - len(long)))
    prefix = picture_prefix(len(scenes))
    return Record(
        key,
        images=tuple(render_scene(rng, scene) for scene in scenes),
        questions=tuple(Question(prefix + question, answer, CHAT_KIND) for question, answer in short),
        conversation=turns(short + long, prefix),
    )


def _picture_chat(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    scene = sample_scene(rng, held_out)
    asked: list[Pair] = [(item.question, item.answer) for item in questions(scene, rng)[:2]]
    item = pick(rng, scene.objects)
    located = format_ref(f"the {name(item)}") + box_markup(scene, item)
    asked += [("Describe the picture.", caption(scene).answer), (f"Where is the {name(item)}?", located)]
    chosen = [asked[i] for i in rng.permutation(len(asked))[: rng.integers(TURNS[0], TURNS[1] + 1)]]
    return Record(key, images=(render_scene(rng, scene),), conversation=turns(chosen, picture_prefix(1)))


def _sign_chat(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    image, lines = sample_document(rng, held_out)
    texts = tuple(line.text for line in lines)
    asked: list[Pair] = [(item.question, item.answer) for item in document_questions(texts, rng)]
    asked.append(("Read the text.", "\n".join(texts)))
    return Record(key, images=(image,), conversation=turns(asked[: TURNS[1]], picture_prefix(1)))


def told_scene(rng: np.random.Generator) -> tuple[Pair, ...]:
    """Questions on a scene that is told in words, and their answers."""
    scene = sample_scene(rng, held_out=False)
    asked = [item for item in questions(scene, rng) if item.kind in ("colour", "shape", "count")]
    told = f"There is {caption(scene).answer}."
    if not asked:
        return ((f"{told} How many objects are there?", str(len(scene.objects))),)
    return (
        (f"{told} {asked[0].question}", asked[0].answer),
        *((item.question, item.answer) for item in asked[1:3]),
    )


def _text_chat(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    return Record(key, conversation=turns(list(told_scene(rng))))


_MAKERS: dict[str, Callable[[np.random.Generator, str, bool], Record]] = {
    "pictures": _pictures_chat,
    "picture": _picture_chat,
    "sign": _sign_chat,
    "text": _text_chat,
}


def chat_record(rng: np.random.Generator, key: str, held_out: bool) -> Record:
    """A conversation of two to six turns."""
    kind = "pictures" if held_out else str(rng.choice(list(KINDS), p=list(KINDS.values())))
    return _MAKERS[kind](rng, key, held_out)
