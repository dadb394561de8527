"""
Errors of reward functions: they name the function and its batch, and end the run on all processes.

If one process raised while the others wait for its rewards, they would go on waiting. So an error is held until all
processes have shared their rewards, and then all of them raise. A function is not called again to find the row: a
judge may cost money. It can tell itself, by raising an error that has the attribute `row`.
"""

import functools
import inspect
import math
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object

from ..utils import UsageError


class RewardErrors:
    """
    Holds the error of the reward functions of one process, that of `rank`. With `checks_logs` one that gives
    `log_extra` more or fewer values than there are completions is in error too.
    """

    def __init__(self, rank: int, checks_logs: bool = False) -> None:
        self.rank, self.checks_logs = rank, checks_logs
        self.error: Exception | None = None

    def guard(self, function: Any, name: str) -> Any:
        """The reward function as TRL calls it, but that its error is held; a reward model as it is."""
        if isinstance(function, torch.nn.Module):
            return function

        @functools.wraps(function)
        def guarded(**kwargs):
            try:
                with self._logs_checked(kwargs) as checked:
                    return _checked(function(**checked), len(kwargs["prompts"]))
            except Exception as error:
                return self._hold(error, name, kwargs)

        @functools.wraps(function)
        async def guarded_async(**kwargs):
            try:
                with self._logs_checked(kwargs) as checked:
                    return _checked(await function(**checked), len(kwargs["prompts"]))
            except Exception as error:
                return self._hold(error, name, kwargs)

        chosen: Any = guarded_async if _is_async(function) else guarded
        chosen.unguarded = function  # for who calls it on one process alone
        return chosen

    @contextmanager
    def _logs_checked(self, kwargs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The arguments of a function, with a `log_extra` that counts the values it is given."""
        counts: Counter[str] = Counter()

        def log_extra(column: str, values: list) -> None:
            counts[column] += len(values)
            kwargs["log_extra"](column, values)

        yield kwargs | {"log_extra": log_extra} if self.checks_logs else kwargs
        n = len(kwargs["prompts"])
        for column, count in counts.items():
            if count != n:
                raise UsageError(
                    f"log_extra({column!r}, ...) got {count} values for {n} completions. dynamic_sampling=True keeps "
                    "the values of the completions that are trained on: give one for each, None where there is none."
                )

    def _hold(self, error: Exception, name: str, kwargs: dict[str, Any]) -> list[float]:
        """Name function and batch, and the row that the error tells; returns rewards that nobody will use."""
        n, row = len(kwargs["prompts"]), getattr(error, "row", None)
        known = isinstance(row, int) and 0 <= row < n
        prompt, completion = (_shortened(kwargs[key][row if known else 0]) for key in ("prompts", "completions"))
        error.add_note(
            f"The reward function {name!r} failed on process {self.rank}, on "
            f"{f'row {row} of a batch of {n}' if known else f'a batch of {n}, which begins with'}\n"
            f"  prompt: {prompt}\n  completion: {completion}"
        )
        self.error = self.error or error
        return [0.0] * n

    def raise_if_any(self, save: Callable[[], str]) -> None:
        """Raise on all processes if any holds an error; to be called on all. What `save` returns is a note of it."""
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
    for row, reward in enumerate(rewards):
        try:
            torch.empty(1, dtype=torch.float32)[0] = torch.nan if reward is None else reward
        except (TypeError, ValueError, RuntimeError) as cause:
            error = TypeError(f"Rewards must be numbers or None, not {reward!r:.60}: {cause}")
            error.row = row  # type: ignore[attr-defined]
            raise error from cause
        if reward is not None and math.isinf(reward):  # NaN is TRL's word for no verdict
            infinite = ValueError(f"Rewards must be finite, not {reward!r}: advantages and weights would become NaN.")
            infinite.row = row  # type: ignore[attr-defined]
            raise infinite
    return rewards


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:150]} [...] {text[-150:]}"
