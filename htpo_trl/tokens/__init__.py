"""The token map: what the loss did to single tokens, recorded during training and shown afterwards."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
