"""Names of reward functions, as given on the command line or in a recipe → the functions."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from ..objects import import_object
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
    Reward functions by name, of this package or TRL's, or the user's own by `file.py:name` or `module.name`.
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


def spoken_names(chosen: Sequence[str], names: Sequence[str], functions: Sequence[Callable]) -> str | list[str] | None:
    """`correctness_reward` by the functions' own names, which it goes by, where it has those of `reward_funcs`."""
    from ..training.checks import reward_name

    spoken = {name: reward_name(function) for name, function in zip(names, functions, strict=True)}
    found = [spoken.get(name, name) for name in chosen]
    return found if len(found) > 1 else found[0] if found else None


def benchmark_judge(eval_judge: str | None, args: Any, rewards: Sequence[Callable]) -> Callable | None:
    """Who judges the benchmarks: `eval_judge`, or the run's own correctness reward; `None` for the math verifier."""
    from ..evaluation.judges import judge_of_run
    from ..training.checks import reward_name

    if eval_judge:
        return None if eval_judge == "verifier" else reward_functions([eval_judge], option="eval_judge")[0]
    found = {reward_name(function): function for function in rewards}
    known = [found[name] for name in args.correctness_names or [reward_name(rewards[0])] if name in found]
    return judge_of_run(known, args.correctness_threshold) if known else None  # the trainer refuses other names


def _import(name: str, option: str) -> Callable:
    if name in REWARDS:
        return getattr(import_module(REWARDS[name]), name)
    if not {".", ":"} & {*name}:
        raise UsageError(
            f"{option}: {nearest(name, REWARDS)}{name!r} is none of {', '.join(REWARDS)}. Name yours by "
            "file.py:name or module.name."
        )
    function = import_object(name, option)
    if not callable(function) or isinstance(function, type):
        kind = "a class" if isinstance(function, type) else f"a `{type(function).__name__}`"
        raise UsageError(f"{option}: {name!r} is {kind}, not a function. Name one, by `def`, that calls it.")
    return function
