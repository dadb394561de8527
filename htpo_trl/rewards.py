"""Verifiable math rewards with TRL's signature. Module-level functions: picklable, and for any thread. Add yours like
them, here (its short name: `scripts/reward_names.py`) or in a module of yours (`--reward_funcs module.function`).

`HTPOConfig(correctness_reward="math_reward")` names the one that judges correctness, a list of names one for
each of several tasks; the first one does by default.
DAPO's length penalty is TRL's own: `get_soft_overlong_punishment(max_completion_len=20480, soft_punish_cache=4096)`.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from trl.rewards import get_soft_overlong_punishment

from .verifier import Judgement, Verdict, judge
from .verifier.golds import gold_texts, is_missing


__all__ = [
    "dapo_math_reward",
    "get_soft_overlong_punishment",
    "last_number_reward",
    "math_reward",
    "signed_math_reward",
]

TextOrMessages = str | list[dict[str, Any]]
Gold = str | int | float | None


def math_reward(
    completions: Sequence[TextOrMessages],
    solution: Sequence[Gold],
    log_extra: Callable[[str, list], None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs,
) -> list[float | None]:
    r"""
    Reward 1.0 for completions whose final answer is mathematically equal to the gold, else 0.0. The final answer is
    the last `\boxed{}` or `Answer:` line; see [`~htpo_trl.verifier.Verifier`] for the limits in time and memory.

    Args:
        completions (list of `str`, or of lists of messages):
            Plain or conversational; of a conversation the last message counts.
        solution (list of `str` or numbers):
            Golds: bare answers, between dollars, or in a `\boxed{}`. The reward is `None` where the gold cannot be
            parsed, so that the row carries no signal.
        log_extra, log_metric (`Callable`, *optional*):
            Given by the trainer. The completions table gets `math_reward/answer` and `math_reward/verdict`; metrics
            `math_reward/<verdict>` are the shares of `correct`, `wrong`, `unparsable_answer`, `unparsable_gold`,
            `timed_out` and `crashed` among the rows that have a gold. The last two count as wrong.

    Example:

    ```python
    >>> from htpo_trl.rewards import math_reward

    >>> math_reward([r"It is \boxed{\frac{2}{4}}.", "Answer: 0.3", "I do not know."], ["0.5", "1/2", "1/2"])
    [1.0, 0.0, 0.0]
    ```
    """
    judgements = judge([_text(completion) for completion in completions], gold_texts(solution))
    return _rewards("math_reward", judgements, 0.0, solution, log_extra, log_metric)


def signed_math_reward(completions, solution, **kwargs) -> list[float | None]:
    """[`math_reward`] with -1.0 instead of 0.0, for use beside penalties as in DAPO."""
    rewards = math_reward(completions, solution, **kwargs)
    return [None if reward is None else 2.0 * reward - 1.0 for reward in rewards]


def dapo_math_reward(completions: Sequence[TextOrMessages], solution: Sequence[Gold], **kwargs) -> list[float | None]:
    r"""
    Reward 1.0 or -1.0 by the rules that DAPO (arXiv 2503.14476) and HTPO were trained with (verl 0.7, `math_dapo`):
    the last `Answer:` line within the last 300 characters, normalised as in Minerva (arXiv 2206.14858), must be the
    normalised gold, character for character. No computer algebra: `1/2` is not `0.5`.

    Arguments as for [`math_reward`]; an empty gold counts as one that cannot be parsed.

    Example:

    ```python
    >>> from htpo_trl.rewards import dapo_math_reward

    >>> dapo_math_reward([r"Answer: $\frac12$", "Answer: 0.5", r"\boxed{34}"], [r"\frac{1}{2}", "1/2", 34])
    [1.0, -1.0, -1.0]
    ```
    """
    # A text is compared as it stands, too: these rules are about characters. A group has one gold.
    as_they_stand = [gold if isinstance(gold, str) else "" for gold in solution]
    texts = [*zip(gold_texts(solution), as_they_stand, strict=True)]
    normalised = {pair: {_normalise(text) for text in pair if text} for pair in {*texts}}
    pairs = zip(completions, texts, strict=True)
    judgements = [_judge_by_dapo(_text(completion), normalised[pair]) for completion, pair in pairs]
    return _rewards("dapo_math_reward", judgements, -1.0, solution, **kwargs)


def last_number_reward(completions: Sequence[TextOrMessages], solution: Sequence[Gold], **kwargs) -> list[float]:
    """
    Reward 1.0 where the last number of a completion is the gold, compared as text, else 0.0. For arithmetic with
    models that are too small to keep to a format: it also accepts a number that the completion only mentions last.
    """
    number = r"-?[0-9]+(?:\.[0-9]+)?"  # with sign and decimals: neither 7.5 nor -5 is 5
    numbers = [re.findall(number, _text(completion)) for completion in completions]
    return [float(found[-1:] == [gold]) for found, gold in zip(numbers, gold_texts(solution), strict=True)]


def _text(completion: TextOrMessages) -> str:
    """The text of a completion; of a conversation, of its last message."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else None
    if isinstance(content, list):  # a message in parts
        return "".join(part.get("text") or "" for part in content)
    return content or ""


