"""Data sets as the trainer reads them (`prompt`, `solution`, `problem`): of the Hub, of files, procedural tasks."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
