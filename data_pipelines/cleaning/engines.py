"""What runs a cleaning's steps: processes of this machine, or Apache Beam on any of its runners.

Beam is not among the project's requirements (it needs protobuf < 7 and pyarrow < 26): it has an environment of its
own, made from `data_pipelines/cleaning/requirements.txt`. Workers read tars and write results by path, so on several
machines source and destination must lie where all of them reach them by the same path.
"""

from collections.abc import Callable, Sequence
from multiprocessing import get_context

from data_pipelines.cleaning.job import Engine, run_here


def processes(workers: int) -> Engine:
    """Steps in `workers` processes of this machine; 1 is the plain loop."""

    def run(what: str, function: Callable[[int], None], numbers: Sequence[int]) -> None:
        # Spawned, as the caller may hold threads, which a fork would copy in any state.
        with get_context("spawn").Pool(min(workers, len(numbers))) as pool:
            for _ in pool.imap_unordered(function, numbers):
                pass

    return run if workers > 1 else run_here


LOCAL_RUNNER = "FnApiRunner"
"""Beam's own default tries Prism first, which downloads a program."""


def beam(arguments: Sequence[str]) -> Engine:
    """Steps as Beam pipelines. `arguments` are Beam's own: `--runner DataflowRunner --project ...`.

    Raises:
      ValueError: Beam is not installed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ValueError(
            "Apache Beam is not installed here; it needs an environment of its own: "
            "python -m venv .venv-clean && .venv-clean/bin/pip install -r data_pipelines/cleaning/requirements.txt "
            "&& .venv-clean/bin/pip install --no-deps -e ."
        ) from error
    given = [*arguments]
    if not any(argument.startswith("--runner") for argument in given):
        given.append(f"--runner={LOCAL_RUNNER}")

    def run(what: str, function: Callable[[int], None], numbers: Sequence[int]) -> None:
        with apache_beam.Pipeline(options=PipelineOptions(given)) as pipeline:
            _ = (
                pipeline
                | "numbers" >> apache_beam.Create(list(numbers))
                | "spread" >> apache_beam.Reshuffle()
                | what >> apache_beam.Map(function)
            )

    return run
