"""FLOPs that a traced program executes, by part: matmuls of the jaxpr, scanned bodies as often as they run.

`qwenvl_jax.training.flops` has the FLOPs that the model needs; what is recomputed makes the difference.
"""

import math
from collections import defaultdict
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from qwenvl_jax.planning.kernels import kernel_flops
from qwenvl_jax.planning.parts import part_of


def traced_flops(jaxpr: Jaxpr, data_trips: int = 1) -> dict[str, float]:
    """part -> FLOPs of the whole mesh; a loop whose bound is data runs `data_trips` times, and kernels so many pairs."""
    counted: dict[str, float] = defaultdict(float)
    _count(jaxpr, 1.0, "", counted, data_trips)
    return counted


def _count(jaxpr: Jaxpr, times: float, scope: str, counted: dict[str, float], data_trips: int) -> None:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        here = f"{scope}/{equation.source_info.name_stack}"
        shapes = [getattr(variable.aval, "shape", ()) for variable in equation.invars]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            size = math.prod(getattr(equation.outvars[0].aval, "shape", ()))
            counted[part_of(here)] += times * 2.0 * size * math.prod(shapes[0][axis] for axis in contracted)
        elif name == "pallas_call":
            kernel = str(equation.params.get("name") or equation.params.get("name_and_src_info"))
            counted[part_of(here)] += times * kernel_flops(kernel, here, shapes, data_trips)
        else:
            inner = times
            if name == "scan":
                inner *= equation.params["length"]
            elif name == "while":  # loops with a bound that is known are scans
                inner *= data_trips
            elif name == "shard_map":
                inner *= math.prod(equation.params["mesh"].shape.values())
            for body in _bodies(equation.params):
                _count(body, inner, here, counted, data_trips)


def _bodies(params: Any) -> list[Jaxpr]:
    """The jaxprs among an equation's parameters."""
    leaves = jax.tree.leaves(list(params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr))
    open_ones = [leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf for leaf in leaves]
    return [leaf for leaf in open_ones if isinstance(leaf, Jaxpr)]
