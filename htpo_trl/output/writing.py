"""Files are written in one step; what keeps one from being written is told with the free space there."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..utils import UsageError


class WriteError(UsageError, OSError):
    """A file could not be written: no space, no permission."""


_FULL = re.compile(
    r"no space left|disk quota|file too large|file write failed|unexpected pos|i/o error|input/output error",
    re.IGNORECASE,
)


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
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # told below, or still to be made
    except OSError as error:  # a name that is too long
        raise UsageError(f"{option}={str(directory)!r:.100}: {error.strerror}. Name another directory.") from None
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not there.is_dir():
        raise UsageError(f"{option}={str(directory)!r}: {there} is no directory. Name another one.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{option}={str(directory)!r}: {there} cannot be written to. Name another directory.")
