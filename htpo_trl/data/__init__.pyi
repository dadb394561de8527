from .benchmarks import BENCHMARKS, TEMPLATES, Benchmark
from .loaders import PROCEDURAL_TASKS, check_disjoint, exclude, load, load_countdown, load_file, load_procedural, split

__all__ = [
    "BENCHMARKS",
    "PROCEDURAL_TASKS",
    "TEMPLATES",
    "Benchmark",
    "check_disjoint",
    "exclude",
    "load",
    "load_countdown",
    "load_file",
    "load_procedural",
    "split",
]
