"""How a batch's time is shared out, in virtual time: a pool whose workers take the seconds that each pair is worth."""

import heapq

import pytest

from htpo_trl.verifier import VerifierConfig, server


LIMITS = VerifierConfig(workers=8, deadline=5.0, budget=30.0)
HANGS = float("inf")


class VirtualPool:
    """`Pool.run` where comparing takes `cost[pair]` seconds, a gold alone `cost[gold]`, of a clock of its own."""

    def __init__(self, cost: dict, outcome: dict | None = None):
        self.cost, self.outcome = cost, outcome or {}
        self.now = 0.0
        self.tries: list[tuple[str, str]] = []

    def run(self, pairs, seconds, width, until):
        free, outcomes, end = [self.now] * (width or LIMITS.workers), [], self.now
        for pair in pairs:
            start = heapq.heappop(free)
            if start >= until:
                outcomes.append("untried")
                heapq.heappush(free, start)
                continue
            self.tries.append(pair)
            cost = self.cost.get(pair, self.cost.get(pair[0], 0.02))
            ends = min(start + min(cost, seconds), until)
            told = self.outcome.get(pair, self.outcome.get(pair[0], "correct"))
            told = told.pop(0) if isinstance(told, list) else told
            outcomes.append(told if start + cost <= ends else "timed_out" if ends < until else "untried")
            heapq.heappush(free, ends)
            end = max(end, ends)
        self.now = end
        return outcomes


@pytest.fixture
def judged(monkeypatch):
    """The verdicts on pairs, and the virtual seconds that they took, of the same server batch after batch."""

    def judge(pool: VirtualPool, pairs: list[tuple[str, str]], one=None):
        monkeypatch.setattr(server.time, "monotonic", lambda: pool.now)
        one = one or server.Server(pool, LIMITS.deadline, LIMITS.budget)
        start = pool.now
        first, seconds = LIMITS.first_deadline(len(pairs)), LIMITS.batch_deadline(len(pairs))
        verdicts = dict(zip(pairs, one.judge(pairs, first, seconds), strict=True))
        assert pool.now - start <= seconds + 1e-6
        return verdicts, pool.now - start

    return judge


def test_256_answers_that_hang_take_the_stated_time(judged):
    """32 rounds of half a second, the gold's half second at most, and the budget."""
    pairs = [("x", f"h{i}") for i in range(256)]
    verdicts, seconds = judged(VirtualPool(dict.fromkeys(pairs, HANGS)), pairs)
    assert set(verdicts.values()) == {"timed_out"}
    assert 16 + 30 <= seconds <= 16 + 30 + 0.5


def test_quick_answers_are_judged_behind_any_number_of_hanging_ones(judged):
    hanging = [("x", f"h{i}") for i in range(5000)]
    good = [("x", f"g{i}") for i in range(64)]
    verdicts, _ = judged(VirtualPool(dict.fromkeys(hanging, HANGS)), [*hanging, *good])
    assert {verdicts[pair] for pair in good} == {"correct"}


def test_slow_answers_are_judged_beside_some_hanging_ones(judged):
    """Within the deadline, but not at the first try: 24 that hang leave time for them."""
    hanging = [("x", f"h{i}") for i in range(24)]
    slow = [("x", f"s{i}") for i in range(8)]
    verdicts, _ = judged(VirtualPool(dict.fromkeys(hanging, HANGS) | dict.fromkeys(slow, 3.0)), [*hanging, *slow])
    assert {verdicts[pair] for pair in slow} == {"correct"}


def test_a_few_answers_have_the_whole_deadline_at_once(judged):
    """There is nobody to make way for."""
    pool = VirtualPool({("x", "h"): HANGS, ("x", "s"): 4.9})
    verdicts, seconds = judged(pool, [("x", "h"), ("x", "s")])
    assert verdicts == {("x", "h"): "timed_out", ("x", "s"): "correct"}
    assert pool.tries.count(("x", "h")) == 1
    assert seconds == 5.0


def test_256_golds_that_hang_are_told_beside_good_ones_and_remembered(judged):
    bad = [(f"b{i}", "7") for i in range(256)]
    good = [(f"g{i}", "7") for i in range(256)]
    pool = VirtualPool({f"b{i}": HANGS for i in range(256)})
    one = server.Server(pool, LIMITS.deadline, LIMITS.budget)
    verdicts, seconds = judged(pool, [*bad, *good], one)
    assert {verdicts[pair] for pair in bad} == {"unparsable_gold"}
    assert {verdicts[pair] for pair in good} == {"correct"}
    assert seconds <= LIMITS.batch_deadline(512)
    # Those that had the whole deadline alone are not tried again; the answers are, shortly.
    told = [gold for gold, is_sound in one._is_sound.items() if not is_sound]
    pool.tries = []
    judged(pool, bad, one)
    assert not {(gold, "0") for gold in told} & {*pool.tries}
    assert len(told) >= 30 / 5 * LIMITS.workers - 8


def test_a_slow_gold_is_no_bad_one(judged):
    """It takes seconds with every answer, so that all of them are tried again."""
    pairs = [("slow", f"{i}") for i in range(16)]
    verdicts, _ = judged(VirtualPool({"slow": 2.0}), pairs)
    assert set(verdicts.values()) == {"correct"}


def test_a_gold_that_has_been_compared_is_not_tried(judged):
    pool = VirtualPool({("x", "h"): HANGS})
    judged(pool, [("x", "h"), ("x", "3")])
    assert ("x", "0") not in pool.tries


def test_what_dies_is_asked_once_more_alone(judged):
    once, twice = ("x", "once"), ("x", "twice")
    pool = VirtualPool({}, {once: ["died", "wrong"], twice: ["died", "died"]})
    verdicts, _ = judged(pool, [once, twice, ("x", "g")])
    assert verdicts == {once: "wrong", twice: "crashed", ("x", "g"): "correct"}
    assert (pool.tries.count(once), pool.tries.count(twice)) == (2, 2)


def test_what_takes_all_memory_is_tried_once(judged):
    big = ("x", "big")
    pool = VirtualPool({}, {big: "crashed", "huge": "crashed"})
    verdicts, _ = judged(pool, [big, ("x", "g"), ("huge", "1"), ("huge", "2")])
    assert pool.tries.count(big) == 1
    assert verdicts == {big: "crashed", ("x", "g"): "correct"} | {("huge", a): "unparsable_gold" for a in "12"}


def test_the_time_of_a_large_batch_grows_with_it(judged):
    """An evaluation's: where 80 of 20,000 answers are slow, those are judged too."""
    slow = {("x", f"s{i}"): 4.0 for i in range(80)}
    verdicts, _ = judged(VirtualPool(slow), [*slow, *(("x", f"g{i}") for i in range(19_920))])
    assert set(verdicts.values()) == {"correct"}
