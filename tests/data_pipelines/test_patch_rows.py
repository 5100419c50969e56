"""Stages of patch labels read, shuffle and resume as all others: batch t is a function of (data, seed, t)."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from einops import rearrange
from small_data import make_run

from configs.tiny_qwen2 import tiny_qwen2
from data_pipelines.inspection import inspect_stage
from data_pipelines.loader import open_loader
from data_pipelines.patch_rows import PatchRowMaker
from data_pipelines.sources.array_record import write_shards
from data_pipelines.sources.opening import open_source
from data_pipelines.synthetic.patches import CLASSES, RELATIVE_CLASSES, UNLABELLED, WEIGHTS, label_patches
from data_pipelines.synthetic.world import Source, make_record
from qwenvl_jax.config import Component
from qwenvl_jax.processing.encoders import stage_encoder
from qwenvl_jax.processing.images import decode_image
from qwenvl_jax.processing.patches import patchify
from qwenvl_jax.processing.resize import resize_bicubic
from qwenvl_jax.processing.sample import Image, Sample

GRID, IMAGES, RESOLUTION = 2, 3, 8
LABELS = GRID**2 * len(CLASSES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A stage on 12 scenes and 6 documents of the world, two scenes for each document."""
    root = tmp_path_factory.mktemp("world")
    for stream, (kind, count) in enumerate((("scenes", 12), ("documents", 6))):
        source = Source(kind, kind, False, count, stream)
        write_shards(root / kind, (make_record(0, source, i) for i in range(count)))
    run = make_run(str(root))
    mixture = (Component("patches", "scenes", 2), Component("patches", "documents", 1))
    stage = replace(
        run.stages[0], mixture=mixture, images_per_row=IMAGES, sequence_length=IMAGES * LABELS, patch_classes=CLASSES
    )
    assert (stage.resolution, run.model.vision.patch) == (RESOLUTION, RESOLUTION // GRID)
    return replace(run, stages=(stage,))


def load(run, **arguments):
    with open_loader(run, run.stages[0], **arguments) as loader:
        return list(loader)


def test_memory_that_was_used_before_is_cleared(run):
    """Rows in memory that holds anything are those in zeros."""
    [stage] = run.stages
    with open_loader(run, stage) as loader:
        encoder = stage_encoder(run.model, stage, run.data.tokenizer)
        maker = PatchRowMaker(loader.components, encoder, stage.sequence_length, IMAGES, GRID)
        rows = [loader.plan.row(0), ()]
        there, _ = maker.make_rows(rows)
        again, _ = maker.make_rows(rows, lambda shape, dtype: np.full(shape, 7, dtype))
    jax.tree.map(np.testing.assert_array_equal, there, again)


def test_labels_stand_beside_their_pictures(run):
    """Every slot holds a picture of a record, and its positions that record's labels with the weights of their kinds."""
    known = {}
    for kind in ("scenes", "documents"):
        source = open_source(run.data.root, kind)
        for record in map(source.__getitem__, range(len(source))):
            picture = resize_bicubic(decode_image(record.images[0].data), RESOLUTION, RESOLUTION)
            known[picture.tobytes()] = (kind, label_patches(record, GRID, GRID, relative=False))
    seen = []
    for batch, info in load(run):
        assert info.token_efficiency == info.vision_efficiency > 0.9
        for row, images in enumerate(batch.images):
            for slot, picture in enumerate(images[: batch.segment_ids[row].max()]):
                kind, labels = known[picture.tobytes()]
                place = np.s_[row, slot * LABELS : (slot + 1) * LABELS]
                there = labels.ravel() != UNLABELLED
                assert np.array_equal(batch.targets[place][there], labels.ravel()[there])
                assert np.array_equal(
                    batch.loss_weights[place], np.tile(WEIGHTS[: len(CLASSES)], GRID**2).astype(np.float32) * there
                )
                assert set(batch.segment_ids[place]) == {slot + 1}
                assert set(batch.task_ids[place]) == {("scenes", "documents").index(kind)}
                seen.append(kind)
    assert abs(seen.count("scenes") - 2 * seen.count("documents")) <= 3


def test_labels_stand_beside_packed_patches(tmp_path):
    """Where every picture has its own grid, each patch's labels stand at its place in merge order, and padding has none."""
    recipe = tiny_qwen2()
    known = {}
    encoder = stage_encoder(recipe.model, recipe.stages[0], "bytes")
    for stream, (folder, kind) in enumerate((("scenes", "native scenes"), ("small_print", "small print"))):
        records = [make_record(0, Source(folder, kind, False, 8, stream), i) for i in range(8)]
        write_shards(tmp_path / folder, iter(records))
        for record in records:
            sample = Sample((Image(0),), (record.images[0].data,))
            encoded = encoder.encode(sample)
            [grid] = encoded.grids
            raster = label_patches(record, grid.rows, grid.columns, relative=True).reshape(
                grid.rows, grid.columns, len(RELATIVE_CLASSES)
            )
            labels = rearrange(raster, "(y m) (x n) k -> (y x m n) k", m=2, n=2)
            [frames] = encoder.pixels(sample, encoded)
            known[patchify(frames, encoder.patch).tobytes()] = labels
    patches = 512
    length = patches * len(RELATIVE_CLASSES)
    stage = replace(recipe.stages[0], rows=1, patches_per_row=patches, sequence_length=length, steps=4)
    data = replace(recipe.data, root=str(tmp_path), tokenizer="bytes", window=16)
    shown = 0
    for batch, info in load(replace(recipe, stages=(stage,), data=data)):
        assert info.token_efficiency == info.vision_efficiency
        shown += info.samples
        targets = batch.targets.reshape(patches, len(RELATIVE_CLASSES))
        weights = batch.loss_weights.reshape(patches, len(RELATIVE_CLASSES))
        for segment in range(1, batch.patch_segments.max() + 1):
            here = batch.patch_segments[0] == segment
            labels = known[batch.patches[0, here].tobytes()]
            there = labels != UNLABELLED
            assert np.array_equal(targets[here][there], labels[there])
            assert np.array_equal(weights[here], np.float32(WEIGHTS) * there)
        assert not weights[batch.patch_segments[0] == 0].any()
    assert shown > 10


def test_a_stage_of_labels_can_be_inspected(run):
    """Its page shows pictures, as that of every stage."""
    shown = inspect_stage(run, run.stages[0])["samples"]
    assert {entry["component"].split(" ")[0] for entry in shown} == {"patches"}
    assert all(entry["pictures"] for entry in shown)


def test_restart_continues_exactly(run):
    """A loader opened at step 4 gives the batches that the first one gave from step 4 on."""
    for (batch, info), (other, other_info) in zip(load(run, start_step=4), load(run)[4:], strict=True):
        assert info == other_info
        assert all(np.array_equal(a, b) for a, b in zip(batch, other))


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"patch_classes": (2, 3)}, "patch_classes must be"),
        ({"sequence_length": 160}, f"sequence_length must be images_per_row x {LABELS}"),
        ({"mixture": (Component("caption", "scenes", 1),)}, "its task is 'patches', not 'caption'"),
    ],
)
def test_a_stage_that_does_not_fit_is_refused(run, fields, sentence):
    """The sentence says what the stage must have."""
    with pytest.raises(ValueError, match=sentence):
        open_loader(run, replace(run.stages[0], **fields))


def test_an_unreadable_picture_is_replaced_and_counted(tmp_path, run):
    """As in the rows of text: another record stands there, and the broken one is named."""
    source = Source("scenes", "scenes", False, 8, 0)
    records = [make_record(0, source, i) for i in range(8)]
    broken = replace(records[3], images=(replace(records[3].images[0], data=b"no picture"),))
    write_shards(tmp_path / "scenes", (*records[:3], broken, *records[4:]))
    stage = replace(run.stages[0], mixture=(Component("patches", "scenes", 1),))
    data = replace(run.data, root=str(tmp_path))
    infos = [info for _, info in load(replace(run, stages=(stage,), data=data))]
    assert sum(info.replaced for info in infos) > 0
    assert {problem.index for info in infos for problem in info.problems} == {3}
    assert all(info.vision_efficiency > 0.9 for info in infos)
