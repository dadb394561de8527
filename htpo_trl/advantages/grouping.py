"""Groups of responses: sums, largest values, means and deviations over each, for estimators of advantages."""

import math

import torch
from torch import Tensor


class Grouping:
    """
    Which responses are a group. Groups may differ in size and stand in any order; responses without a reward are left
    out. No loop over groups, no wait for the device, and sums in the same order each time.

    Args:
        ids (`torch.Tensor` of shape (B,)):
            A number for each group.
        rewards (`torch.Tensor` of shape (B,)):
            Of each response, NaN where there is none.
        lengths (`torch.Tensor` of shape (B,), *optional*):
            Tokens of each response.
    """

    def __init__(self, ids: Tensor, rewards: Tensor, lengths: Tensor | None = None) -> None:
        ordered, self._order = ids.sort(stable=True)
        places = (ordered.diff(prepend=ordered[:1]) != 0).cumsum(0)  # 0, 0, 1, 1, 1, ...
        self._groups = torch.empty_like(places).scatter_(0, self._order, places)  # (B,)
        ones = torch.ones_like(places)
        # As many groups as responses, most of them empty: how many there are only the device knows.
        self._sizes = torch.zeros_like(places).scatter_add_(0, places, ones)
        self.counted, self.lengths = ~rewards.isnan(), lengths
        self.n = self.sum(torch.ones_like(rewards))  #: (B,), how many of its group have a reward

    def sum(self, values: Tensor) -> Tensor:
        """Of each response, the sum over its group."""
        return self._reduce(values, "sum", 0.0)

    def max(self, values: Tensor) -> Tensor:
        """Of each response, the largest in its group."""
        return self._reduce(values, "max", -math.inf)

    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Of each response, the mean over its group. Where all are equal it is their value, exactly."""
        weights = torch.ones_like(values) if weights is None else weights
        top = self.max(values)
        return top + self.sum(weights * (values - top)) / self.sum(weights)

    def deviation(self, values: Tensor) -> Tensor:
        """Of each response, the standard deviation (n - 1) of its group; 0 for a group of one."""
        return (self.sum((values - self.mean(values)) ** 2) / (self.n - 1).clamp(min=1)).sqrt()

    def over_groups(self, values: Tensor) -> Tensor:
        """The mean over groups of what is one value a group, a scalar."""
        share = torch.where(self.counted, 1 / self.n, 0.0)
        return torch.where(self.counted, values * share, 0.0).sum() / share.sum()

    def _reduce(self, values: Tensor, how: str, nothing: float) -> Tensor:
        kept = torch.where(self.counted, values, nothing)[self._order]
        # `unsafe` leaves out a check for which the host would wait: the sizes are ours.
        return torch.segment_reduce(kept, how, lengths=self._sizes, unsafe=True)[self._groups]
