"""The loader: batch t is a function of (data, seed, t), whatever process, worker or restart makes it."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from small_data import make_run

from data_pipelines import mapped_arrays
from data_pipelines.loader import describe, open_loader
from qwenvl_jax.batch import OwnRows, joined_fingerprint


def load(run, **arguments):
    with open_loader(run, run.stages[0], **arguments) as loader:
        return list(loader)


def same(batches, others):
    return len(batches) == len(others) and all(
        info == other_info and all(np.array_equal(a, b) for a, b in zip(batch, other))
        for (batch, info), (other, other_info) in zip(batches, others)
    )


def with_workers(run, workers):
    return replace(run, data=replace(run.data, workers=workers))


def test_batches_have_the_promised_shapes(data_root):
    """Static shapes and types of every batch; as many batches as the stage has steps."""
    batches = load(make_run(str(data_root)))
    assert len(batches) == 6
    for batch, info in batches:
        text = batch._replace(images=None)
        assert {field.shape for field in text if field is not None} == {(4, 160)}
        assert (batch.images.shape, batch.images.dtype) == ((4, 3, 8, 8, 3), np.uint8)
        assert batch.loss_weights.dtype == np.float32
        assert info.tokens == (batch.segment_ids > 0).sum()
        assert info.token_efficiency == info.tokens / (4 * 160)
        assert info.samples == batch.segment_ids.max(1).sum()


@pytest.mark.parametrize("step", [1, 4, 6])
def test_restart_continues_exactly(data_root, step):
    """A loader opened at step t gives the batches that the first one gave from t on, knowing where the batch before lay
    or not, in any number of processes."""
    run = make_run(str(data_root))
    whole = load(run)
    windows = whole[step - 1][1].windows
    assert same(load(run, start_step=step), whole[step:])
    assert same(load(run, start_step=step, windows=windows), whole[step:])
    second = {"own": OwnRows((2, 3), (2, 3))}
    assert same(load(run, start_step=step, windows=windows, **second), load(run, **second)[step:])


def test_workers_change_nothing(data_root):
    """0, 1 and 2 worker processes give the same batches, also after a restart."""
    run = make_run(str(data_root))
    expected = load(run)
    assert same(load(with_workers(run, 1)), expected)
    assert same(load(with_workers(run, 2), start_step=2), expected[2:])


def test_mapped_samples_change_nothing(data_root, monkeypatch):
    """Arrays of samples that worker processes map from files give the batches of those that are sent."""
    run = make_run(str(data_root))
    expected = load(run)
    monkeypatch.setattr(mapped_arrays, "MAPPED_FROM", 1)
    assert same(load(with_workers(run, 1)), expected)
    assert list(data_root.rglob("samples-*-records.npy"))


def test_processes_share_the_rows(data_root):
    """Each makes its rows of the batch of one, wherever they lie; a row that two of them make is counted once, and the
    fingerprints add up to that of the whole."""
    run = make_run(str(data_root))
    whole = load(run)
    for shares in (((0, 1), (2, 3)), ((0,), (1,), (2,), (3,)), ((0, 3), (1, 2)), ((0, 1), (0, 1, 2, 3))):
        seen = [set().union(*shares[:p]) for p in range(len(shares))]
        parts = [load(run, own=OwnRows(own, tuple(set(own) - before))) for own, before in zip(shares, seen)]
        for step, (batch, info) in enumerate(whole):
            for own, part in zip(shares, parts):
                expected = [None if array is None else array[list(own)] for array in batch]
                assert jax.tree.all(jax.tree.map(np.array_equal, list(part[step][0]), expected))
            infos = [part[step][1] for part in parts]
            assert joined_fingerprint(other.fingerprint for other in infos) == info.fingerprint
            assert sum(other.samples for other in infos) == info.samples


def test_step_and_identity_are_the_state(data_root):
    """`step` counts batches given out, not those read ahead; the identity follows the order."""
    run = make_run(str(data_root))
    with open_loader(run, run.stages[0]) as loader:
        next(loader)
        next(loader)
        assert loader.step == 2
        first = loader.identity
    identities = [first]
    for changed in (
        replace(run, data=replace(run.data, seed=1)),
        replace(run, data=replace(run.data, window=16)),
        make_run(str(data_root), sequence_length=170),
        make_run(str(data_root), pack_within_task=False),
    ):
        with open_loader(changed, changed.stages[0]) as loader:
            identities.append(loader.identity)
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])


def test_seed_changes_the_order(data_root):
    """Another seed, other batches."""
    run = make_run(str(data_root))
    other = replace(run, data=replace(run.data, seed=1))
    assert load(run)[0][1].fingerprint != load(other)[0][1].fingerprint


def test_text_alone_needs_no_image_slot(data_root):
    """A stage with images_per_row = 0 has batches without pixels."""
    run = make_run(str(data_root))
    run = make_run(str(data_root), mixture=run.stages[0].mixture[2:], images_per_row=0)
    batch, info = load(run)[0]
    assert batch.images.shape == (4, 0, 8, 8, 3)
    assert (info.vision_efficiency, info.samples > 0) == (0, True)


def test_description_tells_what_will_be_read(data_root):
    """Records, usable samples, share, mean lengths, what is left out, and the plan's efficiency."""
    run = make_run(str(data_root))
    with open_loader(run, run.stages[0]) as loader:
        description = describe(loader)
        caption, vqa, text = description.components
        assert (caption.records, caption.samples, caption.share) == (40, 40, 0.5)
        assert (vqa.samples, vqa.left_out) == (26, {"the task does not apply": 14})
        assert (caption.vision, text.vision) == (1, 0)
        assert caption.tokens == loader.components[0].tokens.mean()
        assert 0.5 < description.efficiency.tokens <= 1
        assert description.samples_per_row > 1
