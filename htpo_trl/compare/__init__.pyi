from .judgement import choose_rates, judge
from .plan import make_plan, settle
from .report import write_compare_report
from .runs import fight
from .tables import markdown, read_outcome

__all__ = [
    "choose_rates",
    "fight",
    "judge",
    "make_plan",
    "markdown",
    "read_outcome",
    "settle",
    "write_compare_report",
]
