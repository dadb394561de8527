"""What a fight rests on beside its options: SHA-256 of code, and the commit of a model on the Hub."""

import hashlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from ..output.reading import read_bytes
from ..scripts.arguments import find_model
from ..utils import UsageError


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


def commit_of(model: str, revision: str) -> str | None:
    """Of a model on the Hub, the commit that a revision is now; of a directory `None`."""
    from huggingface_hub import snapshot_download

    if os.path.isdir(find_model(model)):
        return None
    files = ["config.json", "adapter_config.json"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=files)).name
    except (OSError, ValueError) as error:
        raise UsageError(f"model_name_or_path={model!r} cannot be loaded from the Hub: {error}") from error
