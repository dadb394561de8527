"""SHA-256 of what a fight rests on beside its options: code, and the model's files."""

import hashlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from ..output.reading import read_bytes
from ..scripts.arguments import find_model


_PACKAGE = Path(__file__).parents[1]
_INSTALLED = Path(sysconfig.get_paths()["stdlib"])


def code_of(functions: Sequence[Callable | None]) -> dict[str, str]:
    """
    File → digest, of this package as a whole (`htpo_trl`), and of the rewards, judges and advantages that are not
    installed, with the modules beside them that they imported.
    """
    named = set()
    for function in functions:
        try:
            path = Path(inspect.getsourcefile(inspect.unwrap(function))).resolve()  # type: ignore[arg-type]
        except (OSError, TypeError, ValueError):  # none, a model, a partial function
            continue
        named |= {path} if _is_own(path) else set()
    loaded = [getattr(module, "__file__", None) for name, module in [*sys.modules.items()] if name != "__main__"]
    files = [Path(file).resolve() for file in loaded if file and Path(file).is_file()]
    beside = {file for file in files if _is_own(file) and any(file.is_relative_to(path.parent) for path in named)}
    return {name: digest_of_code(name) for name in ("htpo_trl", *sorted(map(os.path.relpath, named | beside)))}


def _is_own(path: Path) -> bool:
    return not (path.is_relative_to(_PACKAGE) or path.is_relative_to(_INSTALLED) or "site-packages" in path.parts)


def digest_of_code(name: str) -> str:
    """Of a file, or of this package."""
    if name != "htpo_trl":
        return digest_of_file(name)
    files = sorted((path.relative_to(_PACKAGE).as_posix(), path) for path in _PACKAGE.rglob("*.py"))
    return hashlib.sha256("".join(f"{name} {digest_of_file(path)}\n" for name, path in files).encode()).hexdigest()


def digest_of_file(path: str | Path) -> str:
    """Of a plan, or of code."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def digest_of_model(name: str) -> str | None:
    """Of the files in the directory of a model; of a model on the Hub there is none."""
    directory = Path(find_model(name))
    if not directory.is_dir():
        return None
    digest = hashlib.sha256()
    files = [path for path in directory.iterdir() if path.is_file() and not path.name.startswith((".", "_"))]
    for path in sorted(files):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
