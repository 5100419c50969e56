"""Checkpoints: parameters, optimizer state, data position and step are saved together, by Orbax, asynchronously.

One folder per stage below `<workdir>/checkpoints`, one sub-folder per step. The data position needs no state of its own:
the loader is a pure function of the step, and the fingerprint of the last batch is kept to prove it.
"""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from qwenvl_jax.models.parameters import Parameters
from qwenvl_jax.training.step import TrainState


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, folder: Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)
        self.folder = folder

    def latest(self) -> int | None:
        """The newest whole checkpoint's step; half-written ones do not count (Orbax renames when it is done)."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Starts saving; the arrays are copied first, training goes on while they are written."""
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in _parts(state).items()}
        self._manager.save(step, args=ocp.args.Composite(**arrays, position=ocp.args.JsonSave(position)), force=True)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of a step, with the shardings and types of `like` (arrays or shapes), and its data position."""
        arrays = {name: ocp.args.StandardRestore(tree) for name, tree in _parts(like).items()}
        found = self._manager.restore(step, args=ocp.args.Composite(**arrays, position=ocp.args.JsonRestore()))
        placed = jax.device_put(jax.numpy.int32(step), like.step.sharding)
        return like._replace(step=placed, **{name: found[name] for name in arrays}), found["position"]

    def wait(self) -> None:
        """Blocks until everything is on disk; errors of the writer are raised here."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()


def _parts(state: TrainState) -> dict[str, Any]:
    """What is saved of a state, by folder; Orbax refuses empty trees, and a stage may freeze nothing."""
    parts = {"trained": state.trained, "frozen": state.frozen, "optimizer": state.optimizer}
    return {name: tree for name, tree in parts.items() if tree}


def newest(workdir: Path, stages: tuple[str, ...]) -> tuple[str, int]:
    """The last stage of a run that has a whole checkpoint, and its newest step.

    Raises:
      FileNotFoundError: the folder holds none.
    """
    for stage in reversed(stages):
        folder = workdir / "checkpoints" / stage
        if folder.is_dir():
            with closing(Checkpoints(folder, keep=1_000_000)) as checkpoints:
                step = checkpoints.latest()
            if step is not None:
                return stage, step
    raise FileNotFoundError(f"{workdir} holds no checkpoint of {', '.join(stages)}; train first: qwenvl train RECIPE")


def load_parameters(workdir: Path, stage: str, step: int) -> Parameters:
    """All parameters of a checkpoint, on the default device, trained and frozen together."""
    folder = (workdir / "checkpoints" / stage / str(step)).resolve()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    parameters: Parameters = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for part in filter(Path.is_dir, (folder / "trained", folder / "frozen")):
            shapes = checkpointer.metadata(part).item_metadata
            like = {
                path: jax.ShapeDtypeStruct(meta.shape, meta.dtype, sharding=device)
                for path, meta in dict(shapes.items()).items()
            }
            parameters |= checkpointer.restore(part, like)
    return parameters


def read_position(workdir: Path, stage: str, step: int) -> dict[str, Any]:
    """The data position saved with a checkpoint."""
    file = workdir / "checkpoints" / stage / str(step) / "position" / "metadata"
    position: dict[str, Any] = json.loads(file.read_text())
    return position
