"""A run goes on with other devices than it was saved on, and on another shape of the mesh."""

import jax
import pytest
from process_worker import STEPS, train
from test_processes import same

from qwenvl_jax.training import loop

MESHES = ((1, 8, 1), (1, 2, 1, 2), (1, 2, 1), (2, 2, 2), (1, 1, 1))
"""data, fsdp, tensor, context; the run is stopped on each of them but the last."""


def test_other_devices_go_on_with_the_same_batches(tmp_path, monkeypatch) -> None:
    """Saved on 8 devices, resumed on 4 of which two have a row, on 2, on 2 x 2 x 2 and on 1: fingerprints, counts and
    skipped updates are those of a run never stopped, losses are but for rounding."""
    monkeypatch.setattr(loop, "peak_flops", lambda: 1e12)
    assert len(jax.devices()) == 8
    train(tmp_path / "whole", MESHES[-1])
    for number, mesh in enumerate(MESHES[:-1]):
        with pytest.raises(loop.Stopped):
            train(tmp_path / "moved", mesh, until=2 * number)
    train(tmp_path / "moved", MESHES[-1])
    assert 2 * len(MESHES) - 1 == STEPS
    same(tmp_path / "moved", tmp_path / "whole")
