"""HTPO as data (arXiv 2605.08283): rules, the table of eight groups, the transform that makes loss inputs of it."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
