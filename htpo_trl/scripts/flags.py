"""
The flags of a command, read from the source of its dataclasses without importing it: TRL and torch take seconds.

A test compares them with what TRL's parser makes of the same classes.
"""

import ast
import textwrap
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..advantages import estimators
from ..objective.compatibility import PPO_LOSS_TYPES
from ..objective.presets import PRESETS
from ..objective.table import SETTINGS


# What help texts of this package may have in braces, as written in the source, and what it stands for.
_IN_HELP = {
    "', '.join(PRESETS)": ", ".join(PRESETS),
    "', '.join(PPO_LOSS_TYPES)": ", ".join(PPO_LOSS_TYPES),
    **{f"SETTINGS[{name!r}]": str(value) for name, value in SETTINGS.items()},
    **{f"estimators.names(from_verdicts={each})": estimators.names(from_verdicts=each) for each in (False, True)},
}


class Flag(NamedTuple):
    """A field of a configuration class."""

    type: str  #: as written in the source
    default: str
    help: str
    owner: str  #: dotted path of the class that says what this field is

    @property
    def is_true_by_default(self) -> bool:
        """Whether there is a `--no_` form too."""
        return self.default == "True" and "bool" in self.type

    @property
    def takes_several(self) -> bool:
        """Whether it takes more than one value."""
        return "list" in self.type.lower()


def flags_of(classes: Iterable[str]) -> dict[str, Flag]:
    """Name → flag of dataclasses, given by their dotted paths, subclasses before their bases."""
    flags: dict[str, Flag] = {}
    for path in classes:
        *modules, module, name = path.split(".")
        package: Any = find_spec(modules[0])  # of a top-level package: imports nothing
        source = Path(package.submodule_search_locations[0], *modules[1:], f"{module}.py").read_text()
        (found,) = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name]
        for node in found.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                flag = Flag(ast.unparse(node.annotation), *_default_and_help(node.value), path)
                flags.setdefault(node.target.id, flag)
    return flags


def _filled(piece: Any) -> str:
    return _IN_HELP[ast.unparse(piece.value)] if isinstance(piece, ast.FormattedValue) else piece.value


def _default_and_help(value: ast.expr) -> tuple[str, str]:
    if not isinstance(value, ast.Call):
        return ast.unparse(value), ""
    if ast.unparse(value.func) == "option":
        default, text = value.args
        pieces: list[Any] = text.values if isinstance(text, ast.JoinedStr) else [text]
        return ast.unparse(default), "".join(map(_filled, pieces))
    keywords = {keyword.arg: keyword.value for keyword in value.keywords}
    factory, metadata = keywords.get("default_factory"), keywords.get("metadata")
    made = factory.body if isinstance(factory, ast.Lambda) else ast.List([]) if factory else ast.Constant(None)
    items = zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else ()
    texts = [text for key, text in items if isinstance(key, ast.Constant) and key.value == "help"]
    parts = [str(node.value) for text in texts for node in ast.walk(text) if isinstance(node, ast.Constant)]
    return ast.unparse(keywords.get("default", made)), " ".join(" ".join(parts).split())


def describe(titles: Mapping[str, str]) -> str:
    """The flags of classes for `--help`, each under its title."""
    flags, lines = flags_of(titles), []
    for owner, title in titles.items():
        lines.append(f"\n{title}:")
        for name, flag in flags.items():
            if flag.owner == owner:
                spelling = f"--{name}" + (f", --no_{name}" if flag.is_true_by_default else "")
                lines.append(f"  {spelling}  {flag.type} = {flag.default}")
                lines += textwrap.wrap(flag.help, 110, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)
