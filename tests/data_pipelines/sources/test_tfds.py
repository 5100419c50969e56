"""Datasets prepared by TFDS: read without TensorFlow."""

import io
import pickle
import sys

import pytest
from small_data import make_picture

from data_pipelines.sources.opening import open_source


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared dataset `small/1.0.0` with the splits `train` (3 examples) and `test` (1)."""
    import tensorflow_datasets as tfds

    class Small(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            box = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.Text()}
            features = {
                "image": tfds.features.Image(encoding_format="png"), "caption": tfds.features.Text(),
                "objects": tfds.features.Sequence(box),
            }  # fmt: skip
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(3), "test": self._generate_examples(1)}

        def _generate_examples(self, count):
            for n in range(count):
                box = {"bbox": tfds.features.BBox(0.25, 0.1, 0.5, 0.6), "label": "the dog"}
                example = {"image": io.BytesIO(make_picture(n).data), "caption": f"dog {n}", "objects": [box]}
                yield n, example

    folder = tmp_path_factory.mktemp("tfds")
    builder = Small(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return folder / "small" / "1.0.0"


def test_examples_become_records(prepared):
    """Stored bytes, caption and boxes in pixels, in a split that is named behind the folder; no TensorFlow."""
    source = open_source(prepared.parent, "1.0.0/train")
    assert len(source) == 3
    for record in (source[0], pickle.loads(pickle.dumps(source))[0]):
        number = int(record.captions[0].answer.removeprefix("dog "))
        assert record.images == (make_picture(number),)
        assert record.regions[0].phrase == "the dog"
        assert record.regions[0].boxes[0] == pytest.approx((2.0, 4.0, 12.0, 8.0))
    assert "tensorflow" not in sys.modules


def test_split_must_be_named(prepared):
    """Where there are several; and an unknown one is a sentence."""
    with pytest.raises(ValueError, match="has the splits test, train: name one"):
        open_source(prepared.parent, "1.0.0")
    with pytest.raises(ValueError, match="has no split validation; there are test, train"):
        open_source(prepared.parent, "1.0.0/validation")
