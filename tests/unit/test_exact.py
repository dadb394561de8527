"""What is decided without algebra: by the kind of answers, exact arithmetic and, that values differ, by numbers."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htpo_trl.verifier.exact import compare_plainly
from htpo_trl.verifier.extraction import extract_answer
from htpo_trl.verifier.forms import bare_answer, bare_gold
from htpo_trl.verifier.functions import is_product
from htpo_trl.verifier.measures import measure, numbers_agree
from htpo_trl.verifier.reading import read, read_gold
from htpo_trl.verifier.values import UndecidedError

from ..hostile import hostile_answers


CASES = Path(__file__).parents[1] / "data" / "verdicts" / "kinds.jsonl"


def test_answers_are_compared_by_their_kind():
    """The whole verdicts on these cases: tests/processes/test_verdicts.py."""
    cases = [*map(json.loads, CASES.read_text(encoding="utf-8").splitlines())]
    decided = [compare_plainly(bare_gold(c["gold"]), bare_answer(extract_answer(c["completion"]))) for c in cases]
    assert [case for case, verdict in zip(cases, decided, strict=True) if verdict is not case["right"]] == []


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        *(("5", "5m"), ("1/2x", "x/2"), (r"\sin^2 x+\cos^2 x", "1"), (r"\sqrt{x^2}", "x")),
        *((r"\cos(n\pi)", "(-1)^n"), (r"\log 100", "2"), (r"\sqrt[3]{-8}", "-2"), ("(1,2)", "1,2"), ("1:2", "2:4")),
        *((r"\lceil n/2\rceil", r"n-\lfloor n/2\rfloor"), ("f(x)=2x", "f(t)=2t"), ("f(2x)", "2f(x)")),
        *(("2^{2^{2^{2^{2^2}}}}", "1"), (r"(1,2]\cup[2,3)", "(1,3)"), (r"\frac{1}{0}", "4"), (r"\int x dx", "x")),
        *(("((((((((((((((((((((((((5))))))))))))))))))))))))", "6"), ("(a+b+c)^{60}", "a"), ("x^10", "x^{10}")),
    ],
)
def test_what_takes_algebra_or_can_be_read_in_two_ways_is_left(gold, answer):
    assert compare_plainly(gold, answer) is None


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        *(("xy", True), ("mn", True), ("AB", True), ("no", False), ("on", False), ("abc", True), ("bad", True)),
        *(
            ("xyz", True),
            ("mgh", True),
            ("ABC", False),
            ("yes", False),
            ("lace", False),
            ("cat", False),
            ("sky", False),
        ),
    ],
)
def test_letters_that_stand_together_are_a_product_or_a_word(run, expected):
    assert is_product(run) is expected


# --- Decimals


@pytest.mark.parametrize(
    ("a", "b", "units", "expected"),
    [
        ("1/3", "0.333333", (None, 6), True),
        ("1/3", "0.33333", (None, 5), False),
        ("2/3", "0.666666", (None, 6), True),  # cut
        ("2/3", "0.666668", (None, 6), False),
        ("3", "2.9999999999999996", (None, 16), True),
        ("12", "12.000001", (None, 6), False),
        ("1000000", "1000001", (None, None), False),
        ("3.141592", "3.141593", (6, 6), False),
        ("3.14159", "3.14159265", (5, 8), True),
        ("3.14", "3.14159265", (2, 8), False),
        ("0.3", "0.30000000000000004", (1, 17), True),
        ("1.3e-27", "1.4e-27", (28, 28), False),
        ("1.3e-27", "0", (28, None), False),
    ],
)
def test_a_decimal_may_be_rounded_to_six_digits(a, b, units, expected):
    units = [places and Fraction(1, 10**places) for places in units]
    assert numbers_agree(Fraction(a), Fraction(b), *units) is expected
    assert numbers_agree(Fraction(b), Fraction(a), *reversed(units)) is expected


@given(st.fractions(max_denominator=10**6).filter(bool), st.integers(0, 9))
def test_the_tolerance_is_relative(value, digits):
    """A number rounded to six significant digits is right wherever its point stands; with a digit off it is not."""
    scaled = abs(value) * Fraction(10) ** digits
    exponent = len(str(scaled.numerator)) - len(str(scaled.denominator)) - 6
    unit = Fraction(10) ** exponent
    rounded = round(scaled / unit) * unit
    assert numbers_agree(scaled, rounded, None, unit)
    assert not numbers_agree(scaled, rounded + 10 * unit, None, unit)


# --- Expressions, against sympy on trees that are built here

LEAVES = [
    ("2", "2"),
    ("3", "3"),
    ("7", "7"),
    (r"\frac{1}{2}", "Rational(1, 2)"),
    (r"\sqrt{5}", "sqrt(5)"),
    (r"\pi", "pi"),
]
LETTERS = [("x", "x"), ("y", "y"), ("n", "n")]


def trees(leaves: list) -> st.SearchStrategy[tuple[str, str]]:
    """Expressions in LaTeX and for sympy."""

    def grow(children):
        return st.one_of(
            st.tuples(children, st.sampled_from("+-"), children).map(
                lambda t: (f"({t[0][0]}){t[1]}({t[2][0]})", f"({t[0][1]}){t[1]}({t[2][1]})")
            ),
            st.tuples(children, children).map(lambda t: (f"({t[0][0]})({t[1][0]})", f"({t[0][1]})*({t[1][1]})")),
            st.tuples(children, children).map(
                lambda t: (f"\\frac{{{t[0][0]}}}{{{t[1][0]}}}", f"({t[0][1]})/({t[1][1]})")
            ),
            children.map(lambda c: (f"({c[0]})^2", f"({c[1]})**2")),
            children.map(lambda c: (f"\\sqrt{{{c[0]}}}", f"sqrt({c[1]})")),
            children.map(lambda c: (f"\\sin({c[0]})", f"sin({c[1]})")),
        )

    return st.recursive(st.sampled_from(leaves), grow, max_leaves=5)


@settings(max_examples=60)
@given(trees(LEAVES), trees(LEAVES))
def test_numbers_agree_with_sympy(a, b):
    """The measured value is sympy's within its error, and what is decided about two of them is so by 60 digits."""
    import sympy

    values = [sympy.sympify(python, evaluate=False) for _, python in (a, b)]
    exact = [complex(value.evalf(30)) if value.is_finite is not False else None for value in values]
    for (latex, _), value in zip((a, b), exact, strict=True):
        for reading in read(latex):
            try:
                number, error = measure(reading)
            except UndecidedError:
                continue
            assert value is not None
            assert abs(number - value) <= 2 * error + 1e-14 * abs(value) + 1e-15
    decided = compare_plainly(a[0], b[0])
    if decided is not None:
        difference = (values[0] - values[1]).evalf(60)
        assert decided is bool(abs(difference) < 1e-40), (a[0], b[0])


