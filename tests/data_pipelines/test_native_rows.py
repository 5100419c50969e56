"""Rows of Qwen2-VL: images and videos of any size beside text, on two budgets, in arrays of one shape."""

import pickle
from dataclasses import replace

import jax
import numpy as np
import pytest
from small_data import make_picture, make_run
from small_video import make_video

from data_pipelines.loader import describe, open_loader
from data_pipelines.records import Question, Record, StoredVideo
from data_pipelines.rows import RowMaker
from data_pipelines.sources.array_record import write_shards
from data_pipelines.tasks import tasks_of
from qwenvl_jax.batch import row_of
from qwenvl_jax.config import Component, PixelLimits, Qwen2LanguageConfig, Qwen2VisionConfig, Qwen2VLConfig, VideoLimits
from qwenvl_jax.processing.encoders import stage_encoder
from qwenvl_jax.processing.patches import frame_numbers, patch_positions, patchify

MODEL = Qwen2VLConfig(
    Qwen2VisionConfig(width=8, layers=1, heads=1, mlp_width=8, patch=4),
    Qwen2LanguageConfig(
        vocab_size=272, width=8, layers=1, heads=1, kv_heads=1, mlp_width=8, tied=True, mrope_sections=(2, 1, 1)
    ),
)
LIMITS = PixelLimits(64, 64 * 256)
VIDEOS = VideoLimits(4.0, 2, 8, PixelLimits(64, 64 * 16), 64 * 64, round_down=False)
MIXTURE = (Component("caption", "sizes", 3), Component("video_vqa", "videos", 1), Component("text", "texts", 1))


def sized_record(number: int) -> Record:
    """A picture of 4 to 300 pixels a side."""
    width, height = np.random.default_rng(number).integers(4, 301, 2).tolist()
    picture = make_picture(number, width, height)
    return Record(f"s{number}", images=(picture,), captions=(Question("What?", "word " * (number % 5)),))


def video_record(number: int) -> Record:
    """A video of a half to two seconds."""
    frames = 4 + 3 * (number % 5)
    video = StoredVideo(make_video(frames), frames, 8.0, 64, 48)
    return Record(f"v{number}", questions=(Question("What moves?", f"number {number}"),), videos=(video,))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """A folder with `sizes` (60 records), `videos` (6) and `texts` (10)."""
    root = tmp_path_factory.mktemp("native")
    write_shards(root / "sizes", map(sized_record, range(60)))
    write_shards(root / "videos", map(video_record, range(6)))
    write_shards(root / "texts", (Record(f"t{n}", text=f"text {n} " * (1 + n % 3)) for n in range(10)))
    return str(root)


def native_run(root: str, **stage_fields):
    fields = {
        "mixture": MIXTURE, "sequence_length": 256, "patches_per_row": 640, "images_per_row": 0, "resolution": 0,
        "image_limits": LIMITS, "video_limits": VIDEOS, "pack_within_task": False, "steps": 40,
    }  # fmt: skip
    return replace(make_run(root, **(fields | stage_fields)), model=MODEL)


