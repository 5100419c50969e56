"""The command `qwenvl`: one verb per file of this folder."""

import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from absl import logging

VERBS = {
    # verb -> (module, function, what it does)
    "train": ("launch.train", "train", "train a recipe's stages"),
    "convert": ("launch.convert", "main", "Hugging Face folder to checkpoint, or back"),
    "plan": ("launch.plan", "plan", "what a recipe costs on a topology, before renting it"),
    "evaluate": ("launch.evaluate", "main", "scores of a checkpoint on held-out data"),
    "chat": ("launch.chat", "chat", "ask a checkpoint about pictures"),
    "data": ("launch.data", "data", "make, index, clean and inspect data"),
}

WITH_LESS_MEMORY = (
    "take fewer --STAGE.rows with more --STAGE.accumulation, another --precision.remat, or more devices for --mesh.fsdp; "
    "qwenvl plan RECIPE tells what it needs"
)

USAGE = "usage: qwenvl VERB ... (qwenvl VERB --help tells more)\n" + "\n".join(
    f"  {verb:9} {text}" for verb, (_, _, text) in VERBS.items()
)


def main() -> None:
    """Runs a verb. A user's mistake ends with one sentence and exit code 2; Ctrl-C with 130, SIGTERM with 143."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in VERBS:
        print(USAGE, file=sys.stderr)
        sys.exit(0 if arguments in (["-h"], ["--help"]) else 2)
    # Orbax warns that a part of a checkpoint, read by itself, has no metadata of its own; it needs none.
    logging.set_verbosity(logging.ERROR)
    module, function, _ = VERBS[arguments[0]]
    verb: Callable[[list[str]], None] = getattr(import_module(module), function)
    if find_spec("jax") is None:  # the environment of Beam, where there is only cleaning
        alone(f"qwenvl {arguments[0]}", verb, arguments[1:])
        return
    from qwenvl_jax.parallel.processes import (  # not for the usage above: it brings JAX
        RESTART,
        is_lost,
        is_out_of_memory,
        leave,
        tell_as,
    )

    command = f"qwenvl {arguments[0]}"
    try:
        verb(arguments[1:])
    except Exception as error:
        if is_lost(error):
            tell_as(command, f"another process was lost ({error}); the same command goes on from the last checkpoint")
            leave(RESTART)
        if is_out_of_memory(error):
            reason = str(error).splitlines()[0]
            remedy = WITH_LESS_MEMORY if arguments[0] == "train" else "ask for less at once, or take a larger device"
            tell_as(command, f"there is too little memory on a device ({reason}): {remedy}")
            leave(2)
        if isinstance(error, ValueError | OSError):
            tell_as(command, str(error))
            leave(2)
        traceback.print_exc()
        leave(1)
    except KeyboardInterrupt as stopped:
        goes_on = "; the same command goes on from the last checkpoint" if arguments[0] == "train" else ""
        print(f"\nstopped{goes_on}", file=sys.stderr)
        # As shells tell a signal: 130, or 143 after SIGTERM, which those who restart jobs take for a lost machine.
        if number := getattr(stopped, "number", 0):
            sys.exit(128 + number)  # all processes have stopped here
        leave(128 + signal.SIGINT)


def alone(command: str, verb: Callable[[list[str]], None], arguments: list[str]) -> None:
    """A verb without devices and without other processes; a user's mistake ends in the same way."""
    try:
        verb(arguments)
    except (ValueError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
