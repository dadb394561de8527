"""Names of reward functions, as given on the command line or in a recipe → the functions."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ..utils import UsageError, nearest


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
    names: Sequence[str],
    max_completion_length: int | None = None,
    soft_punish_cache: int = 4096,
    option: str = "reward_funcs",
) -> list[Callable]:
    """
    Reward functions by name, of this package or TRL's, or by dotted path; the working directory can be imported from.
    `get_soft_overlong_punishment` is made for `max_completion_length` and `soft_punish_cache`, in tokens. Errors are
    told of the option that has the names; one within a user's module is raised as it is.
    """
    functions = {name: _import(name, option) for name in names}
    if OVERLONG in functions:
        if not max_completion_length or not 0 < soft_punish_cache < max_completion_length:
            raise UsageError(
                f"soft_punish_cache={soft_punish_cache} must lie between 0 and max_completion_length="
                f"{max_completion_length}: the penalty grows over the last soft_punish_cache tokens."
            )
        functions[OVERLONG] = functions[OVERLONG](max_completion_length, soft_punish_cache)
    return [functions[name] for name in names]


def _import(name: str, option: str) -> Callable:
    module, _, attribute = (REWARDS[name], ".", name) if name in REWARDS else name.rpartition(".")
    if not module or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            f"{option}: {nearest(name, REWARDS)}{name!r} is neither a dotted path nor one of {', '.join(REWARDS)}."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # of an import within the user's module, whose line the traceback shows
        raise UsageError(f"{option}: {name!r} cannot be imported: {error}.") from error
    function = getattr(found, attribute, None)
    if function is None:
        near = nearest(attribute, vars(found))
        raise UsageError(f"{option}: {name!r} cannot be imported: {module} has no {attribute!r}. {near}".rstrip())
    if not callable(function):
        raise UsageError(f"{option}: {name!r} is a `{type(function).__name__}`, not a function.")
    return function
