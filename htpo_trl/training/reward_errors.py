"""
Errors of reward functions: they name the function and the sample, and end the run on all processes.

If one process raised while the others wait for its rewards, they would go on waiting. So an error is held until all
processes have shared their rewards, and then all of them raise.
"""

import asyncio
import functools
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from accelerate.utils import gather_object


class RewardErrors:
    """
    Holds the error of this process's reward functions.

    Args:
        rank (`int`):
            This process.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.error: Exception | None = None

    def guard(self, function: Any, name: str) -> Any:
        """The reward function as TRL calls it, but that its error is held; a reward model as it is."""
        if isinstance(function, torch.nn.Module):
            return function
        return self._guard_async(function, name) if _is_async(function) else self._guard(function, name)

    def _guard(self, function: Callable, name: str) -> Callable:
        def judge(**kwargs):
            return _checked(function(**kwargs), len(kwargs["prompts"]))

        @functools.wraps(function)
        def guarded(**kwargs):
            try:
                return judge(**kwargs)
            except Exception as error:
                return self._hold(error, name, kwargs, (_outcome(judge, row) for row in _rows(kwargs)))

        return guarded

    def _guard_async(self, function: Callable, name: str) -> Callable:
        async def judge(**kwargs):
            return _checked(await function(**kwargs), len(kwargs["prompts"]))

        @functools.wraps(function)
        async def guarded(**kwargs):
            try:
                return await judge(**kwargs)
            except Exception as error:
                outcomes = await asyncio.gather(*(judge(**row) for row in _rows(kwargs)), return_exceptions=True)
                return self._hold(error, name, kwargs, outcomes)

        return guarded

    def _hold(self, error: Exception, name: str, kwargs: dict[str, Any], outcomes: Iterable[Any]) -> list[float]:
        """Name function and sample, by the `outcomes` of the rows alone; returns rewards that nobody will use."""
        n = len(kwargs["prompts"])
        row = next((i for i, outcome in enumerate(outcomes) if type(outcome) is type(error)), None)
        where = f"a batch of {n}, but on none of its rows alone"
        if row is not None:
            prompt, completion = (_shortened(kwargs[key][row]) for key in ("prompts", "completions"))
            where = f"row {row} of a batch of {n}.\n  prompt: {prompt}\n  completion: {completion}"
        error.add_note(f"The reward function {name!r} failed on process {self.rank}, on {where}")
        self.error = self.error or error
        return [0.0] * n

    def raise_if_any(self, save: Callable[[], str]) -> None:
        """
        Raise on all processes if any of them holds an error; to be called on all.

        Args:
            save (`Callable`):
                Called before, on all processes; returns what it did, as a note for the error.
        """
        text = self.error and "".join(traceback.format_exception_only(self.error)).strip()
        texts = [text for text in gather_object([text]) if text]
        if not texts:
            return
        error = self.error or RuntimeError(f"A reward function failed on another process: {texts[0]}")
        self.error = None
        try:
            raise error
        except Exception:
            error.add_note(save())  # if that fails too, both errors are shown
            raise


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _checked(rewards: Any, n: int) -> list[Any]:
    """What TRL would refuse on this process alone, with the others waiting."""
    rewards = list(rewards)
    if len(rewards) != n:
        raise ValueError(f"{len(rewards)} rewards were returned for {n} completions.")
    try:
        values = torch.tensor([torch.nan if reward is None else reward for reward in rewards], dtype=torch.float32)
        torch.empty(n)[:] = values
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"Rewards must be numbers or None: {error}") from error
    return rewards


def _rows(kwargs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments of a reward function for each row alone."""
    n = len(kwargs["prompts"])
    for i in range(n):
        yield {k: [v[i]] if isinstance(v, list) and len(v) == n else v for k, v in kwargs.items()}


def _outcome(judge: Callable, kwargs: dict[str, Any]) -> Any:
    try:
        return judge(**kwargs)
    except Exception as error:
        return error


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:150]} [...] {text[-150:]}"
