"""Reports: one self-contained page, described in `panels.yaml`, and its pictures, from run directories alone."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
