"""The house of the README: imports run downwards only."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("launch", "configs", "qwenvl_jax", "data_pipelines")


def floor(module: str) -> str:
    """ "qwenvl_jax.models.layers" -> "models"; folders of the top level are floors themselves."""
    package, *inside = module.split(".")
    return inside[0] if package == "qwenvl_jax" and inside else package


def floors() -> list[str]:
    """From the top, as the README's drawing has them; data_pipelines stands on what it feeds."""
    drawing = (ROOT / "README.md").read_text().split("## How it is laid out")[1].split("```")[1]
    named = [line.split()[0].rstrip("/").removesuffix(".py") for line in drawing.splitlines() if line]
    order = [name for name in named if name not in ("qwenvl_jax", "data_pipelines", "tests")]
    order.insert(order.index("parallel"), "data_pipelines")
    return order


def imports(file: Path) -> set[str]:
    """Modules of this project that a file imports, at its top or anywhere else."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively, which hides the floor"
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] in OURS}


def test_imports_run_downwards():
    """No module imports from a floor above its own, so that each can be read and tested without those above."""
    order = floors()
    assert len(order) == 16, order
    upwards, seen = [], set()
    for package in OURS:
        for file in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            if file == ROOT / "qwenvl_jax" / "__init__.py":
                continue  # the public names, taken from everywhere
            seen.add(floor(module))
            upwards += [
                f"{module} imports {name}"
                for name in imports(file)
                if order.index(floor(name)) < order.index(floor(module))
            ]
    assert not upwards
    assert seen == set(order)
