"""The rooms of the package: which may import which. A circle, or an arrow that the table does not have, fails."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import htpo_trl


PACKAGE = Path(htpo_trl.__file__).parent
FOR_ALL = {"utils", "palette", "objects", "output"}
# What a room may import of the package, imports within functions and for type checkers included.
MAY_IMPORT = {
    "objective": set(),
    "advantages": set(),
    "config": {"advantages", "objective"},
    "training": {"advantages", "objective"},
    "trainer": {"config", "objective", "training"},
    "verifier": set(),
    "rewards": {"verifier"},
    "data": {"verifier"},
    "evaluation": {"data", "verifier"},
    "tokens": {"objective"},
    "report": {"evaluation", "objective", "verifier"},
    "scripts": {
        "advantages",
        *("config", "data", "evaluation", "objective", "report", "rewards", "tokens", "trainer", "training"),
        "verifier",
    },
    "compare": {"config", "data", "evaluation", "objective", "report", "scripts", "training"},
    "check": {
        *("config", "data", "evaluation", "objective", "report", "rewards", "tokens", "trainer", "training"),
        "verifier",
    },
    "demo": {
        "check",
        "config",
        "data",
        "evaluation",
        "objective",
        "report",
        "rewards",
        "scripts",
        "tokens",
        "trainer",
        "training",
    },
    "cli": {
        *(
            "advantages",
            "check",
            "compare",
            "config",
            "data",
            "demo",
            "evaluation",
            "objective",
            "report",
            "scripts",
            "tokens",
            "training",
            "verifier",
        ),
    },
    "__main__": {"cli"},
    "__init__": {"config", "trainer"},
    "utils": set(),
    "output": set(),
    "objects": set(),
    "palette": set(),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    package = module_name(path).split(".") if path.stem == "__init__" else module_name(path).split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            # `from .x import y`: y may be a module.
            found |= {name if is_module(name := f"{module}.{alias.name}") else module for alias in node.names}
    return {name for name in found if name.split(".")[0] == "htpo_trl"}


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def room(module: str) -> str:
    return [*module.split("."), "__init__"][1]


FILES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_what_it_may(path):
    here = room(module_name(path)) if path.parent != PACKAGE else path.stem
    others = {room(module) for module in imports(path)} - {here, *FOR_ALL}
    # `from .. import __version__` is of the package itself, which imports nothing eagerly.
    assert others - {"__init__"} <= MAY_IMPORT[here]


def test_there_is_no_circle():
    TopologicalSorter({name: allowed - FOR_ALL for name, allowed in MAY_IMPORT.items()}).prepare()
    graph = {module_name(path): imports(path) - {module_name(path)} for path in FILES if path.suffix == ".py"}
    TopologicalSorter(graph).prepare()  # raises CycleError
    # Negative control: it sees arrows, and one that points back closes a circle.
    assert "htpo_trl.objective.transform" in graph["htpo_trl.trainer"]
    with pytest.raises(ValueError, match="cycle"):
        TopologicalSorter(graph | {"htpo_trl.objective.transform": {"htpo_trl.trainer"}}).prepare()


def test_no_room_is_missing_in_the_table():
    assert {room(module_name(path)) if path.parent != PACKAGE else path.stem for path in FILES} == set(MAY_IMPORT)


def test_files_are_short():
    lines = {path.relative_to(PACKAGE).as_posix(): path.read_text().count("\n") for path in FILES}
    assert {name: n for name, n in lines.items() if n > 320} == {}


@pytest.mark.parametrize("module", ["htpo_trl.report", "htpo_trl.cli", "htpo_trl.objective.table", "htpo_trl.utils"])
def test_no_torch_where_there_are_only_names(module):
    code = f"import {module}, sys; print(*(m for m in ('torch', 'trl', 'transformers') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_the_readme_prints_the_tree():
    tree = (PACKAGE.parent / "README.md").read_text().split("htpo_trl/\n")[1].split("```")[0]
    named = set(re.findall(r"([a-z_]+(?:\.py|/))", tree))
    rooms = {path.name + "/" for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert named == rooms | {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("_")}
