"""The benchmark of loaders compares like with like: made data, and the same pixels and tokens on every way."""

import numpy as np
import pyarrow.parquet as parquet
import pytest

from data_pipelines.loader import open_loader
from data_pipelines.sources.opening import open_source
from launch.benchmarks.loader_contenders import (
    PARQUET,
    SHAPES,
    SHARDS,
    SIDE,
    TARS,
    Measured,
    shaped_run,
    transform_of,
)
from launch.benchmarks.loaders import made_pairs, photograph, throughput_table, write_data
from qwenvl_jax.batch import row_of
from qwenvl_jax.processing.images import decode_image
from qwenvl_jax.processing.patches import patchify
from qwenvl_jax.processing.resize import resize_bicubic


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_data(folder, list(made_pairs(records=32, pictures=4)))
    return folder


def test_pictures_are_as_large_as_photographs():
    """512-pixel photographs of quality 90 have about 68 KB; decoding one should cost as much."""
    picture = photograph(np.random.default_rng(0))
    assert 45_000 < len(picture) < 80_000
    assert decode_image(picture).shape == (SIDE, SIDE, 3)


def test_every_format_holds_the_same_pairs(data):
    """Each picture with its caption, once, in tars, in our shards and in Parquet."""
    pairs = sorted(made_pairs(records=32, pictures=4))
    for name in (TARS, SHARDS):
        source = open_source(data, name)
        records = (source[n] for n in range(len(source)))
        assert sorted((record.images[0].data, record.captions[0].answer) for record in records) == pairs
    table = parquet.read_table(data / PARQUET)
    assert sorted(zip(table["jpg"].to_pylist(), table["txt"].to_pylist())) == pairs


@pytest.mark.parametrize("name, shape", SHAPES.items())
@pytest.mark.parametrize("source", [SHARDS, TARS])
def test_all_have_the_same_pixels_and_tokens(data, name, shape, source):
    """What stands in our packed rows is what the bare loop and the others' transform make of the same records."""
    transform, records = transform_of(shape), open_source(data, source)
    with open_loader(*shaped_run(shape, data, source, 0)) as loader:
        batch, info = next(loader)
    rows = [row_of(batch, number) for number in range(shape.rows)]
    samples = [(row, segment) for row in rows for segment in range(1, row.segment_ids.max() + 1)]
    assert len(samples) == len(info.records) == info.samples
    for (row, segment), (_, number) in zip(samples[:12], info.records):
        record = records[number]
        jpeg = record.images[0].data
        theirs = transform(jpeg, record.captions[0].answer)
        np.testing.assert_array_equal(transform_of(shape, pil=True)(jpeg, "a caption")["pixels"], theirs["pixels"])
        here = row.segment_ids == segment
        assert (row.tokens[here] == theirs["tokens"][: here.sum()]).all()
        assert (theirs["tokens"][here.sum() :] == transform.encoder.tokenizer.eod_id).all()
        bare = resize_bicubic(decode_image(jpeg), shape.side, shape.side)
        if row.images is not None:
            np.testing.assert_array_equal(row.images[segment - 1], theirs["pixels"])
            np.testing.assert_array_equal(bare, theirs["pixels"])
        else:
            [place] = np.unique(row.patch_segments[row.patch_segments == segment])
            np.testing.assert_array_equal(row.patches[row.patch_segments == place], theirs["pixels"])
            np.testing.assert_array_equal(patchify(bare[None]), theirs["pixels"])


def test_the_table_compares_repeats():
    """Shares are of the same repeat, so that a machine that slows down between them changes none."""
    found = {
        "bare loop": [Measured(0, 200, 100), Measured(0, 100, 50)],
        "bare loop, PIL decodes and resizes": [Measured(0, 200, 120), Measured(0, 100, 60)],
        "ours, shards": [Measured(0, 180, 90), Measured(0, 90, 45)],
        "webdataset": [Measured(0, 120, 60), Measured(0, 60, 30)],
        "datasets": [Measured(0, 150, 90), Measured(0, 75, 45)],
        "datasets, PIL decodes and resizes": [Measured(0, 120, 60), Measured(0, 60, 30)],
    }
    lines = list(throughput_table("stage 1", found, workers=2))
    assert "| ours, shards | 90 | 68 | 0.90 | 68 | 0.90 |" in lines
    assert "| webdataset | 60 | 45 | 0.60 | 45 | 0.60 |" in lines
    assert "Ours over the bare loop, PIL decodes and resizes: 0.90 by the clock, 0.75 by CPU time." in lines[-3]
    assert "Ours over the best of the others: 1.20 by the clock, 1.00 by CPU time." in lines[-2]
    assert (
        "Ours over the best of the others, PIL decodes and resizes: 1.50 by the clock, 1.50 by CPU time." in lines[-1]
    )
