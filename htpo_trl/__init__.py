"""HTPO for TRL: every token learns by the objective of its functional group (arXiv 2605.08283)."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .config import HTPOConfig
    from .trainer import HTPOTrainer

__version__ = version("htpo_trl")
__all__ = ["HTPOConfig", "HTPOTrainer", "__version__"]

# TRL takes seconds to import: it is loaded when one of its subclasses is first asked for.
_LAZY = {"HTPOConfig": ".config", "HTPOTrainer": ".trainer"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
