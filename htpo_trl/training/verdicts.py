"""Which reward judges a response: of several tasks each may have its own, which returns None for the others' rows."""

import logging
from collections.abc import Sequence

from torch import Tensor


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
        scored = (~rewards[unjudged].isnan()).any(dim=0).tolist()
        others = [name for name, there in zip(self.names, scored, strict=True) if there]
        _logger.warning(
            "%.0f%% of the responses have no verdict: %s, asked for correctness, returned None. They are trained by "
            "plain PPO-clip, not by the objective of their group. %s",
            100 * share,
            " and ".join(judges),
            f"Where they are another task, name its reward function too: correctness_reward={[*judges, others[0]]}."
            if others
            else "No reward function scored them, so that they teach nothing: look at their golds.",
        )
