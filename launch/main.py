"""The command `qwenvl`: one verb per file of this folder."""

import signal
import sys
from collections.abc import Callable
from importlib import import_module

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
    try:
        verb(arguments[1:])
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"qwenvl {arguments[0]}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stopped:
        goes_on = "; the same command goes on from the last checkpoint" if arguments[0] == "train" else ""
        print(f"\nstopped{goes_on}", file=sys.stderr)
        # As shells tell a signal: 130, or 143 after SIGTERM, which those who restart jobs take for a lost machine.
        sys.exit(128 + getattr(stopped, "number", signal.SIGINT))


if __name__ == "__main__":
    main()
