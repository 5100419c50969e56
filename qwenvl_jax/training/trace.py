"""A trace of chosen steps, to look at in XProf or Perfetto: what host and devices did, and when."""

from pathlib import Path
from typing import Any

import jax

from qwenvl_jax.config import Run
from qwenvl_jax.parallel.processes import tell


class Trace:
    """Traces the steps `Run.profile` of a stage into `WORKDIR/profile/STAGE/`.

    `plugins/profile/TIME/*.xplane.pb` there is what XProf reads (`tensorboard --logdir WORKDIR/profile`), and
    `*.trace.json.gz` what https://ui.perfetto.dev opens. Every process writes files of its own. A trace that fails is said
    and costs no step.
    """

    def __init__(self, run: Run, workdir: Path, stage: str, start: int) -> None:
        """`start`: steps that the stage has behind it.

        Raises:
          ValueError: `Run.profile` does not hold the first and the last step, in this order.
        """
        self._folder, self._running = workdir / "profile" / stage, False
        self._first, self._last = 0, 0
        if run.profile:
            if len(run.profile) != 2 or not 1 <= run.profile[0] <= run.profile[1]:
                asked = " ".join(map(str, run.profile))
                raise ValueError(
                    f"--profile {asked}: give the first and the last step of a stage, such as --profile 20 24"
                )
            self._first, self._last = run.profile
            if start >= self._first:
                tell(
                    f"stage {stage} goes on behind step {start}: there will be no trace of steps from {self._first} on"
                )

    def begin(self, step: int, before: Any) -> None:
        """Called before a step is given to the devices. `before`: arrays that the last one makes; its end is waited for."""
        if step == self._first:
            jax.block_until_ready(before)
            try:
                jax.profiler.start_trace(str(self._folder))
                self._running = True
            except (RuntimeError, OSError) as error:
                tell(f"there is no trace of steps {self._first} to {self._last}: {error}")

    def end(self, step: int, metrics: Any) -> None:
        """Called when the devices have a step. `metrics`: arrays that it makes; those of the last one are waited for."""
        if self._running and step == self._last:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes what there is of a running trace."""
        if self._running:
            self._running = False
            try:
                jax.profiler.stop_trace()
                print(f"trace of steps {self._first} to {self._last}: {self._folder}")
            except (RuntimeError, OSError) as error:
                tell(f"the trace could not be written to {self._folder}: {error}")
