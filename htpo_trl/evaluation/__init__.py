"""n samples per problem → verdicts → mean@n, maj@k, pass@k with intervals over problems; comparison; a callback."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
