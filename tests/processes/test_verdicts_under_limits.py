"""Verdicts where a limit is met, or nearly: which limits hold, whose fault it is, and how long a reply is awaited."""

from collections.abc import Iterator
from itertools import count

import pytest

from htpo_trl.verifier import Verdict, Verifier, VerifierConfig, configure, judge
from htpo_trl.verifier.launch import ServerProcess

from ..child_processes import cpu_seconds
from ..hostile import FOR_WORKERS, hanging_answers


BIG = "2^{10^{12}}"  # takes all memory, and seconds where there is much
# The deadline is long: what is judged within it has met the other limit.
TIGHT = VerifierConfig(workers=1, deadline=60.0, memory_limit=16)


@pytest.fixture(scope="module")
def tight() -> Iterator[None]:
    """The verifier of this process has little memory."""
    configure(TIGHT)
    yield
    configure(VerifierConfig())


@pytest.fixture(scope="module")
def quick() -> Iterator[Verifier]:
    """A verifier that is up, with one worker and a second for each answer."""
    with Verifier(VerifierConfig(workers=1, deadline=1.0)) as verifier:
        verifier.judge_answers(["x"], [FOR_WORKERS])
        yield verifier


def verdict(answer: str, gold: str) -> Verdict:
    """By the verifier of this process."""
    return judge([f"\\boxed{{{answer}}}"], [gold])[0].verdict


def test_the_gold_comes_first(quick):
    """math-verify takes the right side of an equation for the expression that it is asked for, and not the reverse."""
    expression, equation = FOR_WORKERS, "y+1=3x"
    verdicts = quick.judge_answers([equation, expression], [expression, equation])
    assert verdicts == [Verdict.CORRECT, Verdict.WRONG]


def test_a_gold_that_crashes_is_not_the_answers_fault(tight):
    assert verdict("3x", BIG) is Verdict.UNPARSABLE_GOLD
    assert verdict(BIG, "3x") is Verdict.CRASHED


@pytest.mark.parametrize(
    "text",
    [
        r"2^{3 \cdot 10^8}",  # one allocation is refused, when little is used
        "-" * 300 + FOR_WORKERS,
    ],
    ids=["memory", "stack"],
)
def test_a_shortage_is_not_taken_for_a_wrong_answer(text):
    """math-verify catches the error and says "no match", of an answer and of a gold."""
    with Verifier(VerifierConfig(workers=1, deadline=60.0, memory_limit=64)) as verifier:
        golds = [FOR_WORKERS, FOR_WORKERS]
        assert verifier.judge_answers([text, "3x"], golds) == [Verdict.CRASHED, Verdict.CORRECT]
        assert verifier.judge_answers(["5x", "3x"], [text, FOR_WORKERS]) == [Verdict.UNPARSABLE_GOLD, Verdict.CORRECT]


def test_an_answer_has_its_seconds_however_long_its_worker_has_been_at_work(quick):
    start, numbers, verdicts = cpu_seconds(), count(2), []
    while cpu_seconds() - start < 2.5:  # the kernel's limit is in whole seconds: two, for a deadline of one
        n = next(numbers)
        verdicts += quick.judge_answers([f"{n}x"], [FOR_WORKERS])
    assert Verdict.CRASHED not in verdicts


def test_a_reply_is_awaited_for_as_long_as_the_whole_batch_may_take(tight, monkeypatch):
    """
    With one worker, one answer after the other: each has a tenth of the deadline, so may its gold, and then one of
    them the whole. Its process takes no longer than it is told, and its start is allowed for.
    """
    asked: list[tuple[float, float]] = []
    ask = ServerProcess.ask
    monkeypatch.setattr(ServerProcess, "ask", lambda self, r, s: asked.append((r[2], s)) or ask(self, r, s))
    assert judge([rf"\boxed{{{n}x}}" for n in range(3, 6)], [rf"x\cdot\gcd({n},{2 * n})" for n in range(3, 6)])
    ((allowed, awaited),) = asked
    assert allowed >= (3 + 3) * TIGHT.deadline / 10 + TIGHT.deadline
    assert awaited >= allowed + 30


def test_a_reply_that_does_not_come_is_awaited_once(tight, monkeypatch):
    """A worker is busy for as long as the deadline lets it; here that is over at once."""
    awaited: list[float] = []
    ask = ServerProcess.ask
    with monkeypatch.context() as patch:
        patch.setattr(ServerProcess, "ask", lambda self, r, seconds: awaited.append(seconds) or ask(self, r, 0.1))
        with pytest.raises(RuntimeError) as failure:
            judge([*hanging_answers(1), r"\boxed{3x}"], ["5", FOR_WORKERS])
    assert len(awaited) == 1
    message = str(failure.value)
    assert f"no reply on 2 answers within {awaited[0]:.0f} seconds" in message
    assert "raise `deadline`" in message
    assert "ended" not in message
    assert verdict("3x", FOR_WORKERS) is Verdict.CORRECT


def test_new_limits_hold_from_the_next_answer_on(tight):
    assert verdict(BIG, "5") is Verdict.CRASHED
    try:
        configure(VerifierConfig(workers=1, deadline=0.5))
        assert verdict(BIG, "5") is Verdict.TIMED_OUT
    finally:
        configure(TIGHT)
