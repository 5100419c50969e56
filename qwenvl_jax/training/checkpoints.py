"""Checkpoints: parameters, optimizer state, data position and step are saved together, by Orbax, asynchronously.

Every process writes and reads its own part of the arrays, in a folder that all of them see.

One folder per stage below `<workdir>/checkpoints`, one sub-folder per step. The data position needs no state of its own:
the loader is a pure function of the step, and the fingerprint of the last batch is kept to prove it.
"""

import contextlib
import functools
import itertools
import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from qwenvl_jax.config_json import from_json
from qwenvl_jax.json_text import read_json
from qwenvl_jax.models.parameters import Parameters
from qwenvl_jax.parallel.mesh import place
from qwenvl_jax.parallel.processes import gather, tell, wait_for_all, writes
from qwenvl_jax.training.step import TrainState

CHUNK_BYTES = 64 << 20
POSITION = Path("position", "metadata")
"""The data position's file in a checkpoint."""
CHECKSUMS = "checksums"
"""The position's field for what `Checkpoints` itself checks."""


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self._keep = folder, keep
        self._manager = self._open()
        self._newest = self.latest()
        self._saving: int | None = None
        self._failed: tuple[int, str] | None = None

    def _open(self) -> ocp.CheckpointManager:
        # Folders are made at once: where they cannot be, Orbax's threads would wait 20 minutes for them, past the run's end.
        asynchronous = ocp.AsyncOptions(create_directories_asynchronously=False)
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, async_options=asynchronous)
        return ocp.CheckpointManager(self.folder.resolve(), options=options)

    def latest(self) -> int | None:
        """The newest whole checkpoint's step; half-written ones do not count (Orbax renames when it is done)."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Starts saving; the arrays are copied first, training goes on while they are written.

        A save that fails, now or in the background, is told on stderr and takes nothing away that was saved before; the
        next one may succeed. See `finish`.
        """
        self.wait()
        arrays = {name: ocp.args.StandardSave(tree, _chunks(tree)) for name, tree in _parts(state).items()}
        kept = ocp.args.JsonSave({**position, CHECKSUMS: _checksums(state, position)})
        try:
            if any(gather(self._failed is not None)):
                self._begin_anew()
            self._manager.save(step, args=ocp.args.Composite(**arrays, position=kept), force=True)
            self._saving = step
        except Exception as error:  # OSErrors come wrapped in all kinds
            self._tell(step, error)

    def poll(self) -> None:
        """Tells of a failed save as soon as it has ended; asked once a step."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Blocks until everything is on disk, or has failed to get there."""
        step, self._saving = self._saving, None
        if step is not None:
            try:
                self._manager.wait_until_finished()
                self._failed, self._newest = None, step
            except Exception as error:
                self._tell(step, error)

    def finish(self) -> None:
        """Waits for the last save.

        Raises:
          OSError: it could not be written.
        """
        self.wait()
        if self._failed:
            step, reason = self._failed
            raise OSError(
                f"checkpoint {step} in {self.folder} could not be written ({reason}); the newest is "
                f"{self._last_one()}. Make room there, or bring the disk back, and start the same command again"
            )

    def _tell(self, step: int, error: Exception) -> None:
        self._failed = step, _in_short(error)
        self._remove_partial()
        tell(
            f"checkpoint {step} in {self.folder} could not be written ({_in_short(error)}); training goes on and saves the "
            f"next one as usual; the newest is {self._last_one()}"
        )

    def _begin_anew(self) -> None:
        """Behind a failed save: Orbax keeps the errors of each part of it, and raises them in later ones."""
        with contextlib.suppress(Exception):
            self._manager.close()
        self._remove_partial()
        self._manager = self._open()

    def _remove_partial(self) -> None:
        """Takes away what a kill or a failed save has left half written: its room is needed."""
        for partial in self.folder.glob("*.orbax-checkpoint-tmp*") if writes() else ():
            shutil.rmtree(partial, ignore_errors=True)

    def _last_one(self) -> str:
        return "none" if self._newest is None else f"step {self._newest}"

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of a step, with the shardings and types of `like` (arrays or shapes), and its data position.

        Raises:
          ValueError: one of the processes cannot read its part, or the numbers are not those that were saved.
        """
        folder = (self.folder / str(step)).resolve()
        arrays, position, problem = {}, {}, None
        try:
            with _reader() as reader:
                arrays = {name: reader.restore(folder / name, tree) for name, tree in _parts(like).items()}
            position = read_json((folder / POSITION).read_text())
        except Exception as error:  # Orbax raises bare Exceptions too, for chunks that cannot be unpacked
            problem = error
        # Agreed on before anything is computed on the mesh, where one process would wait for the other for ever.
        if reason := next(filter(None, gather(problem and _in_short(problem))), None):
            raise ValueError(reason) from problem
        state = like._replace(step=place(np.int32(step), like.step.sharding), **arrays)
        saved = position.pop(CHECKSUMS, None)
        if _checksums(state, position) != saved:
            raise ValueError("its numbers are not those that were saved")
        return state, position

    def resume(self, like: TrainState) -> tuple[int, TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read: its step, state and data position; None where there is none.

        One that is damaged is renamed to STEP.broken and named, once an older one has been read: what stops every one from
        being read (another model, a lost disk) is no damage, and nothing is moved for it. Half-written ones are removed.

        Raises:
          ValueError: there are checkpoints, and none can be read.
        """
        self._remove_partial()
        reasons: dict[int, Exception] = {}
        listed = gather(sorted(self._manager.all_steps(), reverse=True))[0]  # a shared folder may be seen differently
        for step in listed:
            try:
                state, position = self.restore(step, like)
            except ValueError as error:
                reasons[step] = error
                continue
            for broken, reason in reasons.items() if writes() else ():
                aside = _set_aside(self.folder / str(broken))
                print(f"checkpoint {self.folder / str(broken)} is damaged ({reason}); it is now {aside}")
            wait_for_all(f"damaged checkpoints of {self.folder} are set aside")
            self._manager.reload()
            self._newest = step
            return step, state, position
        if reasons:
            newest, reason = next(iter(reasons.items()))
            raise ValueError(
                f"none of {len(reasons)} checkpoints in {self.folder} can be read; {newest}: {reason}. Put a "
                "sound copy there, or take the folder away to begin the stage anew"
            ) from reason
        return None

    def close(self) -> None:
        self.wait()
        with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():  # it is told already
            self._manager.close()