@settings(max_examples=40)
@given(trees(LEAVES + LETTERS))
def test_a_form_that_sympy_gives_an_expression_is_never_another_one(tree):
    import sympy

    expression = sympy.sympify(tree[1], locals={name: sympy.Symbol(name) for name in "xyn"})
    if not expression.has(sympy.zoo, sympy.nan):
        for form in (sympy.expand(expression), sympy.together(expression)):
            assert compare_plainly(tree[0], sympy.latex(form)) is not False, (tree[0], sympy.latex(form))


# --- Bounds


def steps(gold: str, answer: str) -> int:
    """Calls and lines of Python."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        compare_plainly(gold, answer)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "family",
    [
        *(
            "(a+1)" * 200,
            "(a+1)^{19}+" * 80 + "1",
            "1/3^{999}+" * 80 + "1",
            r"\sin(" * 15 + "x" + ")^3" * 15,
            "1," * 400 + "1",
        ),
        *(
            r"\frac{1}{" * 18 + "x" + "}" * 18,
            "x_" * 400,
            r"\text{" * 150,
            "{" * 900,
            r"\angle" + "A" * 900,
            "'" * 900,
            r"\pm1" * 200,
        ),
        *(
            r"\frac{dx}{2}" * 80,
            "((x+1)^2+1)" * 80,
            "99!" * 200,
            r"\binom{999}{500}" * 50,
            "9" * 990,
            "2^{9999}" * 100,
            "a" * 999,
        ),
        r"\sqrt{" + "9" * 150 + "}" + r"+\sqrt{" + "7" * 150 + "}",
    ],
)
def test_the_work_is_bounded(family):
    assert (
        max(steps(gold, answer) for gold, answer in (("x+7", family), (family, "x+7"), (family, family + "+1")))
        < 1_000_000
    )


def test_the_work_grows_with_the_length():
    texts = [", ".join(f"{i}x+{i}" for i in range(n)) for n in (4, 32)]
    few, many = (steps("x", text) for text in texts)
    assert many < 3 * 8 * few


def test_hostile_answers_are_decided_in_bounded_work():
    for answers in hostile_answers("/nowhere/canary").values():
        for answer in answers[:4]:
            for gold in ("5", "x^2+1", r"\{1,2\}"):
                assert steps(gold, bare_answer(extract_answer(answer) or "")) < 200_000


@given(st.text(max_size=40) | st.text(r"\{}^_()[]$&0123456789xyABCfe!+-*/=,.'|<%fracsqtpmin ", max_size=60))
def test_any_text_is_decided_or_left(text):
    for gold, answer in (("x+7", text), (text, "x+7"), (text, text + " ")):
        assert compare_plainly(gold, answer) in (True, False, None)


def test_a_gold_is_read_once():
    read_gold.cache_clear()
    for i in range(16):
        compare_plainly(r"\sqrt{2}+x", f"{i}+x")
    assert read_gold.cache_info().misses == 1


def test_sympy_stays_out_of_the_process_that_asks():
    code = (
        "import sys; from htpo_trl.verifier import Verifier; "
        r"print(Verifier().judge_answers(['\\sqrt{8}', 'x'], ['2\\sqrt{2}', 'y']), 'sympy' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [word in output for word in ("CORRECT", "WRONG", "UNPARSABLE", "False")] == [True, True, False, True]
