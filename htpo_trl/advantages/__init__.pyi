from .estimation import check_advantage, estimate, get_estimator
from .estimators import ESTIMATORS, REWARDS, Estimator, register
from .grouping import Grouping

__all__ = [
    "ESTIMATORS",
    "REWARDS",
    "Estimator",
    "Grouping",
    "check_advantage",
    "estimate",
    "get_estimator",
    "register",
]
