"""The golds of real benchmarks, whose files are not part of the project. Shared by the tests and benchmarks/."""

import re
from pathlib import Path

from htpo_trl.data import load


DATA = Path(__file__).parents[2] / "shared" / "data"
FILES = {
    **{"aime24": "aime24", "aime25": "aime25", "math500": "math500", "minerva": "minerva_math"},
    **{"olympiadbench": "olympiadbench", "gsm8k": "gsm8k_test"},
}
# How a completion may give an answer.
WRAPPINGS = (
    *("The answer is $\\boxed{%s}$.", "So\n\\[\n\\boxed{%s}\n\\]", "Thus.\nAnswer: %s", "Answer: $%s$"),
    *("**Answer:** $%s$.", "**Answer**: \\(%s\\)\n"),
)


def golds_of(name: str, data: Path = DATA) -> list[str]:
    """The solutions of a benchmark."""
    return load(name, path=data / f"{FILES[name]}.jsonl")["solution"][:]


def perturbed(gold: str) -> str:
    """The gold with its first digit changed; doubled if it has none."""
    digit = re.search(r"\d", gold)
    return f"2({gold})" if digit is None else gold[: digit.start()] + str(int(digit[0]) % 9 + 1) + gold[digit.end() :]
