from .config import HTPOConfig
from .trainer import HTPOTrainer

__version__: str
__all__ = ["HTPOConfig", "HTPOTrainer", "__version__"]
