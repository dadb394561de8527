from .benchmarks import BENCHMARKS, Benchmark
from .names import PROCEDURAL_TASKS, load
from .prompts import TEMPLATES
from .splits import check_disjoint, exclude, split

__all__ = [
    "BENCHMARKS",
    "PROCEDURAL_TASKS",
    "TEMPLATES",
    "Benchmark",
    "check_disjoint",
    "exclude",
    "load",
    "split",
]
