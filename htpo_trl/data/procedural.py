"""Problems that reasoning-gym generates (extra `procedural`). Its scorers are never called, see `docs/data.md`."""

import random
from collections.abc import Iterator
from typing import Any

from .files import Row


#: The tasks whose answer is one number and which were recomputed here without a difference. Answers of others can be
#: judged by the package's own scorers only, several of which evaluate the model's text (`eval`, `sympy.parse_expr`);
#: some are wrong (`basic_arithmetic` divides by flooring).
PROCEDURAL_TASKS = (
    *("binary_alternation", "chain_sum", "count_bits", "count_primes", "decimal_chain_sum", "dice", "gcd"),
    *("largest_island", "lcm", "letter_counting", "maze", "products", "rotten_oranges", "self_reference"),
    "simple_equations",
)


def generate(task: str, size: int = 1000, seed: int = 0, **options: Any) -> Iterator[Row]:
    """
    Rows with the problems of a task (`problem`) and their answers (`solution`), the same at every call.

    Two seeds give different problems, but small tasks repeat some: hold out by [`~htpo_trl.data.split`]. Further
    options are the task's, such as `max_terms=3` of `chain_sum`.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise ImportError(f"{task} needs reasoning-gym: pip install 'htpo_trl[procedural]'.") from error
    # reasoning-gym seeds problem i with seed + i: sets of neighbouring seeds would be the same but for a shift by one.
    start = random.Random(seed).getrandbits(32)
    for number, entry in enumerate(reasoning_gym.create_dataset(task, size=size, seed=start, **options), 1):
        yield f"{task}, problem {number}", {"problem": entry["question"], "solution": entry["answer"]}
