from .callback import EvaluationCallback
from .generation import Generator, TransformersGenerator, VLLMGenerator, load_generator
from .results import ResultsError, compare, comparison_table, summarize, summary_table
from .runner import evaluate
from .sampling import Sampling
from .statistics import majority_at_k, mean_with_interval, pass_at_k, sign_flip_test

__all__ = [
    "EvaluationCallback",
    "Generator",
    "ResultsError",
    "Sampling",
    "TransformersGenerator",
    "VLLMGenerator",
    "compare",
    "comparison_table",
    "evaluate",
    "load_generator",
    "majority_at_k",
    "mean_with_interval",
    "pass_at_k",
    "sign_flip_test",
    "summarize",
    "summary_table",
]
