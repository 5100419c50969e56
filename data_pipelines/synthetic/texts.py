"""Pure text of the world: what a language model reads before it sees a picture.

Each text tells of an imaginary scene or document in the formats of the tasks (`data_pipelines.tasks`), so
that the answers follow from what stands before them: a model learns the world's words, its markup, and to
look things up.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipelines.records import Question
from data_pipelines.synthetic.chats import (
    Pair,
    picture_prefix,
    sample_pictures,
    short_questions,
    told_scene,
    turns,
)
from data_pipelines.synthetic.documents import Page, document_questions, sample_page
from data_pipelines.synthetic.scenes import Scene, sample_scene
from data_pipelines.synthetic.wording import (
    caption,
    caption_zh,
    grounded_caption,
    questions,
    regions,
)
from qwenvl_jax.processing.chatml import ChatTurn, chat_parts
from qwenvl_jax.processing.markup import format_box, format_quad, format_ref
from qwenvl_jax.processing.prompts import OCR_PROMPT, grounded_captioning_prompt, referring_prompt, vqa_prompt
from qwenvl_jax.processing.sample import Text
from qwenvl_jax.processing.tokenizer import END_OF_TEXT

TOLD_TASKS = 9
"""Tasks that follow a picture in words. What is learned from such a text are its answers, as its picture is made up: after
2,400 steps with three tasks a model found 0.09 of the boxes asked for and 0.87 of the shapes, with nine 0.78 and 1.00."""


def described_scene(rng: np.random.Generator) -> str:
    """A caption, English or Chinese, and questions that it answers."""
    scene = sample_scene(rng, held_out=False)
    told = caption(scene) if rng.random() < 0.8 else caption_zh(scene)
    asked = [item for item in questions(scene, rng) if item.kind in ("colour", "shape", "count", "yes/no")]
    parts = [f"{told.question} {told.answer}"]
    parts += [f"{vqa_prompt(item.question)} {item.answer}" for item in asked[:4]]
    return END_OF_TEXT.join(parts)


def located_scene(rng: np.random.Generator) -> str:
    """A caption with grounding, phrases asked for their boxes and boxes for theirs, and where things lie."""
    scene = sample_scene(rng, held_out=False)
    told = grounded_caption(scene)
    parts = [f"{told.question} {told.answer}"]
    for region in regions(scene, rng)[:2]:
        box = format_box(region.boxes[0], scene.width, scene.height)
        if rng.random() < 0.5:
            parts.append(referring_prompt(region.phrase) + box)
        else:
            parts.append(f"{grounded_captioning_prompt(box)} {region.phrase}")
    related = [item for item in questions(scene, rng) if item.kind == "relation"]
    parts += [f"{vqa_prompt(item.question)} {item.answer}" for item in related[:1]]
    return END_OF_TEXT.join(parts)


def told_picture(
    rng: np.random.Generator, captions: Sequence[Callable[[Scene], Question]] = (caption, grounded_caption)
) -> str:
    """A picture in words, with the colour, shape and box of each object, and tasks of all kinds that it answers.

    What a vision encoder has to tell later, told by text now: the model learns to look things up, which takes it longest,
    at the price of text alone.
    """
    scene = sample_scene(rng, held_out=False)
    size = (scene.width, scene.height)
    listed = [
        f"{item.look.colour} {item.look.shape}{format_box(scene.annotated_box(item), *size)}" for item in scene.objects
    ]
    found = regions(scene, rng)
    boxes = [format_box(region.boxes[0], *size) for region in found]
    tasks = [f"{told.question} {told.answer}" for told in (caption_of(scene) for caption_of in captions)]
    tasks += [referring_prompt(region.phrase) + box for region, box in zip(found, boxes)]
    tasks += [f"{grounded_captioning_prompt(box)} {region.phrase}" for region, box in zip(found, boxes)]
    tasks += [f"{vqa_prompt(item.question)} {item.answer}" for item in questions(scene, rng)]
    chosen = [tasks[i] for i in rng.permutation(len(tasks))[:TOLD_TASKS]]
    return END_OF_TEXT.join([", ".join(listed), *chosen])


def read_document(rng: np.random.Generator, page_of: Callable[[np.random.Generator, bool], Page] = sample_page) -> str:
    """The lines of a document with their quads, and questions on it; `page_of` draws a training page."""
    size, lines = page_of(rng, False)
    read = "".join(f" {format_ref(line.text)} {format_quad(line.annotated_quad(size), *size)}" for line in lines)
    parts = [OCR_PROMPT + read]
    parts += [
        f"{vqa_prompt(item.question)} {item.answer}"
        for item in document_questions(tuple(line.text for line in lines), rng)
    ]
    return END_OF_TEXT.join(parts)


def _chatml(pairs: list[Pair], prefix: str = "") -> str:
    parts = chat_parts([ChatTurn(turn.role, turn.text) for turn in turns(pairs, prefix)])
    return "".join(part.text for part in parts if isinstance(part, Text))


def told_conversation(rng: np.random.Generator) -> str:
    """A conversation about pictures that are told in words."""
    if rng.random() < 0.3:
        return _chatml(list(told_scene(rng)))
    scenes = sample_pictures(rng, held_out=False)
    prefix = picture_prefix(len(scenes))
    for i, scene in enumerate(scenes):
        prefix = prefix.replace(f"<img>{i}</img>", caption(scene).answer)
    return _chatml(short_questions(scenes, rng, 4), prefix)


KINDS: dict[Callable[[np.random.Generator], str], float] = {
    told_picture: 0.7,
    described_scene: 0.06,
    located_scene: 0.02,
    read_document: 0.07,
    told_conversation: 0.15,
}
"""Share of the texts of each kind; a text has some 100 to 1,200 bytes."""


def sample_text(rng: np.random.Generator, shares: Mapping[Callable[[np.random.Generator], str], float]) -> str:
    """A text of one of the kinds, drawn by their shares; without the `<|endoftext|>` at its end, which the task adds."""
    kinds = list(shares)
    return kinds[int(rng.choice(len(kinds), p=list(shares.values())))](rng)
