"""The verifier as the trainer sees it."""

import atexit
import json
import math
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple

from ..utils import check_numbers
from .exact import compare_plainly
from .extraction import extract_answer
from .forms import bare_answer, bare_gold, is_prose, settle_units


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
    Limits of a [`Verifier`].

    Args:
        workers (`int`, *optional*, defaults to `8`):
            Worker processes. A batch takes about `deadline * hostile answers / workers` seconds, so that more workers
            than cores are of use; idle ones cost some 10 MB each.
        deadline (`float`, *optional*, defaults to `5.0`):
            Seconds (wall clock) for one answer. To be raised where the cores are overloaded.
        memory_limit (`int`, *optional*, defaults to `512`):
            MiB for one answer. Enforced on Linux only.
        max_length (`int`, *optional*, defaults to `2000`):
            Characters of an answer or gold; longer ones are unparsable.
    """

    workers: int = 8
    deadline: float = 5.0
    memory_limit: int = 512
    max_length: int = 2000

    RANGES = {"[1, inf)": ("workers", "memory_limit", "max_length"), "(0, inf)": ("deadline",)}

    def __post_init__(self) -> None:
        check_numbers(self, self.RANGES)


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
        self._server: subprocess.Popen | None = None
        self._pipe: Connection
        _verifiers.add(self)

    def judge(self, completions: Sequence[str], golds: Sequence[str]) -> list[Judgement]:
        """Judges the final answer of each completion, see `extraction.extract_answer`, by its gold."""
        answers = [extract_answer(completion) for completion in completions]
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
        forms = [(bare_gold(gold), bare_answer(answer or "")) for answer, gold in zip(answers, golds, strict=True)]
        pairs = [settle_units(*form) or form for form in forms]
        known = {pair: self._judge_plainly(*pair) for pair in pairs}
        verdicts = {pair: verdict for pair, verdict in known.items() if verdict is not None}
        unknown = [pair for pair in known if pair not in verdicts]
        verdicts.update(zip(unknown, self._ask(unknown), strict=True))
        return [verdicts[pair] for pair in pairs]

    def close(self) -> None:
        """Ends the processes; a later call starts new ones."""
        with self._lock:
            self._stop()

    def _judge_plainly(self, gold: str, answer: str) -> Verdict | None:
        if not 0 < len(gold) <= self.config.max_length or is_prose(gold):
            return Verdict.UNPARSABLE_GOLD
        if not 0 < len(answer) <= self.config.max_length:
            return Verdict.UNPARSABLE_ANSWER
        is_gold = compare_plainly(gold, answer)
        return None if is_gold is None else Verdict.CORRECT if is_gold else Verdict.WRONG

    def _ask(self, pairs: list[tuple[str, str]]) -> list[Verdict]:
        if not pairs:
            return []
        with self._lock:
            # Answers do not reach the server's own process: it was killed from outside, which is forgiven once.
            for _ in range(2):
                try:
                    if self._server is None:
                        self._start()
                    return self._request(pairs)
                except BaseException as error:
                    self._stop()  # also when interrupted: the reply to come must not answer the next request
                    if not isinstance(error, EOFError | OSError):
                        raise
                    failure = error
            raise RuntimeError(
                f"The verifier's process ended twice while it judged {len(pairs)} answers; see above for its "
                "error, if any. Where memory is short, lower `workers` or `memory_limit` by "
                f"htpo_trl.verifier.configure(VerifierConfig(...)); they are {self.config}."
            ) from failure

    def _start(self) -> None:
        self._pipe, far_end = Pipe()
        # -P: a file in the working directory that is named like a library must not be imported. A session of its own:
        # Ctrl-C is for the trainer, which then closes the server.
        command = f"from {__package__}.server import main; main()"
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-c", command, json.dumps(asdict(self.config))],
            stdin=far_end.fileno(),
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        far_end.close()
        atexit.register(self.close)

    def _request(self, pairs: list[tuple[str, str]]) -> list[Verdict]:
        self._pipe.send_bytes(json.dumps(pairs).encode())
        # Every answer and every gold may take its deadline; a minute for the start, and for an overloaded machine.
        rounds = math.ceil(len(pairs) / self.config.workers)
        seconds = 60 + 2 * rounds * (self.config.deadline + 1)
        if not self._pipe.poll(seconds):
            # No TimeoutError: that is an OSError, by which the pipe tells that the process has ended.
            raise RuntimeError(
                f"The verifier gave no reply on {len(pairs)} answers within {seconds:.0f} seconds, though each ends "
                "at its deadline. The machine is overloaded, or the process was stopped: lower `workers` or raise "
                f"`deadline` by htpo_trl.verifier.configure(VerifierConfig(...)); they are {self.config}."
            )
        return [Verdict(verdict) for verdict in json.loads(self._pipe.recv_bytes())]

    def _stop(self) -> None:
        atexit.unregister(self.close)
        if self._server is None:
            return
        self._pipe.close()
        try:
            self._server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def _forget(self) -> None:
        """In a forked child, where the parent's server is out of reach and another thread may have held the lock."""
        self._lock = threading.Lock()
        if self._server is not None:
            self._pipe.close()
            self._server.returncode = 0  # not a child of this process: nothing to wait for
            self._server = None

    def __exit__(self, *_) -> None:
        self.close()


_verifiers: weakref.WeakSet[Verifier] = weakref.WeakSet()
_verifier = Verifier()
os.register_at_fork(after_in_child=lambda: [*map(Verifier._forget, _verifiers)])


def configure(config: VerifierConfig) -> None:
    """Sets the limits of this process's verifier, the one that the reward functions use."""
    _verifier.close()
    _verifier.config = config


def judge(completions: Sequence[str], golds: Sequence[str]) -> list[Judgement]:
    """`Verifier.judge` of this process's verifier."""
    return _verifier.judge(completions, golds)
