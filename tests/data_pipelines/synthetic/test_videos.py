"""Videos of the native world: real files whose frames show what their questions ask."""

import numpy as np
import pytest

from data_pipelines.synthetic.scenes import is_held_out
from data_pipelines.synthetic.videos import (
    DIRECTIONS,
    clip_questions,
    render_clip,
    sample_appearing,
    sample_clip,
    sample_moving,
)
from data_pipelines.synthetic.wording import name
from qwenvl_jax.processing.video import decode_frames, probe_video


@pytest.mark.parametrize("make", [sample_moving, sample_appearing])
def test_files_tell_what_the_record_tells(make) -> None:
    """Frames, speed and size of the file are the record's, and the same seed gives the same bytes."""
    for seed in range(4):
        clip = make(np.random.default_rng(seed), False)
        video = render_clip(np.random.default_rng(seed), clip)
        info = probe_video(video.data)
        assert (info.frames, info.frames_per_second) == (video.frames, video.frames_per_second)
        assert (info.width, info.height) == (video.width, video.height) == (clip.scene.width, clip.scene.height)
        assert video == render_clip(np.random.default_rng(seed), clip)


def test_moving_objects_stay_inside_and_go_their_way() -> None:
    """At the first and the last frame the whole object is in the picture; its path points as its direction says."""
    for seed in range(200):
        clip = sample_moving(np.random.default_rng(seed), bool(seed % 2))
        for item, direction, (dx, dy) in zip(clip.scene.objects, clip.directions, clip.paths):
            assert is_held_out(item.look) == bool(seed % 2)
            x1, y1, x2, y2 = item.box
            for way in (0, 1):
                assert 0 <= x1 + way * dx < x2 + way * dx <= clip.scene.width
                assert 0 <= y1 + way * dy < y2 + way * dy <= clip.scene.height
            assert tuple(np.sign((dx, dy))) == DIRECTIONS.get(direction, (0, 0))
            assert abs(dx) + abs(dy) > 3 or not direction


def test_frames_show_what_moves() -> None:
    """The middle of what differs from the first frame to the last lies, in the last, where the object went."""
    for seed in range(6):
        clip = next(
            c for c in (sample_moving(np.random.default_rng([seed, i]), False) for i in range(50)) if len(c.paths) == 1
        )
        video = render_clip(np.random.default_rng(seed), clip)
        first, last = decode_frames(video.data, np.array([0, clip.frames - 1]))
        [item], [(dx, dy)] = clip.scene.objects, clip.paths
        changed = np.abs(first.astype(int) - last).max(-1) > 60
        ys, xs = np.nonzero(changed)
        assert abs(xs.mean() - (item.x + dx / 2)) < 6
        assert abs(ys.mean() - (item.y + dy / 2)) < 6


def test_objects_appear_in_the_order_that_is_asked() -> None:
    """Appearances are a second apart at least, the first object is there from the start, and first and last follow."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        clip = sample_appearing(rng, False)
        times = sorted(clip.appears)
        assert times[0] == 0
        assert min(np.diff(times)) >= 4
        names = [name(item) for item in clip.scene.objects]
        for asked in clip_questions(clip, rng):
            if asked.question == "Which object appears first?":
                assert names.index(asked.answer) == clip.appears.index(0)
            if asked.question == "Which object appears last?":
                assert names.index(asked.answer) == int(np.argmax(clip.appears))


def test_every_clip_is_asked_and_answers_are_balanced() -> None:
    """One to three questions each; no answer of yes and no, and no direction, is much more frequent than its rivals."""
    answers = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        asked = clip_questions(sample_clip(rng, False), rng)
        assert 1 <= len(asked) <= 3
        answers += [item.answer for item in asked]
    for rivals in (("yes", "no"), tuple(DIRECTIONS)):
        counts = [answers.count(answer) for answer in rivals]
        assert max(counts) < 1.8 * min(counts), dict(zip(rivals, counts))
