"""`launch.benchmarks.look_ups`: each question has one answer, and it stands in what was told."""

import re

import numpy as np

from data_pipelines.synthetic.scenes import sample_scene
from data_pipelines.synthetic.wording import box_markup, name
from launch.benchmarks.look_ups import look_ups


def test_answers_stand_in_what_was_told() -> None:
    """A box stands behind the phrase that asks for it, a colour before the one shape that is asked; every object is asked
    for its box once."""
    rng = np.random.default_rng(0)
    colours = 0
    for _ in range(60):
        scene = sample_scene(rng, held_out=False)
        boxes = []
        for asked in look_ups(scene):
            told, question = asked.prompt.split("<|endoftext|>")
            assert asked.objects == len(scene.objects) == told.count("<box>")
            if asked.kind == "colour":
                colours += 1
                shape = re.fullmatch(r"What color is the (\w+)\? Answer:", question)[1]
                assert re.findall(rf"(\w+) {shape}<box>", told) == [asked.answer]
            else:
                phrase = re.fullmatch(r"<ref>the (.+)</ref>", question)[1]
                assert told.count(phrase + asked.answer) == 1
                boxes.append((phrase, asked.answer))
        assert sorted(boxes) == sorted((name(item), box_markup(scene, item)) for item in scene.objects)
    assert colours > 40
