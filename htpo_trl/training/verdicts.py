"""Which reward judges a response: of several tasks each may have its own, which returns None for the others' rows."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..utils import UsageError


#: Share of responses without a verdict above which a run says so, once.
WORTH_A_WORD = 0.05
_logger = logging.getLogger(__name__)


def verdicts(rewards: Tensor, columns: Sequence[int]) -> Tensor:
    """
    Of (N, F) rewards, NaN where a function returned None, the one that judges each response (N,): the first that is
    there, in the order of the columns; NaN without one.
    """
    asked = rewards[:, columns]
    first = (~asked.isnan()).int().argmax(dim=1, keepdim=True)
    return asked.gather(1, first).squeeze(1)


class UnjudgedTeller:
    """Says once that more responses than a few have no verdict, and which function could give one."""

    def __init__(self, columns: Sequence[int], names: Sequence[str]) -> None:
        self.columns, self.names, self._is_told = columns, names, False

    def tell(self, rewards: Tensor) -> None:
        """Look at the rewards (N, F) of a batch."""
        if self._is_told:
            return
        unjudged = verdicts(rewards, self.columns).isnan()
        share = unjudged.float().mean().item()
        if share <= WORTH_A_WORD:
            return
        self._is_told = True
        judges = [self.names[column] for column in self.columns]
        scored_there, scored_elsewhere = (
            (~rewards[rows].isnan()).any(dim=0).tolist() for rows in (unjudged, ~unjudged)
        )
        # A function that has a say there alone judges another task; a penalty for length has one everywhere.
        others = [
            name
            for name, there, elsewhere in zip(self.names, scored_there, scored_elsewhere, strict=True)
            if there and not elsewhere and not unjudged.all()
        ]
        if others:
            mend = f"They are another task: name its judge too, correctness_reward={[*judges, *others]}."
        elif any(scored_there):
            mend = "Look at their golds; if they are another task, name its judge in correctness_reward too."
        else:
            mend = "No reward function scored them, so that they teach nothing: look at their golds."
        _logger.warning(
            "%.0f%% of the responses have no verdict: %s, asked for correctness, returned None. They are trained by "
            "plain PPO-clip, not by the objective of their group. %s",
            *(100 * share, " and ".join(judges), mend),
        )


def check_reward_funcs(functions: Sequence[Any]) -> None:
    """Refuse what is no reward function, and the name of a function, which TRL takes for that of a model."""
    if not functions:
        raise UsageError("reward_funcs is empty: pass a reward function, such as htpo_trl.rewards.math_reward.")
    for function in functions:
        if isinstance(function, str) and "/" not in function and not os.path.isdir(function):
            raise UsageError(
                f"reward_funcs={function!r} is no reward model: there is no such directory, and an id on the Hub has "
                "an owner. In Python pass the function, as in: from htpo_trl.rewards import math_reward."
            )
        if not isinstance(function, str) and not callable(function):
            raise UsageError(
                f"reward_funcs: {function!r:.60} is a `{type(function).__name__}`. Pass the function itself, without "
                "calling it, or a list of functions."
            )
