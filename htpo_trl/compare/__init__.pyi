from .plan import make_plan, settle
from .runs import fight

__all__ = ["fight", "make_plan", "settle"]
