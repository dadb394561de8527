"""What the names of one's own functions and tables stand for: `file.py:name`, `module:name` or `module.name`."""

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from .utils import UsageError, nearest


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
    if not os.path.isfile(path):
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
