"""`dapo_math_reward` against the scorer it restates: verl 0.7's `math_dapo.py`, on generated completions and golds.

    pip download --no-deps verl==0.7.0 && unzip -j verl-*.whl verl/utils/reward_score/math_dapo.py
    python -m benchmarks.dapo_rules math_dapo.py [--pairs 300000]

Exits with an error, and the first pair, if a score differs. Half a minute.
"""

import argparse
import importlib.util
import random

from htpo_trl.rewards import dapo_math_reward


PIECES = (
    *(
        "Answer:",
        "answer :",
        "ANSWER:",
        " ",
        "\n",
        "=",
        "$",
        "\\$",
        "\\text{",
        "\\text{and}",
        ",\\text{and}",
        "\\text{m}",
    ),
    *(
        "\\textbf{",
        "\\overline{",
        "\\boxed{",
        "}",
        "{",
        "{,}",
        "\\frac",
        "\\frac12",
        "\\frac{1}{2}",
        "sqrt",
        "\\sqrt2",
        "1",
    ),
    *("23", "1,000", "x", "an ", "a ", "square", "units", "cm", ".", "\\ ", "\\;", ",\\!", "^\\circ", "^{\\circ}"),
    *(
        "\\mathrm{th}",
        "\\dots",
        "\\ldots",
        '"',
        "mbox",
        "\\text{}^2",
        "\\text{\ns}",
        "-",
        "(",
        ")",
        "²",
        "meters",
        "é",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("math_dapo", help="verl's file")
    parser.add_argument("--pairs", type=int, default=300_000)
    arguments = parser.parse_args()
    spec = importlib.util.spec_from_file_location("math_dapo", arguments.math_dapo)
    assert spec is not None
    assert spec.loader is not None
    verl = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(verl)

    rng = random.Random(0)
    correct = 0
    for _ in range(arguments.pairs):
        gold = "".join(rng.choices(PIECES, k=rng.randrange(1, 8)))
        completion = "".join(rng.choices(PIECES, k=rng.randrange(1, 40)))
        if rng.random() < 0.5:
            answer = gold if rng.random() < 0.5 else gold.replace("$", "")
            completion = "x" * rng.randrange(400) + "Answer: " + answer + rng.choice(["", ".", "\n"])
        theirs = verl.compute_score(completion, gold)["score"]
        if [theirs] != dapo_math_reward([completion], [gold]):
            raise SystemExit(f"verl scores {theirs}: {completion!r} with the gold {gold!r}")
        correct += theirs > 0
    print(f"{arguments.pairs} pairs, {correct} of them correct, no difference")


if __name__ == "__main__":
    main()
