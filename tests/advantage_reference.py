"""Advantage estimators, written a second time: Python loops over lists of floats, straight from the formulas."""

import math
from statistics import mean, stdev


def estimated(name, rewards, groups, lengths):
    """The advantage of each response; nothing is shared with `htpo_trl`."""
    members = {}
    for i, (reward, group) in enumerate(zip(rewards, groups, strict=True)):
        if not math.isnan(reward):
            members.setdefault(group, []).append(i)
    means = [mean(rewards[i] for i in rows) for rows in members.values()]
    advantages = [0.0] * len(rewards)
    for rows in members.values():
        group = [rewards[i] for i in rows]
        for i, advantage in zip(rows, _of_group(name, group, [lengths[i] for i in rows], means), strict=True):
            advantages[i] = advantage
    return advantages


def standardised(rewards, epsilon):
    deviation = stdev(rewards) if len(rewards) > 1 else 0.0
    return [(reward - mean(rewards)) / (deviation + epsilon) for reward in rewards]


def _of_group(name, rewards, lengths, means):
    n, average = len(rewards), mean(rewards)
    if name == "grpo":
        return standardised(rewards, 1e-4)
    if name == "dr_grpo":
        return [reward - average for reward in rewards]
    if name == "rloo":
        others = [rewards[:i] + rewards[i + 1 :] for i in range(n)]
        return [reward - (mean(rest) if rest else 0.0) for reward, rest in zip(rewards, others, strict=True)]
    if name == "maxrl":
        return [(reward - average) / (average + 1e-6) for reward in rewards]
    if name == "wapo":
        return [max(reward - average, 0.0) for reward in rewards]
    if name in ("w-reinforce", "psr", "nsr"):
        right, wrong = {"w-reinforce": (0.1, -1.0), "psr": (1.0, 0.0), "nsr": (0.0, -1.0)}[name]
        return [right if reward == 1 else wrong for reward in rewards]
    if name == "a-grae":
        batch, advantages = mean(means), []
        for a in standardised(rewards, 1e-6):
            hard = (1 - batch) * a / 2 / (1 - math.sqrt(average) + 1e-6)
            easy = batch * a / 2 / (math.sqrt(average) + 1e-6)
            advantages.append((hard + easy) * (min(1.0, batch) if a > 0 else 1.0))
        return advantages
    assert name == "hapo"
    # One cell a token.
    tokens = [reward for reward, length in zip(rewards, lengths, strict=True) for _ in range(length)]
    if not tokens:
        return standardised(rewards, 1e-6)
    average = mean(tokens)
    deviation = math.sqrt(mean((token - average) ** 2 for token in tokens)) + 1e-6
    cells = [*tokens, 0.0]  # and one of padding
    if max(abs(cell - average) / deviation for cell in cells) >= 5:
        return standardised(rewards, 1e-6)
    return [(reward - average) / deviation for reward in rewards]