def _rewards(
    name: str,
    judgements: list[Judgement],
    wrong: float,
    solution: Sequence[Gold],
    log_extra=None,
    log_metric=None,
    **_,
) -> list[float | None]:
    """1.0 for the right answer, `wrong` for others, None where the gold is unparsable; logged under the name."""
    verdicts = [verdict for verdict, _ in judgements]
    if log_extra is not None:
        log_extra(f"{name}/answer", [answer or "" for _, answer in judgements])
        log_extra(f"{name}/verdict", [str(verdict) for verdict in verdicts])
    of_this_task = [verdict for verdict, gold in zip(verdicts, solution, strict=True) if not is_missing(gold)]
    if log_metric is not None and of_this_task:
        for verdict in Verdict:
            log_metric(f"{name}/{verdict}", of_this_task.count(verdict) / len(of_this_task))
    rewards = {Verdict.CORRECT: 1.0, Verdict.UNPARSABLE_GOLD: None}
    return [rewards.get(verdict, wrong) for verdict in verdicts]


# --- DAPO's rules. Order matters throughout.

_ANSWER = re.compile(r"Answer\s*:\s*([^\n]+)", re.IGNORECASE)
_REPLACED = (
    *(("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text")),
    *((",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}")),
)
_REMOVED = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "hours", "km", "units", "\\ldots", "sue", "points"),
    *("feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students"),
    *("childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3"),
    *("\\text{\n}", "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots"),
)
# verl's patterns, such as `(.*?)(\$)(.*?)(\$)(.*)` and `\\text\{(.*?)\}`, try every place of a line that lacks their
# end, in quadratic time. So the first starts with a line here, and the others see a line up to its last `}` only.
_FORMULA = re.compile(r"^[^\n$]*\$([^\n$]*)\$.*", re.MULTILINE)
_UP_TO_BRACE = re.compile(r"^.*\}", re.MULTILINE)
_UNWRAPPED = [
    re.compile(pattern)
    for pattern in (r"\\text\{(.*?)\}", r"\\textbf\{(.*?)\}", r"\\overline\{(.*?)\}", r"\\boxed\{(.*)\}")
]


def _judge_by_dapo(completion: str, golds: set[str]) -> Judgement:
    """By normalised golds, none of which is left where there is none."""
    if not golds:
        return Judgement(Verdict.UNPARSABLE_GOLD, None)
    if not (answers := _ANSWER.findall(completion[-300:])):
        return Judgement(Verdict.UNPARSABLE_ANSWER, None)
    is_gold = _normalise(answers[-1]) in golds
    return Judgement(Verdict.CORRECT if is_gold else Verdict.WRONG, answers[-1])


def _normalise(answer: str) -> str:
    answer = answer.rpartition("=")[2]
    for old, new in _REPLACED:
        answer = answer.replace(old, new)
    for text in _REMOVED:
        answer = answer.replace(text, "")
    answer = _FORMULA.sub(r"$\1$", answer)
    for wrapping in _UNWRAPPED:
        answer = _UP_TO_BRACE.sub(partial(_unwrap, wrapping), answer)
    answer = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", answer)
    answer = re.sub(r"sqrt([^{])", r"sqrt{\1}", answer).replace("$", "")
    digits = answer.replace(",", "")
    return digits if digits.isdigit() else answer.strip()


def _unwrap(wrapping: re.Pattern[str], line: re.Match[str]) -> str:
    return wrapping.sub(r"\1", line[0])
