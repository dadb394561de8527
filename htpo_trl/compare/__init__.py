"""A fair fight between objectives: its plan, its runs as processes, its judgement."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
