"""Whether a language model finds what was asked for: pictures told in words, without a picture.

    python -m launch.benchmarks.look_ups runs/tiny-qwen2/checkpoints/language

A model that has learned the form of answers and no look-up names anything that was told: with two objects it is right half
of the time. Everything that is asked of pictures needs look-ups too, so this tells early what a run can reach.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from data_pipelines.synthetic.scenes import Scene, sample_scene
from data_pipelines.synthetic.wording import box_markup, name, unique
from qwenvl_jax.inference.generate import generate
from qwenvl_jax.inference.loading import load
from qwenvl_jax.processing.prompts import referring_prompt, vqa_prompt
from qwenvl_jax.processing.sample import Sample, Text
from qwenvl_jax.processing.tokenizer import END_OF_TEXT

MAX_NEW_TOKENS = 32
"""Of a box, in digits."""


@dataclass(frozen=True)
class LookUpsOptions:
    """What is asked, and how often."""

    folder: tyro.conf.Positional[Path]
    """A run, or one of its checkpoints."""
    scenes: int = 200
    batch_size: int = 64


class LookUp(NamedTuple):
    """A told scene with a question, the answer that is looked for, what it is of, and the scene's number of objects."""

    prompt: str
    answer: str
    kind: str
    objects: int


def look_ups(scene: Scene) -> list[LookUp]:
    """The colour of an object whose shape no other has, and the box of each object."""
    listed = ", ".join(f"{name(item)}{box_markup(scene, item)}" for item in scene.objects) + END_OF_TEXT
    colours = [
        (vqa_prompt(f"What color is the {item.look.shape}?"), item.look.colour, "colour")
        for item in unique(scene, lambda item: item.look.shape)
    ]
    boxes = [
        (referring_prompt(f"the {name(item)}"), box_markup(scene, item), "box, every digit") for item in scene.objects
    ]
    return [LookUp(listed + prompt, answer, kind, len(scene.objects)) for prompt, answer, kind in colours + boxes]


def main() -> None:
    options = tyro.cli(LookUpsOptions)
    model, processor = load(options.folder)
    rng = np.random.default_rng(0)
    asked = [asked for _ in range(options.scenes) for asked in look_ups(sample_scene(rng, held_out=False))]
    queries = [Sample((Text(one.prompt),)) for one in asked]
    answers = generate(model, processor, queries, batch_size=options.batch_size, max_new_tokens=MAX_NEW_TOKENS)
    right = defaultdict[tuple[str, int], list[bool]](list)
    for one, answer in zip(asked, answers):
        right[one.kind, one.objects].append(answer.strip() == one.answer)
    print("| asked for | objects told | right | of |\n|---|--:|--:|--:|")
    for (kind, objects), found in sorted(right.items()):
        print(f"| {kind} | {objects} | {np.mean(found):.2f} | {len(found)} |")


if __name__ == "__main__":
    main()
