"""The math verifier: right verdicts, an answer that hangs ends by its deadline, and no process is left behind."""

import time
from collections.abc import Iterator

import psutil

from ..verifier import Verdict, Verifier, VerifierConfig
from .parts import Finding, Machine


# Family -> (gold, answers that are right, answers that are wrong).
_CASES: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "numbers": [
        ("42", ["42", "42.0", "+42", r"\text{42}"], ["41", "-42", "420", "4.2"]),
        ("1000", ["1,000", "1{,}000", r"1\,000", "10^3"], ["1,00", "100"]),
        ("0.5", [".5", "1/2", r"\frac12", r"50\%"], ["0.05", "5"]),
    ],
    "fractions and surds": [
        (r"\frac{3}{4}", ["0.75", r"\dfrac{6}{8}", "3/4"], [r"\frac{4}{3}", r"-\frac{3}{4}", "0.7"]),
        (r"2\sqrt{2}", [r"\sqrt{8}", r"\sqrt{2}+\sqrt{2}"], [r"\sqrt{2}", r"2\sqrt{3}", "2.8"]),
        (r"\frac{\pi}{2}", [r"\pi/2", r"\frac12\pi"], [r"\pi", r"\frac{2}{\pi}"]),
    ],
    "expressions": [
        ("x^2+2x+1", ["(x+1)^2", "1+2x+x^2"], ["x^2+1", "(x-1)^2"]),
        ("x=3", ["3", "x = 3"], ["x=-3", "4"]),
    ],
    "intervals, sets, tuples, matrices": [
        ("(1,2)", ["(1, 2)"], ["(2,1)", "[1,2]"]),
        (r"\{1,2\}", [r"\{2,1\}"], [r"\{1,3\}", r"\{1\}"]),
        (r"[0,\infty)", [r"\left[0,\infty\right)"], [r"(0,\infty)", r"[1,\infty)"]),
        (
            r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
            [r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"],
            [r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"],
        ),
    ],
    "choices and words": [("B", ["B", "(B)", r"\text{B}"], ["A", "C"]), (r"\text{even}", ["even"], ["odd"])],
}
# Each keeps a computer algebra system busy for longer than anyone would wait, or takes all memory.
_HOSTILE = [r"5^{(5^{(5^{(5^5)})}-4)}-5", "10^{10^{10}}!", "(1+x)^{100000}", r"\frac{1}{" * 400 + "2" + "}" * 400]
_DEADLINE, _SLACK = 3.0, 30.0


def find(machine: Machine) -> Iterator[Finding]:
    """Verdicts by family, then hostile answers among honest ones, then what is left of the processes."""
    with Verifier(VerifierConfig(workers=2, deadline=30.0)) as verifier:
        for family, cases in _CASES.items():
            pairs = [(gold, answer) for gold, right, wrong in cases for answer in right + wrong]
            expected = [each for _, right, wrong in cases for each in [True] * len(right) + [False] * len(wrong)]
            texts = [f"So it is $\\boxed{{{answer}}}$." for _, answer in pairs]
            judged = verifier.judge(texts, [gold for gold, _ in pairs])
            failed = [
                f"{answer} for {gold} is {judgement.verdict}"
                for (gold, answer), judgement, is_right in zip(pairs, judged, expected, strict=True)
                if judgement.verdict != (Verdict.CORRECT if is_right else Verdict.WRONG)
            ]
            found = f"{len(pairs) - len(failed)} right" + f": {'; '.join(failed)}" * bool(failed)
            yield Finding(family, f"{len(pairs)} right", found, not failed)
    yield from _hostile()


def _hostile() -> Iterator[Finding]:
    honest = r"x\cdot\gcd(6,9)"  # is not decided without computer algebra: 3x
    others = {*psutil.Process().children(recursive=True)}
    with Verifier(VerifierConfig(workers=2, deadline=_DEADLINE)) as verifier:
        verifier.judge_answers([honest], ["3x"])  # the processes are up
        started = time.perf_counter()
        verdicts = verifier.judge_answers([*_HOSTILE, honest], ["x+1"] * len(_HOSTILE) + ["3x"])
        seconds = time.perf_counter() - started
        processes = [*{*psutil.Process().children(recursive=True)} - others]
    most = verifier.config.batch_deadline(len(_HOSTILE) + 1)
    yield Finding("seconds for answers that hang", f"≤ {most:.0f}", f"{seconds:.1f}", seconds <= most)
    what, found = "verdicts on them, and on an honest one beside them", ", ".join(map(str, verdicts))
    ok = Verdict.CORRECT not in verdicts[:-1] and verdicts[-1] == Verdict.CORRECT
    yield Finding(what, "none correct, then correct", found, ok)
    _, alive = psutil.wait_procs(processes, timeout=_SLACK)
    yield Finding.none_of(f"processes left of {len(processes)}", len(alive), len(processes) > 1)
