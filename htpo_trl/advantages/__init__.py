"""Advantage estimators by name: from the rewards of groups of responses to one advantage a response."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
