"""Records of scenes, with everything that is known about them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipelines.records import Question, Record
from data_pipelines.synthetic.rendering import render_scene
from data_pipelines.synthetic.scenes import Scene, picture_size, sample_scene
from data_pipelines.synthetic.wording import ASKED, caption, caption_zh, grounded_caption, questions, regions


def scene_record(
    rng: np.random.Generator,
    key: str,
    held_out: bool,
    size_of: Callable[[np.random.Generator], tuple[int, int]] = picture_size,
    framed: bool = False,
    captions: Sequence[Callable[[Scene], Question]] = (caption, caption_zh),
    asked_in_training: Mapping[str, int] = ASKED,
) -> Record:
    """A scene, captions, questions and regions.

    Args:
      size_of: draws (width, height) in pixels.
      asked_in_training: kinds of questions about training scenes; held-out ones are asked `ASKED`.
    """
    scene = sample_scene(rng, held_out, size_of=size_of)
    return Record(
        key,
        images=(render_scene(rng, scene, framed),),
        captions=tuple(told(scene) for told in captions),
        grounded_captions=(grounded_caption(scene),),
        questions=questions(scene, rng, ASKED if held_out else asked_in_training),
        regions=regions(scene, rng),
    )
