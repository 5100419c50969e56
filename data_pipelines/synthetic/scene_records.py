"""Records of scenes, with everything that is known about them."""

from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.records import Question, Record
from data_pipelines.synthetic.rendering import render_scene
from data_pipelines.synthetic.scenes import Scene, picture_size, sample_scene
from data_pipelines.synthetic.wording import caption, caption_zh, grounded_caption, questions, regions


def scene_record(
    rng: np.random.Generator,
    key: str,
    held_out: bool,
    size_of: Callable[[np.random.Generator], tuple[int, int]] = picture_size,
    framed: bool = False,
    captions: Sequence[Callable[[Scene], Question]] = (caption, caption_zh),
) -> Record:
    """A scene, captions, questions and regions; `size_of` draws (width, height) in pixels."""
    scene = sample_scene(rng, held_out, size_of=size_of)
    return Record(
        key,
        images=(render_scene(rng, scene, framed),),
        captions=tuple(told(scene) for told in captions),
        grounded_captions=(grounded_caption(scene),),
        questions=questions(scene, rng),
        regions=regions(scene, rng),
    )