def _set_aside(folder: Path) -> Path:
    """The folder's new name: STEP.broken, or STEP.broken-2, ... where that is taken."""
    names = itertools.chain((f"{folder.name}.broken",), (f"{folder.name}.broken-{n}" for n in itertools.count(2)))
    aside = next(path for name in names if not (path := folder.with_name(name)).exists())
    folder.rename(aside)
    return aside


def _in_short(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:200]}"


def _checksums(state: TrainState, position: Mapping[str, Any]) -> dict[str, int]:
    """A number for each part of a state, and for its position: Orbax's chunks have no checksum of their own, and one turned
    bit in them is read as another number without a word. Computed where the arrays lie, at the price of reading them once.
    """
    arrays = {name: int(value) for name, value in jax.device_get(_sums(_parts(state))).items()}
    return {**arrays, "position": zlib.crc32(json.dumps(position, sort_keys=True).encode())}


@jax.jit
def _sums(parts: dict[str, Any]) -> dict[str, jax.Array]:
    return {name: functools.reduce(jax.numpy.add, map(_sum, jax.tree.leaves(tree))) for name, tree in parts.items()}


def _sum(array: jax.Array) -> jax.Array:
    """The words of an array, each times an odd number that tells its place, modulo 2 ** 32: no single change is lost, and
    the order of the sum is free."""
    unsigned = {2: jax.numpy.uint16, 4: jax.numpy.uint32}[array.dtype.itemsize]
    here = jax.device_put(array, jax.memory.Space.Device)  # moments may lie on the hosts
    words = jax.lax.bitcast_convert_type(here, unsigned).astype(jax.numpy.uint32)
    for axis in range(array.ndim):
        places = jax.lax.broadcasted_iota(jax.numpy.uint32, array.shape, axis)
        words = words * (2 * places + 2 * axis + 1)
    return words.sum(dtype=jax.numpy.uint32)


