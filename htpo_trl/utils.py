"""What several rooms need and none owns: the error a user can mend, tables, writing in one step, names, versions."""

import difflib
import hashlib
import importlib
import importlib.util
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import field, fields
from functools import cache
from importlib.metadata import distributions
from inspect import get_annotations
from numbers import Real
from pathlib import Path
from typing import Any

from .redaction import redact_text


#: What a bug report should tell the versions of.
PACKAGES = (
    *("htpo_trl", "trl", "transformers", "accelerate", "datasets", "peft", "torch", "deepspeed", "vllm"),
    *("bitsandbytes", "math-verify", "pebble", "reasoning-gym", "matplotlib", "wandb", "trackio", "tensorboard"),
    *("huggingface_hub", "safetensors", "numpy"),
)


class UsageError(ValueError):
    """What the user can mend: one line that names the option, its value and the mend. Any other error is a bug."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*(redact_text(arg) if isinstance(arg, str) else arg for arg in args))


class MissingFileError(UsageError, FileNotFoundError):
    """A file that an option names is not there."""


class MissingPackageError(UsageError, ImportError):
    """A package that an option needs is not installed; the message has the command that installs it."""


@cache
def versions() -> dict[str, str]:
    """Package → version, of those that are installed."""
    found = {package: next(iter(distributions(name=package)), None) for package in PACKAGES}
    return {package: distribution.version for package, distribution in found.items() if distribution}


def nearest(name: str, known: Iterable[str]) -> str:
    """`Did you mean ...? `, if there is a name close to this one; else nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}? " if near else ""


class WriteError(UsageError, OSError):
    """A file could not be written: no space, no permission."""


_FULL = re.compile(r"no space left|disk quota|file too large|file write failed|unexpected pos", re.IGNORECASE)


def is_of_writing(error: Exception) -> bool:
    """Whether it is the system that did not let a file be written, also where safetensors or torch report it."""
    return isinstance(error, OSError) or bool(_FULL.search(str(error)))


@contextmanager
def writing(path: str | Path, advice: str = "") -> Iterator[None]:
    """Within, what keeps a file from being written is a [`WriteError`] that names it and the free space there."""
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        if not is_of_writing(error):
            raise
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), repr(error))
        raise WriteError(f"{path} could not be written: {reason}. {free_space(path)} {advice}".rstrip()) from error


def free_space(path: str | Path) -> str:
    """A sentence for errors of writing; nothing where the system does not tell."""
    for directory in (Path(path).absolute(), *Path(path).absolute().parents):
        with suppress(OSError):
            return f"Its file system has {shutil.disk_usage(directory).free / 1e6:,.1f} MB free."
    return ""


def import_object(name: str, option: str) -> Any:
    """
    What `file.py:name`, `module:name` or `module.name` stands for; the working directory can be imported from. What is
    not there is a [`UsageError`] of the option; an error within the file or the module keeps its traceback.
    """
    where, colon, attributes = name.rpartition(":" if ":" in name else ".")
    dotted = attributes if where.endswith(".py") else f"{where}.{attributes}"
    if not all(part.isidentifier() for part in dotted.split(".")):
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
            raise UsageError(
                f"{option}: {name!r} cannot be imported: there is no {attribute!r} in it. {near}Correct it, or write "
                "file.py:name."
            )
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
    """
    Write a file in one step: a kill, or a full disk, leaves the old file or the new one. Its folder is made, text is
    UTF-8.

    Raises:
        WriteError: where it cannot be written, with the reason; nothing is left of it.
    """
    partial = path.with_name(f"{path.name}.partial")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        except OSError:
            with suppress(OSError):
                partial.unlink()  # or it would take the space that is missing
            raise


def write_json(path: Path, content: Any) -> None:
    """[`write_atomically`] of JSON."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def check_writable(option: str, directory: str | Path) -> None:
    """Raise a [`UsageError`] where output cannot go to a directory, which may still have to be made."""
    if not str(directory):
        raise UsageError(f"{option} is empty. Name a directory.")
    if re.match(r"~|\$\{?\w", str(directory)):  # of a recipe, or behind an `=`
        raise UsageError(
            f"{option}={str(directory)!r}: no shell has put in what {directory!s:.1} stands for. Write it out."
        )
    path = Path(directory).absolute()
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not there.is_dir():
        raise UsageError(f"{option}={str(directory)!r}: {there} is no directory. Name another one.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{option}={str(directory)!r}: {there} cannot be written to. Name another directory.")


def content_digest(value: Any) -> str:
    """What stands for a picture, an array or bytes in JSON: their content, so that equal ones are equal there."""
    import numpy as np

    array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
    if array.dtype == object:  # neither picture nor numbers
        return repr(value)
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


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


def check_numbers(options: Any, ranges: Mapping[str, Iterable[str]]) -> None:
    """
    Raise a [`UsageError`] for a field of a dataclass whose number, or one of a list, is out of its range: `(0, 1]`,
    `[1, inf)`, or `-1 or [1, inf)`, each with the names of its fields. Others need only be finite; infinity is in
    ranges that end with `inf]`. What is an `int` must be whole.
    """
    known = {name: within for within, names in ranges.items() for name in names}
    # Not the fields' own types: transformers' parser takes `None` out of them.
    types = {name: str(kind) for cls in type(options).__mro__[::-1] for name, kind in get_annotations(cls).items()}
    for each in fields(options):
        kinds, value = set(re.findall(r"\w+", types[each.name])), getattr(options, each.name)
        if not kinds & {"int", "float"} or (value is None and kinds & {"None", "Optional"}):
            continue
        for number in value if isinstance(value, list | tuple) else [value]:
            if not (isinstance(number, str) and "str" in kinds):
                reason = _reason(number, known.get(each.name, "(-inf, inf)"), is_whole="float" not in kinds)
                if reason:
                    raise UsageError(f"{each.name}={value!r} must {reason}.")


def _reason(value: Any, within: str, is_whole: bool) -> str:
    """What a number must be, if it is not; or nothing."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return "be a number"
    number = float(value)
    other, _, interval = within.rpartition(" or ")
    low, high = map(float, interval[1:-1].split(","))
    is_above = number >= low if interval[0] == "[" else number > low
    is_below = number <= high if interval[-1] == "]" else number < high
    if is_above and is_below:
        return "be a whole number" if is_whole and not number.is_integer() else ""
    if other and number == float(other):
        return ""
    if high < math.inf:
        return f"lie in {interval}"
    least = f"{'at least' if interval[0] == '[' else 'above'} {low:g}"
    parts = ["" if math.isfinite(number) else "finite", least if low > -math.inf else ""]
    return "be " + f"{other} or " * bool(other) + " and ".join(filter(None, parts))
