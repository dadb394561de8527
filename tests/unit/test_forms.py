"""The form in which answers and golds are compared."""

# ruff: noqa: SIM905 - lists of pieces

import gc
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htpo_trl.verifier.forms import bare_answer, bare_gold
from htpo_trl.verifier.quantities import settle_units


FORMS = {
    # Characters
    "۴۲": "42",
    "𝟒𝟐": "42",
    "x²+1": "x^{2}+1",
    "x₁": "x_{1}",
    "10⁻³": "10^{-3}",
    "3½": r"\frac{7}{2}",
    "2√3": r"2\sqrt{3}",
    "∛8": r"\sqrt[3]{8}",
    "√(x+1)": r"\sqrt{x+1}",
    "(3,∞)": r"(3,\infty)",
    "πr²": r"\pi r^{2}",
    "5\u200b": "5",
    "\ufeff−7": "-7",
    "f′": "f'",
    # Around
    "**`$42$`**.": "42",
    r"\boxed{\text{42}}": "42",
    r"\$42.": r"42\text{dollar}",
    "10.": "10",
    "= 42": "42",
    r"\approx 42": "42",
    r"x \ldots": r"x\ldots",
    # Commands
    r"\dfrac 12": r"\frac{1}{2}",
    r"\left[1, 2\right)": "[1,2)",
    r"\color{red}{\boldsymbol{42}}": "42",
    r"\langle 1,2\rangle": "(1,2)",
    r"\varnothing": r"\emptyset",
    r"\{x \mid x>3\}": "x>3",
    "2^10": "2^{10}",
    r"\log_28": r"\log_{2}8",
    # Python
    "7*sin(pi*x/5)+1": r"7\cdot\sin(\pi\cdot x/5)+1",
    "np.sqrt(2)**(1/2)": r"\sqrt{2}^{1/2}",
    "exp(-x)": "e^{-x}",
    "1./3": "1/3",
    "-inf": r"-\infty",
    # Numbers
    r"11,\! 111,\! 100": "11111100",
    "12\u202f345": "12345",
    "1'234": "1234",
    r"\frac{1,000}{3}": r"\frac{1000}{3}",
    "1 2": "1 2",
    "(1,234)": "(1,234)",
    "12,34,567": "12,34,567",
    r"0.1\dot{6}": r"\frac{1}{6}",
    "0.(3)": r"\frac{1}{3}",
    "0.333...": r"\frac{1}{3}",
    "1 1/2": r"\frac{3}{2}",
    r"x\frac12": r"x\frac{1}{2}",
    r"5^{\text{th}}": "5",
    "4.5e+33": r"4.5\cdot10^{33}",
    # Units, words
    "12 square meters": r"12\text{m^2}",
    r"9.8\,\mathrm{m\,s^{-2}}": r"9.8\text{m/s^2}",
    "60 degrees": "60",
    "42 apples": "42",
    "6m": "6m",
    "no solution": r"\text{no solution}",
    r"\text{Evelyn}": "Evelyn",
    r"\textbf{(C) }12": "(C)12",
    r"4 \text{ and } 5": "4,5",
    "x y": "x y",
}


@pytest.mark.parametrize(("text", "form"), FORMS.items(), ids=[*map(ascii, FORMS)])
def test_the_form_of(text, form):
    assert bare_answer(text) == form
    assert bare_gold(text) == form


def test_a_box_or_a_formula_within_a_text_is_the_gold():
    assert bare_gold(r"Thus $x=5$, so \boxed{5}.") == "5"
    assert bare_gold("The answer is $5x$.") == "5x"
    assert bare_gold("$x=1$ or $x=2$") == "x=1,x=2"


@pytest.mark.parametrize(
    ("gold", "answer", "pair"),
    [
        ("5 cm", "5", ("5", "5")),
        ("5", "5 cm", ("5", "5")),
        ("5 cm", "6 centimeters", ("5", "6")),
        ("5 cm", "5 m", ("5", "5m")),
        ("5", "5m", ("5", "5")),
        ("6m", "6", ("6m", "6")),
        (r"\$5", "5 euros", None),
        (r"5\text{ cm}", r"5\text{ m}", None),
        ("5", r"x=5\text{ km/h}", ("5", "x=5")),
    ],
)
def test_units_are_dropped_where_they_do_not_differ(gold, answer, pair):
    assert settle_units(bare_gold(gold), bare_answer(answer)) == pair


PIECES = [
    *"0123456789xya()[]{},.; $+-*/^_='\"`~%°²½√π€!&|<>\n\u200b\u0305",
    *(r"\{ \} \$ \frac \dfrac \sqrt \text{ \mathrm{ \boxed{ \left \right \, \! \\ \% ^\circ \overline{ \dot{").split(),
    *"sqrt sin pi log exp inf and or cm m ... th dollars percent e5 1,234 million apples no solution".split(" "),
    *(r"\ldots \cdot \approx \angle \pi \mid \color{red} \begin{pmatrix} \end{pmatrix} ** \choose \in ]").split(),
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join))
def test_the_form_of_a_form_is_itself(text):
    assert bare_answer(bare_answer(text)) == bare_answer(text)


def seconds(text: str) -> float:
    """The least processor time of three."""
    times = []
    for attempt in range(3):
        start = time.process_time()
        bare_answer(text + str(attempt))  # texts that the cache does not know
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "1",
            "1 ",
            "1,",
            "{",
            "(",
            "$",
            r"\frac",
            r"\text{a",
            r"\mathbf{",
            "sqrt(",
            "x^",
            "`",
            "'",
            "...",
            "a b ",
            "²",
        ),
        *(
            "1\u0305",
            "√(",
            "cm ",
            "&lt;",
            "<sup>1",
            r"\cup]",
            "and ",
            "1pi",
            r"1_{\text{five",
            "word-",
            "{1 \\choose ",
        ),
    ],
)
def test_the_time_is_linear_in_the_length(piece):
    gc.disable()
    try:
        short, long = (seconds(piece * (n // len(piece))) for n in (2_000, 16_000))
    finally:
        gc.enable()
    assert long < 24 * short + 0.005  # 8 times the length; quadratic is 64 times