def _parts(state: TrainState) -> dict[str, Any]:
    """What is saved of a state, by folder; Orbax refuses empty trees, and a stage may freeze nothing."""
    parts = {"trained": state.trained, "frozen": state.frozen, "optimizer": state.optimizer}
    return {name: tree for name, tree in parts.items() if tree}


def _chunks(tree: Any) -> Any:
    """How arrays are cut on disk: by default Orbax writes a device's shard as one chunk, which only a whole read opens
    (5.8 GB of stacked layers in float32). Large arrays are cut along their first axis, the layers, then to CHUNK_BYTES."""

    def chunk(leaf: Any) -> ocp.SaveArgs:
        if leaf.ndim < 2 or leaf.nbytes <= CHUNK_BYTES:
            return ocp.SaveArgs()
        return ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if leaf.ndim > 2 else ())

    return jax.tree.map(chunk, tree)


def _reader() -> ocp.StandardCheckpointer:
    """Reads this process's part without waiting for others, so that what is wrong with one part stops nobody else."""
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


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


def locate(path: Path, stages: Sequence[str] | None = None) -> tuple[Path, str, int]:
    """A run's folder, or a checkpoint in it, as (workdir, stage, step); the newest where the path leaves it open.

    Args:
      path: WORKDIR, WORKDIR/checkpoints/STAGE or WORKDIR/checkpoints/STAGE/STEP.
      stages: the stages that may be chosen, in order; all of the run's by default.

    Raises:
      FileNotFoundError: there is no run or no checkpoint.
    """
    path = path.resolve()
    workdir = next((folder for folder in (path, *path.parents) if (folder / "config.json").is_file()), None)
    if workdir is None:
        raise FileNotFoundError(f"{path} is no run's folder nor a checkpoint in one: no config.json there or above")
    chosen = path.relative_to(workdir).parts[1:]
    run = from_json((workdir / "config.json").read_text())
    allowed = tuple(chosen[:1] or stages or (stage.name for stage in run.stages))
    stage, step = newest(workdir, allowed)
    return workdir, stage, int(chosen[1]) if len(chosen) > 1 else step


def load_parameters(
    workdir: Path, stage: str, step: int, shardings: Mapping[str, jax.sharding.Sharding] | None = None
) -> Parameters:
    """All parameters of a checkpoint, trained and frozen together, in the types they are stored in.

    Args:
      shardings: path -> where the array goes, every device reading its own part; the default device has all without them.
    """
    folder = (workdir / "checkpoints" / stage / str(step)).resolve()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    parameters: Parameters = {}
    with _reader() as checkpointer:
        for part in filter(Path.is_dir, (folder / "trained", folder / "frozen")):
            shapes = checkpointer.metadata(part).item_metadata
            like = {
                path: jax.ShapeDtypeStruct(meta.shape, meta.dtype, sharding=shardings[path] if shardings else device)
                for path, meta in dict(shapes.items()).items()
            }
            parameters |= checkpointer.restore(part, like)
    return parameters


def read_position(workdir: Path, stage: str, step: int) -> dict[str, Any]:
    """The data position saved with a checkpoint."""
    file = workdir / "checkpoints" / stage / str(step) / POSITION
    position: dict[str, Any] = read_json(file.read_text())
    del position[CHECKSUMS]
    return position
