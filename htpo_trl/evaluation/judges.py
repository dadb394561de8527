"""Who judges the samples of an evaluation: the math verifier, or a reward function."""

import asyncio
import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .. import verifier
from ..utils import UsageError
from ..verifier.golds import gold_texts


Judge = Callable[..., Sequence[Any]]

#: Rewards of `htpo_trl.rewards` for math answers; the verifier judges in their place, since it tells answers too.
MATH_REWARDS = ("math_reward", "signed_math_reward", "dapo_math_reward")
# What a judge is called with, beside the columns of the benchmark. Of what TRL gives a reward function the rest is of
# training alone.
_GIVEN = {"prompts", "completions", "trainer_state", "log_extra", "log_metric"}


def judge_of_run(functions: Sequence[Any], threshold: float = 0.5) -> Judge | None:
    """
    The judge that a run's own correctness rewards are: of several, the first that does not return `None`; correct
    above the threshold. `None`, the verifier, where all of them are among [`MATH_REWARDS`].
    """
    for function in functions:
        if not callable(function) or hasattr(function, "forward"):
            raise UsageError(
                f"The benchmarks cannot be judged by the reward model `{type(function).__name__}`. Name a reward "
                "function as eval_judge (in Python: EvaluationCallback(judge=...)), or as correctness_reward."
            )
    if all(f.__module__ == "htpo_trl.rewards" and f.__name__ in MATH_REWARDS for f in functions):
        return None

    def judge(prompts: Sequence[Any], **columns: Any) -> list[float | None]:
        verdicts: list[float | None] = [None] * len(prompts)
        for function in functions:
            if _needed(function) - {"prompt", *columns}:  # of a task that the benchmark is not of
                continue
            rewards = _called(function, prompts=prompts, **columns)
            verdicts = [
                verdict if verdict is not None or _is_none(reward) else float(reward > threshold)
                for verdict, reward in zip(verdicts, rewards, strict=True)
            ]
        return verdicts

    judge.__name__ = "+".join(map(name_of, functions))
    judge.parts = functions  # type: ignore[attr-defined]
    return judge


def name_of(judge: Any) -> str:
    """What a judge is called in the settings of an evaluation and in a plan."""
    return getattr(judge, "__name__", type(judge).__name__) if judge else "verifier"


def digest_of(judge: Any) -> str | None:
    """Of a judge's source, where it can be read: a judge that was changed is another one."""
    try:
        sources = [inspect.getsource(part) for part in getattr(judge, "parts", [judge])]
    except (OSError, TypeError):
        return None
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16]


def _needed(function: Any) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty and not p.kind.name.startswith("VAR_")}
    return {"prompt"} | required - _GIVEN


def check_columns(judge: Judge | None, columns: Iterable[str], benchmark: str) -> None:
    """Refuse a benchmark that lacks a column which its judge needs, or, of several rewards, each of them."""
    columns = [*columns]
    if judge and (taken := {"prompts", "completions"} & {*columns}):
        raise UsageError(f"{benchmark!r}: the column {min(taken)!r} has the name of what a judge is given. Rename it.")
    parts = [_needed(part) for part in getattr(judge, "parts", [judge])] if judge else [{"prompt", "solution"}]
    if missing := min((needed - {*columns} for needed in parts), key=len):
        raise UsageError(
            f"{benchmark!r} has no column {min(missing)!r}, only {', '.join(columns)}; its judge, {name_of(judge)}, "
            "needs it. Add it, or name another judge."
        )


def judge_samples(judge: Judge | None, rows: Sequence[Mapping[str, Any]], texts: list[str]) -> list[dict[str, Any]]:
    """`verdict`, and `answer` where the judge tells it, of a completion of each row."""
    if judge is None:
        judgements: Sequence[Any] = verifier.judge(texts, gold_texts([row["solution"] for row in rows]))
    else:
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
        completions = [
            text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
            for row, text in zip(rows, texts, strict=True)
        ]
        judgements = _called(judge, prompts=[row["prompt"] for row in rows], completions=completions, **columns)
    return [
        {"verdict": str(judgement.verdict), "answer": judgement.answer}
        if hasattr(judgement, "verdict")
        else {"verdict": "unparsable_gold" if _is_none(judgement) else "correct" if judgement > 0.5 else "wrong"}
        for judgement in judgements
    ]


def _is_none(reward: Any) -> bool:
    return reward is None or reward != reward  # NaN, as which TRL gathers a None


def _called(judge: Judge, **columns: Any) -> Sequence[Any]:
    """What a judge returns; one may be asynchronous, and have arguments that only training could fill."""
    logs = {name: lambda *_: None for name in ("log_extra", "log_metric")}
    takes = inspect.signature(judge).parameters
    extra = {name: value for name, value in ({"trainer_state": None} | logs).items() if name in takes}
    found = judge(**columns, **extra)
    if inspect.isawaitable(found):
        with ThreadPoolExecutor(1) as thread:  # a notebook has a loop of its own in this one
            return thread.submit(lambda: asyncio.run(_awaited(found))).result()
    return found


async def _awaited(found: Any) -> Any:
    return await found
