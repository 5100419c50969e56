"""Labels of patches are what the picture shows there."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.records import Record, Region, StoredImage, TextLine
from data_pipelines.synthetic.patches import (
    CLASSES,
    PLACES,
    RELATIVE_CLASSES,
    UNLABELLED,
    WEIGHTS,
    WHAT,
    label_patches,
)
from data_pipelines.synthetic.scenes import COLOURS
from data_pipelines.synthetic.world import Source, make_record

IMAGE = StoredImage(b"", 120, 120)


def test_an_object_by_hand() -> None:
    """The patches that a box covers carry its shape, colour and edges; a sliver of a patch does not count."""
    record = Record("r", images=(IMAGE,), regions=(Region("the blue ring", ((36.0, 0.0, 63.0, 40.0),)),))
    labels = label_patches(record, 6, 6, relative=False).reshape(6, 6, -1)
    # Columns 2 (24 of 40 .. 60) and the last 4 pixels of column 1, 3 pixels of column 3; rows 0 and 1.
    ring = [WHAT.index("ring"), list(COLOURS).index("blue"), 3, 0, 5, 3]
    shown = np.zeros((6, 6), bool)
    shown[:2, 2] = True
    np.testing.assert_array_equal(labels[..., 0] > 0, shown)
    assert (labels[shown] == ring).all()
    assert (labels[~shown] == [0] + [UNLABELLED] * 5).all()


@given(box=st.lists(st.floats(0, 120), min_size=4, max_size=4), rows=st.integers(2, 8), columns=st.integers(2, 8))
@settings(max_examples=60, deadline=None)
def test_edges_from_a_patch_and_from_the_corner_agree(box: list[float], rows: int, columns: int) -> None:
    """The distance of an edge, counted from the middle of the patch that tells it, leads to the edge within half a patch."""
    x1, y1, x2, y2 = min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])
    record = Record("r", images=(IMAGE,), regions=(Region("the red ring", ((x1, y1, x2, y2),)),))
    labels = label_patches(record, rows, columns, relative=True).reshape(rows, columns, -1)
    for row, column in np.argwhere(labels[..., 0] > 0):
        edges = np.array([x1, y1, x2, y2]) / 120 * [columns, rows, columns, rows]
        away = edges - (np.array([column, row] * 2) + 0.5)
        near = (away > -PLACES // 2) & (away < PLACES // 2 - 1)
        assert (np.abs(labels[row, column, len(CLASSES) :] - PLACES // 2 - away)[near] <= 0.5 + 1e-6).all()


def test_characters_stand_in_their_order() -> None:
    """A line's characters share its quad from left to right; they have no colour."""
    quad = ((0.0, 40.0), (120.0, 40.0), (120.0, 60.0), (0.0, 60.0))
    labels = label_patches(Record("d", images=(IMAGE,), lines=(TextLine("H7H", quad),)), 6, 6, relative=False)
    labels = labels.reshape(6, 6, -1)
    assert [WHAT[i] for i in labels[2, :, 0]] == ["H", "H", "7", "7", "H", "H"]
    assert (labels[2, :, 1] == UNLABELLED).all()
    assert (labels[[0, 1, 3, 4, 5], :, 0] == 0).all()


def test_labels_of_the_world_are_in_range_and_all_used() -> None:
    """Every record of the world gets labels below the number of classes; all colours and most characters occur."""
    assert len(WEIGHTS) == len(RELATIVE_CLASSES)
    kinds = (Source("scenes", "scenes", False, 1, 0), Source("documents", "documents", False, 1, 1))
    records = [make_record(0, kind, i) for kind in kinds for i in range(60)]
    labels = np.concatenate([label_patches(r, 6, 6, relative=True) for r in records])
    assert labels.min() == UNLABELLED
    assert (labels.max(0) < RELATIVE_CLASSES).all()
    assert set(range(RELATIVE_CLASSES[1])) <= set(labels[:, 1].tolist())
    assert len(set(labels[:, 0].tolist())) > 30
