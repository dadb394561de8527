from .pictures import require_matplotlib
from .runs import RunError
from .writer import write_report

__all__ = ["RunError", "require_matplotlib", "write_report"]
