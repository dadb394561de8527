from .runs import RunError
from .writer import require_matplotlib, write_report

__all__ = ["RunError", "require_matplotlib", "write_report"]
