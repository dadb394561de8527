"""
The flags of a command, read from the source of its dataclasses without importing it: TRL and torch take seconds.

A test compares them with what TRL's parser makes of the same classes.
"""

import ast
import textwrap
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Flag(NamedTuple):
    """A field of a configuration class."""

    type: str  #: as written in the source
    default: str
    help: str
    owner: str  #: name of the class that says what this field is


def flags_of(module: str, *classes: str) -> dict[str, Flag]:
    """Name → flag of dataclasses that `module` defines or imports, base classes' first, as `dataclasses.fields`."""
    return {name: flag for cls in classes for name, flag in _fields(module, cls).items()}


def _fields(module: str, name: str) -> dict[str, Flag]:
    module, definition = _find(module, name)
    fields: dict[str, Flag] = {}
    for base in reversed(definition.bases):
        if isinstance(base, ast.Name):
            fields |= _fields(module, base.id)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            fields[node.target.id] = _flag(node.annotation, node.value, name)
    return fields


def _flag(annotation: ast.expr, value: ast.expr, owner: str) -> Flag:
    default, text = ast.unparse(value), ""
    if isinstance(value, ast.Call):
        keywords = {keyword.arg: keyword.value for keyword in value.keywords}
        factory = keywords.get("default_factory")
        # `list` makes [], `lambda: [...]` what stands behind the colon.
        default = f"{ast.unparse(factory)}()".removesuffix("list()") or "[]" if factory else "None"
        default = ast.unparse(factory.body) if isinstance(factory, ast.Lambda) else default
        default = ast.unparse(keywords["default"]) if "default" in keywords else default
        for key, item in zip(*_items(keywords.get("metadata")), strict=True):
            if isinstance(key, ast.Constant) and key.value == "help":
                text = " ".join(str(part.value) for part in ast.walk(item) if isinstance(part, ast.Constant))
    return Flag(ast.unparse(annotation), default, " ".join(text.split()), owner)


def _items(node: ast.expr | None) -> tuple[list, list]:
    return (node.keys, node.values) if isinstance(node, ast.Dict) else ([], [])


def _find(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """The class, and the module that defines it: followed through imports, those for type checkers included."""
    tree, is_package = _parse(module)
    imported: str | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and any(name == (a.asname or a.name) for a in node.names):
            levels = node.level - is_package
            parents = module.split(".")[: -levels or None] if node.level else []
            imported = ".".join([*parents, node.module or ""]).strip(".")
    if imported is None:
        raise LookupError(f"{module} neither defines nor imports the class {name}.")
    return _find(imported, name)


@cache
def _parse(module: str) -> tuple[ast.Module, bool]:
    top, *rest = module.split(".")
    spec = find_spec(top)  # of a top-level package: imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"There is no package {top!r}.")
    path = Path(spec.submodule_search_locations[0], *rest)
    is_package = path.is_dir()
    return ast.parse((path / "__init__.py" if is_package else path.with_suffix(".py")).read_text()), is_package


def is_true_by_default(flag: Flag) -> bool:
    """Whether there is a `--no_` form too."""
    return flag.default == "True" and "bool" in flag.type


def describe(flags: dict[str, Flag], titles: dict[str, str]) -> str:
    """The flags for `--help`, under a title per class."""
    lines = []
    for owner, title in titles.items():
        lines.append(f"\n{title}:")
        for name, flag in flags.items():
            if flag.owner == owner:
                spelling = f"--{name}" + (f", --no_{name}" if is_true_by_default(flag) else "")
                lines.append(f"  {spelling}  {flag.type} = {flag.default}")
                lines += textwrap.wrap(flag.help, 110, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)
