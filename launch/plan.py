"""`qwenvl plan RECIPE`: compiles the step that `train` would run for devices that are not there, and says what it costs."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class PlanOptions:
    """Plans a recipe's stages. Every field of the recipe can be overridden, as for `train`: `--mesh.tensor 4`."""

    recipe: tyro.conf.Positional[str]
    """A recipe's name, as for `train`."""
    topology: str
    """`v5p:4x4x4`, `v5e:16x16`, `2*v5p:4x4x4` for two slices, or `local` for the devices of this machine."""
    stage: str = "all"
    """One stage by its name, or `all`."""
    json: Path | None = None
    """Writes every figure to this file too."""
    fit: bool = False
    """Searches mesh, rows per device and rematerialisation for the fastest that fits, by compiling them."""


def plan(arguments: list[str]) -> None:
    """The command; errors of the user are ValueError with one sentence."""
    options, rest = tyro.cli(PlanOptions, args=arguments, prog="qwenvl plan", return_unknown_args=True)
    if options.topology != "local":
        without_a_tpu()
    # JAX reads its environment when it is imported, so nothing that imports it stands at the top of this file.
    from configs.recipes import recipe
    from launch.train import choose_stages, override
    from qwenvl_jax.planning.devices import describe
    from qwenvl_jax.planning.fit import fastest
    from qwenvl_jax.planning.plan import make_plan
    from qwenvl_jax.planning.report import to_json, to_text

    run = override(recipe(options.recipe), rest)
    topology, plans = describe(options.topology), []
    for stage in choose_stages(run, options.stage):
        made = fastest(run, stage, topology, print) if options.fit else make_plan(run, stage, topology)
        print(to_text(made), end="\n\n", flush=True)
        plans.append(to_json(made))
    if options.json is not None:
        options.json.write_text(json.dumps(plans, indent=1))
        print(f"written: {options.json}")


def without_a_tpu() -> None:
    """Lets libtpu compile without looking for a TPU, and beside other processes that do the same."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")  # or it complains that it knows of none
    apart = Path(sys.prefix) / "plan" / "libtpu" / "libtpu.so"
    if apart.is_file():
        os.environ.setdefault("TPU_LIBRARY_PATH", str(apart))
