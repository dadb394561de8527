"""HTPO for TRL: every token learns by the objective of its functional group (arXiv 2605.08283)."""

from importlib.metadata import version

import lazy_loader


# TRL takes seconds to import: what builds on it is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("htpo_trl")
__all__ += ["__version__"]