def test_a_row_holds_its_samples(root) -> None:
    """Text, images and videos stand in one row, each array holding every sample's part where it belongs."""
    run = native_run(root)
    [stage] = run.stages
    encoder, tasks = stage_encoder(MODEL, stage, "bytes"), tasks_of(MODEL)
    with open_loader(run, stage) as loader:
        number = next(n for n in range(160) if {item.component for item in loader.plan.row(n)} >= {0, 1})
        items = loader.plan.row(number)
        batch, _ = next(batch for step, batch in enumerate(loader) if step == number // 4)
        row, start, patch, segment = row_of(batch, number % 4), 0, 0, 0
        for number, item in enumerate(items, 1):
            samples = loader.components[item.component]
            sample = tasks[samples.component.task](samples.source[int(samples.records[item.sample])])
            encoded = encoder.encode(sample)
            here, there = np.s_[start : start + len(encoded.tokens)], np.s_[patch : patch + encoded.vision]
            assert (row.tokens[here] == encoded.tokens).all()
            assert (row.positions[:, here] == encoded.positions).all()
            assert (row.segment_ids[here] == number).all()
            seen = encoded.vision_index >= 0
            assert (row.vision_index[here][seen] == encoded.vision_index[seen] + patch // 4).all()
            patches = [patchify(frames, encoder.patch) for frames in encoder.pixels(sample, encoded)]
            assert (row.patches[there] == np.concatenate([row.patches[:0], *patches])).all()
            where = [patch_positions(grid) for grid in encoded.grids]
            assert (row.patch_positions[there] == np.concatenate([np.zeros((0, 2)), *where])).all()
            for grid in encoded.grids:
                count = grid.patches
                assert (row.patch_segments[patch : patch + count] == frame_numbers(grid) + segment + 1).all()
                patch, segment = patch + count, segment + grid.frames
            start = here.stop
    assert not row.segment_ids[start:].any()
    assert not row.patch_segments[patch:].any()
    assert not row.patches[patch:].any()


def test_batches_have_one_shape(root) -> None:
    """Whatever the pictures' sizes; a stage of text alone has no patches; workers and restarts change nothing."""
    run = native_run(root)
    with open_loader(run, run.stages[0]) as loader:
        batches = [batch for batch, _ in loader]
    shapes = {tuple(None if x is None else (x.shape, x.dtype) for x in batch) for batch in batches}
    assert len(shapes) == 1
    assert batches[0].patches.shape == (4, 640, 96)
    assert all((batch.patch_segments > 0).any() for batch in batches)
    with open_loader(replace(run, data=replace(run.data, workers=1)), run.stages[0], start_step=30) as loader:
        again = [batch for batch, _ in loader]
    assert all(np.array_equal(a, b) for x, y in zip(again, batches[30:]) for a, b in zip(x, y))
    text = native_run(root, mixture=MIXTURE[2:], patches_per_row=0)
    with open_loader(text, text.stages[0]) as loader:
        assert next(loader)[0].patches.shape == (4, 0, 96)


def test_memory_that_was_used_before_is_cleared(root) -> None:
    """Rows in memory that holds anything are those in zeros."""
    run = native_run(root)
    [stage] = run.stages
    with open_loader(run, stage) as loader:
        maker = RowMaker(
            loader.components, tasks_of(MODEL), stage_encoder(MODEL, stage, "bytes"), stage.sequence_length, 640
        )
        rows = [*(loader.plan.row(number) for number in range(4)), ()]
        there, _ = maker.make_rows(rows)
        again, _ = maker.make_rows(rows, lambda shape, dtype: np.full(shape, 7, dtype))
    jax.tree.map(np.testing.assert_array_equal, there, again)


@pytest.mark.parametrize("patches, tokens", [(64, 256), (640, 64)])
def test_what_is_too_large_for_a_row_is_shown_smaller(root, patches, tokens) -> None:
    """Nothing is cut or left out, for want of patches or of tokens; what is made smaller is counted."""
    run = native_run(root, mixture=MIXTURE[:1], patches_per_row=patches, sequence_length=tokens)
    with open_loader(run, run.stages[0]) as loader:
        [samples], [described] = loader.components, describe(loader).components
        batches = list(loader)
    assert (len(samples.records), samples.left_out) == (60, {})
    assert 30 < samples.reduced == described.reduced <= 60
    assert samples.vision.max() <= patches
    assert samples.tokens.max() <= tokens
    for batch, info in batches:
        assert (info.replaced, info.dropped) == (0, 0)
        assert ((batch.vision_index >= 0).sum(1) * 4 == (batch.patch_segments > 0).sum(1)).all()


def test_too_many_frames_are_counted(root) -> None:
    """A video whose pairs of frames outnumber the row's vision tokens is left out with its reason."""
    run = native_run(root, mixture=MIXTURE[1:2], patches_per_row=12)
    with open_loader(run, run.stages[0]) as loader:
        [samples] = loader.components
    assert samples.left_out == {"more images, or pairs of frames, than a row has room for": 1}
    assert len(samples.records) == 5


def test_encoders_travel_to_workers(root) -> None:
    """Pickled, they are the same."""
    encoder = stage_encoder(MODEL, native_run(root).stages[0], "bytes")
    again = pickle.loads(pickle.dumps(encoder))
    assert again.identity == encoder.identity
    assert again.tokenizer.fingerprint == encoder.tokenizer.fingerprint
