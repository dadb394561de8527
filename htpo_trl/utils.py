"""What several rooms need and none owns: the error a user can mend, tables, writing in one step, names, versions."""

import difflib
import hashlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


#: What a bug report should tell the versions of.
PACKAGES = (
    *("htpo_trl", "trl", "transformers", "accelerate", "datasets", "peft", "torch", "deepspeed", "vllm"),
    *("bitsandbytes", "math-verify", "pebble", "reasoning-gym", "matplotlib", "wandb", "trackio", "tensorboard"),
    *("huggingface_hub", "safetensors", "numpy"),
)


class UsageError(ValueError):
    """What the user can mend: one line that names the option, its value and the mend. Any other error is a bug."""


def versions() -> dict[str, str]:
    """Package → version, of those that are installed."""
    found = {package: next(iter(distributions(name=package)), None) for package in PACKAGES}
    return {package: distribution.version for package, distribution in found.items() if distribution}


def nearest(name: str, known: Iterable[str]) -> str:
    """`Did you mean ...? `, if there is a name close to this one; else nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}? " if near else ""


def import_object(name: str, option: str) -> Any:
    """
    What `file.py:name`, `module:name` or `module.name` stands for; the working directory can be imported from. What is
    not there is a [`UsageError`] of the option; an error within the file or the module keeps its traceback.
    """
    where, colon, attributes = name.rpartition(":" if ":" in name else ".")
    if not where or not attributes:
        raise UsageError(f"{option}: {name!r} names nothing. Write file.py:name, or module.name.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if colon and where.endswith(".py"):
        found = _import_file(Path(where), option, name)
    else:
        found, attributes = _import_module(where, attributes, option, name)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            near = nearest(attribute, dir(found))
            raise UsageError(f"{option}: {name!r}: no {attribute!r} there. {near}Correct it, or write file.py:name.")
        found = getattr(found, attribute)
    return found


def _import_module(where: str, attributes: str, option: str, name: str) -> tuple[Any, str]:
    """The module that a dotted path begins with, and what is to be looked for in it."""
    try:
        return importlib.import_module(where), attributes
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{where}.".startswith(f"{missing}."):  # a module that the user's own one imports
            raise
        package, _, last = where.rpartition(".")
        if package and missing != package:  # `last` may be a class
            return _import_module(package, f"{last}.{attributes}", option, name)
        raise UsageError(
            f"{option}: {name!r} cannot be imported: {error} in {os.getcwd()} or the installed packages. Name its "
            f"file, as in path/to/{missing}.py:{attributes}, or correct the path."
        ) from None


def _import_file(path: Path, option: str, name: str) -> Any:
    """A file as a module, imported once, which can import what lies beside it."""
    if not path.is_file():
        raise UsageError(f"{option}: {name!r}: there is no file {str(path)!r} in {Path.cwd()}.")
    path = path.resolve()
    key = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"  # its stem may be another module's name
    if key not in sys.modules:
        spec: Any = importlib.util.spec_from_file_location(key, path)
        module = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file in one step: a kill, or a full disk, leaves the old file or the new one. Text is UTF-8."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


def write_json(path: Path, content: Any) -> None:
    """[`write_atomically`] of JSON."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns are aligned: text, the first two, to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    line = " | ".join(f"{{:{'<' if i < 2 else '>'}{width}}}" for i, width in enumerate(widths))
    return "\n".join(f"| {line.format(*row)} |" for row in [header, rule, *rows])


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A field of a dataclass, with its help."""
    made: Any = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**made, metadata={"help": text, **metadata})
