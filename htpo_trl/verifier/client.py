"""The verifier as the trainer sees it."""

import atexit
import math
import os
import re
import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple

from ..utils import check_numbers
from .exact import compare_plainly
from .extraction import extract_answer
from .forms import bare_answer, unboxed
from .golds import is_prose
from .launch import ServerError, ServerProcess
from .quantities import settle_units


# So many of the longest answers are some 20 MB on their way.
_MOST_AT_ONCE = 1024
# What the system or Python says where there is too little of something.
_SHORTAGE = re.compile("SIGKILL|memory|temporarily unavailable|Too many open files", re.IGNORECASE)


class Verdict(StrEnum):
    """What became of an answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE_ANSWER = "unparsable_answer"
    UNPARSABLE_GOLD = "unparsable_gold"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"


class Judgement(NamedTuple):
    """A verdict and the answer that it is about, `None` where the completion has none."""

    verdict: Verdict
    answer: str | None


@dataclass(frozen=True)
class VerifierConfig:
    """
    Limits of a [`Verifier`], and what it reads.

    Args:
        workers (`int`, *optional*, defaults to `8`):
            Worker processes. Answers that hang keep one busy each, so that more workers than cores are of use; idle
            ones cost some 10 MB each.
        deadline (`float`, *optional*, defaults to `5.0`):
            Seconds (wall clock) for one answer. To be raised where the cores are overloaded.
        memory_limit (`int`, *optional*, defaults to `512`):
            MiB for one answer. Enforced on Linux only.
        max_length (`int`, *optional*, defaults to `2000`):
            Characters of an answer or gold; longer ones are unparsable.
        budget (`float`, *optional*, defaults to `30.0`):
            Seconds for a batch's answers that hang. Of more answers than workers each first has a tenth of the
            deadline, or half a second where that is longer; those that take longer have the whole deadline afterwards,
            as long as this lasts (or for as long as all first tries took, where that is longer). So 256 answers that
            all hang take some 46 seconds.
        skip_reasoning (`bool`, *optional*, defaults to `True`):
            Whether only what follows a block of reasoning, such as `<think>...</think>`, can hold the answer; one that
            is not closed holds none. With `False` such blocks are read as all else.
    """

    workers: int = 8
    deadline: float = 5.0
    memory_limit: int = 512
    max_length: int = 2000
    budget: float = 30.0
    skip_reasoning: bool = True

    RANGES = {"[1, inf)": ("workers", "memory_limit", "max_length"), "(0, inf)": ("deadline", "budget")}

    def __post_init__(self) -> None:
        check_numbers(self, self.RANGES)

    def first_deadline(self, answers: int) -> float:
        """Seconds for the first try of each of so many answers."""
        return self.deadline if answers <= self.workers else min(self.deadline, max(0.5, self.deadline / 10))

    def batch_deadline(self, answers: int) -> float:
        """Seconds within which so many answers are judged, whatever they are: two tries of each and of its gold."""
        first_tries = 2 * math.ceil(answers / self.workers) * self.first_deadline(answers)
        return first_tries + max(self.budget, self.deadline, first_tries)


class Verifier(AbstractContextManager["Verifier"]):
    r"""
    Judges answers by math-verify, in processes of its own that start when they are first needed.

    For any thread, and in forked children too (they start processes of their own). The processes end with `close()`,
    at exit, and when the process that uses them is killed.

    Example:

    ```python
    >>> from htpo_trl.verifier import Verifier

    >>> with Verifier() as verifier:
    ...     judgements = verifier.judge([r"So it is \boxed{\frac{2}{4}}.", "Answer: x"], ["1/2", "1/2"])
    >>> [(str(verdict), answer) for verdict, answer in judgements]
    [('correct', '\\frac{2}{4}'), ('wrong', 'x')]
    ```
    """

    def __init__(self, config: VerifierConfig | None = None):
        self.config = config or VerifierConfig()
        self._lock = threading.Lock()
        self._server: ServerProcess | None = None
        _verifiers.add(self)

    def judge(self, completions: Sequence[str], golds: Sequence[str]) -> list[Judgement]:
        """Judges the final answer of each completion, see `extraction.extract_answer`, by its gold."""
        answers = [extract_answer(completion, self.config.skip_reasoning) for completion in completions]
        verdicts = self.judge_answers(answers, golds)
        return [Judgement(v, a and a[: self.config.max_length]) for v, a in zip(verdicts, answers, strict=True)]

    def judge_answers(self, answers: Sequence[str | None], golds: Sequence[str]) -> list[Verdict]:
        r"""
        Judges bare answers.

        Args:
            answers (sequence of `str` or `None`):
                Text or LaTeX without `\boxed{}`. `None` and empty ones are unparsable.
            golds (sequence of `str`, of the same length):
                The right answers: bare, between dollars, or in a `\boxed{}`.

        Raises:
            RuntimeError: if the process that judges ends twice, or gives no reply within the time of all deadlines.
        """
        gold_forms = {gold: self._form(unboxed(gold)) for gold in {*golds}}  # the answers of a group have one
        forms = [(gold_forms[gold], self._form(answer)) for answer, gold in zip(answers, golds, strict=True)]
        judged = {form: self._judge_plainly(*form) for form in forms}
        unknown = [*dict.fromkeys(pair for pair in judged.values() if not isinstance(pair, Verdict))]
        verdicts: dict[tuple[str, str], Verdict] = {}
        for start in range(0, len(unknown), _MOST_AT_ONCE):
            some = unknown[start : start + _MOST_AT_ONCE]
            verdicts.update(zip(some, self._ask(some), strict=True))
        found = (judged[form] for form in forms)
        return [verdict if isinstance(verdict, Verdict) else verdicts[verdict] for verdict in found]

    def decide(self, answer: str, gold: str) -> Verdict | None:
        """The verdict of `judge_answers`, where it takes no computer algebra."""
        verdict = self._judge_plainly(self._form(unboxed(gold)), self._form(answer))
        return verdict if isinstance(verdict, Verdict) else None

    def close(self) -> None:
        """Ends the processes; a later call starts new ones."""
        with self._lock:
            self._stop()

    def _form(self, answer: str | None) -> str:
        # The form may be shorter than the text, but not by much; of more its making would take the trainer's time.
        return bare_answer(answer) if answer and len(answer) <= 2 * self.config.max_length else ""

    def _judge_plainly(self, gold: str, answer: str) -> Verdict | tuple[str, str]:
        """The verdict on two forms, or the two without their units where it takes algebra to tell."""
        settled = settle_units(gold, answer)
        gold, answer = settled or (gold, answer)
        if not 0 < len(gold) <= self.config.max_length or is_prose(gold):
            return Verdict.UNPARSABLE_GOLD
        if not 0 < len(answer) <= self.config.max_length:
            return Verdict.UNPARSABLE_ANSWER
        if settled is None:
            return Verdict.WRONG
        is_gold = compare_plainly(gold, answer)
        return (gold, answer) if is_gold is None else Verdict.CORRECT if is_gold else Verdict.WRONG

    def _ask(self, pairs: list[tuple[str, str]]) -> list[Verdict]:
        first, seconds = self.config.first_deadline(len(pairs)), self.config.batch_deadline(len(pairs))
        wait = seconds + 60  # for the start, and for an overloaded machine
        with self._lock:
            # Answers do not reach the server's own process: it was killed from outside, which is forgiven once.
            for _ in range(2):
                try:
                    if self._server is None:
                        self._server = ServerProcess(asdict(self.config))
                        atexit.register(self.close)
                    return [*map(Verdict, self._server.ask([pairs, first, seconds], wait))]
                except TimeoutError:
                    self._stop()
                    raise RuntimeError(
                        f"The verifier gave no reply on {len(pairs)} answers within {wait:.0f} seconds, though it has "
                        f"{seconds:.0f} for them. The machine is overloaded, or the process was stopped: lower "
                        f"`workers` or raise `deadline` {self._mend}"
                    ) from None
                except (ServerError, OSError) as error:
                    self._stop()
                    cause = str(error)
                except BaseException:
                    self._stop()  # interrupted: the reply to come must not answer the next request
                    raise
        told = f"The verifier's process ended twice while it judged {len(pairs)} answers: {cause}."
        if _SHORTAGE.search(cause):
            told += f" Where memory, processes or files are short, lower `workers` or `memory_limit` {self._mend}"
        raise RuntimeError(told)

    @property
    def _mend(self) -> str:
        return f"by htpo_trl.verifier.configure(VerifierConfig(...)), or --verifier_...; they are {self.config}."

    def _stop(self) -> None:
        atexit.unregister(self.close)
        if self._server is not None:
            self._server.end()
            self._server = None

    def _forget(self) -> None:
        """In a forked child, where the parent's server is out of reach and another thread may have held the lock."""
        self._lock = threading.Lock()
        if self._server is not None:
            self._server.forget()
            self._server = None

    def __exit__(self, *_) -> None:
        self.close()


_verifiers: weakref.WeakSet[Verifier] = weakref.WeakSet()
_verifier = Verifier()
os.register_at_fork(after_in_child=lambda: [*map(Verifier._forget, _verifiers)])


def configure(config: VerifierConfig) -> None:
    """Sets the configuration of this process's verifier, the one that the reward functions use."""
    _verifier.close()
    _verifier.config = config


def configuration() -> VerifierConfig:
    """That of this process's verifier."""
    return _verifier.config


def judge(completions: Sequence[str], golds: Sequence[str]) -> list[Judgement]:
    """`Verifier.judge` of this process's verifier."""
    return _verifier.judge(completions, golds)
