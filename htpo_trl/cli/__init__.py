"""The `htpo` command. Nothing here needs torch before there is something to run."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
