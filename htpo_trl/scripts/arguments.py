"""
The arguments of `htpo train` and `htpo eval`: recipe and command line, sorted into those of the script and those of
accelerate's launcher. No torch, no configuration object: nothing here initialises a device or a process group.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..utils import nearest
from .flags import Flag


#: Folder of the packaged recipes.
RECIPES = files("htpo_trl") / "recipes"
#: Folder of the packaged configurations of accelerate.
ACCELERATE_CONFIGS = files("htpo_trl") / "accelerate_configs"


class UsageError(ValueError):
    """The command cannot be run as it was given; the message says why, and the mend."""


class Arguments(NamedTuple):
    """What recipe and command line ask for. Tokens are for argparse, those of the recipe first: the last one wins."""

    script: list[str]
    launch: list[str]  #: for `accelerate launch`
    defaults: dict[str, Any]  #: of the script: what a token cannot hold, `None` and mappings
    own: list[str]  #: of the command line alone, without those for `accelerate launch`


def read(argv: Sequence[str], flags: Mapping[str, Flag], launch_flags: Iterable[str] = ()) -> Arguments:
    """
    Sort out a command line and the recipe that its `--config` names, a file or one of the package's recipes. The
    recipe's `env` is set in this process's environment, but for variables that are set already.

    Raises:
        UsageError: for an option that is none of the flags, with the nearest that is.
    """
    launch_flags = {*launch_flags, "accelerate_config"}
    script: list[str] = []
    launch: list[str] = []
    defaults: dict[str, Any] = {}

    def unknown(name: str, where: str) -> NoReturn:
        raise UsageError(f"{where}: {name!r} is not an option. {nearest(name, [*flags, *launch_flags])}".rstrip())

    chunks = list(_chunks(argv))
    for config in [chunk for chunk in chunks if chunk[0] == "config"]:
        path, recipe = load_recipe(_value(config))
        for name, value in recipe.items():
            if name not in flags and name not in launch_flags:
                unknown(name, str(path))
            items = value if isinstance(value, list) else [value]
            if name not in flags:
                launch += _tokens(name, value)
            elif any(item is None or isinstance(item, dict) for item in items):
                defaults[name] = value  # some versions of TRL take no mapping as a flag
            else:
                script += _tokens(name, value)
    own = []
    for name, tokens in chunks:
        if name == "config":
            own += tokens
        elif name in flags or (name.startswith("no_") and name[3:] in flags):
            script += tokens
            own += tokens
            defaults.pop(name, None)
        elif name in launch_flags:
            launch += tokens
        else:
            unknown(name, "command line")
    return Arguments(script, launch, defaults, own)


def load_recipe(name: str) -> tuple[Path, dict[str, Any]]:
    """A recipe of the package by name, or a YAML file: its path, and its content without `env`, which is set."""
    import yaml

    path = find(name, RECIPES, "recipe")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} must map options to values, as in `learning_rate: 1.0e-6`.")
    for variable, value in (content.pop("env", None) or {}).items():
        os.environ.setdefault(variable, str(value))
    return path, content


def find(name: str, packaged: Any, kind: str) -> Path:
    """A YAML file by path, or one of the package's by its name."""
    for path in (Path(name), Path(str(packaged / f"{name}.yaml"))):
        if path.is_file():
            return path
    raise UsageError(
        f"{nearest(name, names(packaged))}{name!r} is neither a file nor a {kind} of the package: "
        f"{', '.join(names(packaged))}."
    )


def names(packaged: Any) -> list[str]:
    """The names of the package's YAML files in a folder."""
    root = Path(str(packaged))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def _chunks(argv: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    """Name of each option, in underscores, and its tokens."""
    chunk: list[str] = []
    for token in [*argv, "--"]:
        if token.startswith("--"):
            if chunk:
                yield chunk[0][2:].partition("=")[0].replace("-", "_"), chunk
            chunk = [token]
        elif chunk:
            chunk.append(token)
        else:
            raise UsageError(f"command line: {token!r} stands before any option. Options begin with --.")


def _value(chunk: tuple[str, list[str]]) -> str:
    name, tokens = chunk
    values = [tokens[0].partition("=")[2], *tokens[1:]] if "=" in tokens[0] else tokens[1:]
    if len(values) != 1:
        raise UsageError(f"command line: --{name} takes one value.")
    return values[0]


def _tokens(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]
