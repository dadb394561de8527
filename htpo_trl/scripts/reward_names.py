"""Names of reward functions, as given on the command line or in a recipe → the functions."""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Any

from ..utils import nearest


#: The reward that is made for a length.
OVERLONG = "get_soft_overlong_punishment"
#: Name of a reward function -> its module.
REWARDS = {
    **dict.fromkeys(
        ("math_reward", "signed_math_reward", "dapo_math_reward", "last_number_reward"), "htpo_trl.rewards"
    ),
    "countdown_reward": "htpo_trl.data.countdown",
    **dict.fromkeys(("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward", OVERLONG), "trl.rewards"),
}


def reward_functions(
    names: Sequence[str], max_completion_length: int | None = None, soft_punish_cache: int = 4096
) -> list[Callable]:
    """
    Reward functions by name, of this package or TRL's, or by dotted path; the working directory can be imported from.
    `get_soft_overlong_punishment` is made for `max_completion_length` and `soft_punish_cache`, in tokens.
    """
    functions = {name: _import(name) for name in names}
    if OVERLONG in functions:
        if not max_completion_length or not 0 < soft_punish_cache < max_completion_length:
            raise ValueError(
                f"soft_punish_cache={soft_punish_cache} must lie between 0 and max_completion_length="
                f"{max_completion_length}: the penalty grows over the last soft_punish_cache tokens."
            )
        functions[OVERLONG] = functions[OVERLONG](max_completion_length, soft_punish_cache)
    return [functions[name] for name in names]


def _import(name: str) -> Callable:
    if name not in REWARDS and "." not in name:
        raise ValueError(
            f"reward_funcs: {nearest(name, REWARDS)}{name!r} is neither a dotted path nor one of {', '.join(REWARDS)}."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = resolve_name(f"{REWARDS[name]}:{name}" if name in REWARDS else name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"reward_funcs: {name!r} cannot be imported: {error}.") from error
    if not callable(function):
        raise ValueError(f"reward_funcs: {name!r} is a `{type(function).__name__}`, not a function.")
    return function


def check_columns(functions: Sequence[Callable], dataset: Any) -> None:
    """Refuse reward functions with an argument that neither TRL nor a column of the data set gives."""
    given = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments"}
    columns = dataset.column_names
    for function in functions if columns is not None else ():
        for parameter in inspect.signature(function).parameters.values():
            is_optional = parameter.default is not parameter.empty or parameter.kind.name.startswith("VAR_")
            if not is_optional and parameter.name not in {*given, *columns}:
                raise ValueError(
                    f"The reward function {function.__name__!r} needs the column {parameter.name!r}; the data has "
                    f"only {', '.join(columns)}. Name the columns by problem_column and solution_column, or rename "
                    "them."
                )
