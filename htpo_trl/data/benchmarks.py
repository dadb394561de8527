"""Where data sets are on the Hub, and how the problem and the bare answer are read from their columns."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ..verifier.extraction import last_boxed
from ..verifier.golds import gold_text
from .prompts import TEMPLATES


def as_text(value: Any) -> str:
    """Text that is there; a `ValueError` says what is there instead."""
    if not isinstance(value, str):
        raise ValueError(f"is {value!r:.60} where text is expected")
    if not value.strip():
        raise ValueError("is empty")
    return value.strip()


def as_answer(value: Any) -> str:
    """[`~htpo_trl.verifier.golds.gold_text`] of a gold that is there; a `ValueError` says what is there instead."""
    if text := gold_text(value):
        return text
    is_blank = isinstance(value, str | list) and all(each in ("", "$", ".") or str(each).isspace() for each in value)
    raise ValueError("is empty" if is_blank else f"is {value!r:.60} where text is expected")


def _integer(value: Any) -> str:
    """AIME pads its answers: 025."""
    if not re.fullmatch(r"[0-9]{1,3}", answer := as_answer(value)):
        raise ValueError(f"is {value!r:.60} where an integer from 0 to 999 is expected")
    return str(int(answer))


def _after_hashes(value: Any) -> str:
    """GSM8K ends its worked solutions in `#### 1,234`."""
    _, mark, answer = as_text(value).rpartition("####")
    if not mark:
        raise ValueError("has no '####' before the answer")
    return as_answer(answer.replace(",", ""))


def _minerva(value: Any) -> str:
    """Minerva boxes its answers, some of them in Python's notation: `np.arcsin(10/13)`, `-1./3`."""
    if (answer := last_boxed(as_text(value))) is None:
        raise ValueError("has no \\boxed{...}, or one that is never closed")
    return re.sub(r"(\d)\./", r"\1/", as_answer(answer).replace("np.", "\\"))


def _unframe(value: Any) -> str:
    """The problem of a DAPO prompt, one message in which DAPO's instruction surrounds it."""
    before, after = TEMPLATES["answer"].split("{problem}")
    match value:
        case [{"content": str(text)}] if text.strip().startswith(before) and text.strip().endswith(after):
            return as_text(text.strip()[len(before) : -len(after)])
    raise ValueError(f"is {value!r:.200} where one message is expected, with DAPO's instruction around the problem")


def _ground_truth(value: Any) -> str:
    return as_answer(value.get("ground_truth") if isinstance(value, dict) else value)


class Benchmark(NamedTuple):
    """Where a data set is on the Hub, the two columns that are read, and how."""

    hub_id: str
    config: str | None
    split: str
    problem: str
    solution: str
    read_problem: Callable[[Any], str] = as_text
    read_solution: Callable[[Any], str] = as_answer


#: Name -> where the set is, and how it is read.
BENCHMARKS = {
    "dapo-math-17k": Benchmark(
        "BytedTsinghua-SIA/DAPO-Math-17k", None, "train", "prompt", "reward_model", _unframe, _ground_truth
    ),
    "dapo-math-17k-processed": Benchmark("open-r1/DAPO-Math-17k-Processed", "all", "train", "prompt", "solution"),
    "dapo-math-17k-english": Benchmark("open-r1/DAPO-Math-17k-Processed", "en", "train", "prompt", "solution"),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", None, "train", "problem", "answer", read_solution=_integer),
    "aime25": Benchmark("math-ai/aime25", None, "test", "problem", "answer", read_solution=_integer),
    "amc23": Benchmark("math-ai/amc23", None, "test", "question", "answer"),
    "math500": Benchmark("HuggingFaceH4/MATH-500", None, "test", "problem", "answer"),
    "minerva": Benchmark("svc-huggingface/minerva-math", None, "test", "problem", "solution", read_solution=_minerva),
    "olympiadbench": Benchmark("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", "question", "final_answer"),
    "gsm8k": Benchmark("openai/gsm8k", "main", "test", "question", "answer", read_solution=_after_hashes),
    "gsm8k-train": Benchmark("openai/gsm8k", "main", "train", "question", "answer", read_solution=_after_hashes),
}
