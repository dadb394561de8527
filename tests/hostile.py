"""Answers that break verifiers: over 300, by family. Shared by the tests and benchmarks/verifier.py."""

# What extraction looks for: texts of one of them, over and over, must take time that grows as they do.
MARKS = (
    *(
        "Answer:",
        "answer ",
        "Answer: x\n",
        "**Answer**\n",
        "Answer\n",
        "Answer (",
        "Answer to ",
        "so the final answer ",
    ),
    *(
        "答案：",
        "答",
        "Ответ: ",
        "<answer>",
        "</answer>",
        "Answer: <",
        "#### 5\n",
        "\\boxed{",
        "\\boxed{5}",
        "\\boxed{}",
    ),
    *(
        "\\boxed ",
        "\\boxed 5 ",
        "\\boxed{ ",
        "box",
        "<think>",
        "</think>",
        "<think ",
        "<|channel|>",
        "<|channel|>final",
    ),
    *(
        "[THINK]",
        "◁think▷",
        "assistantfinal",
        "analysis",
        "[BEGIN FINAL RESPONSE]",
        "<|im_end|>",
        "</b>",
        "<br>",
        "</br",
    ),
    *("$", "$$", "\\[", "\\(", "\\begin{align}", "\\begin{", "```\n", "> ", "- ", "1. ", "| a ", "|\n", "*", "_", "`"),
    *("{", "}", "(", ")", '"', "'", "“", ".", ",", "; ", ". A", "5 ", "5,", "5/", "is 5 ", "a ", "since ", "(since "),
    *("(≈ a ", " or", "=", "the ", "\n", "\r", " ", "\u200b", "✅", "QED", "İ", "\ud800", "\\", "\\text{"),
)


# What is not decided in the process that asks: 3x.
FOR_WORKERS = r"x\cdot\gcd(6,9)"


def hostile_answers(canary: str) -> dict[str, list[str]]:
    """Family → completions. The planted commands would create files whose names start with `canary`."""
    return {family: [wrap(answer) for answer in answers] for family, (answers, wrap) in _families(canary).items()}


def hanging_answers(count: int) -> list[str]:
    """Different answers that keep math-verify busy for longer than any deadline."""
    return [_box(f"{i}^{{{i}^{{{i}^{{{i}}}}}}}") for i in range(5, 5 + 2 * count, 2)]


def _box(answer: str) -> str:
    return f"So the answer is $\\boxed{{{answer}}}$."


def _line(answer: str) -> str:
    return f"Thus.\nAnswer: {answer}"


def _as_is(text: str) -> str:
    return text


def _nested(left: str, middle: str, right: str, depths: tuple[int, ...]) -> list[str]:
    return [left * depth + middle + right * depth for depth in depths]


def _families(canary: str):
    depths = (10, 30, 100, 300)
    commands = [f"touch {canary}-{i}" for i in range(4)]
    payloads = [
        payload
        for i, command in enumerate(commands)
        for payload in (
            f"__import__('os').system('{command}')",
            f'__import__("subprocess").run("{command}", shell=True)',
            f"eval(\"__import__('os').system('{command}')\")",
            f"exec('import os; os.system(\"{command}\")')",
            f"(lambda: open('{canary}-p{i}', 'w'))()",
            f"open('{canary}-q{i}', 'w').close()",
            f"().__class__.__bases__[0].__subclasses__()[{i}]('{command}')",
            f"$({command})",
            f"`{command}`",
            f"; {command} #",
            f"\\input{{|{command}}}",
            f"\\immediate\\write18{{{command}}}",
            f"\\input{{/etc/passwd}}\\include{{{canary}}}",
            f"{{{{ cycler.__init__.__globals__.os.popen('{command}').read() }}}}",
            f"cos\nsystem\n(S'{command}'\ntR.",
            f"!!python/object/apply:os.system ['{command}']",
            f"Symbol('x', **__import__('os').system('{command}'))",
            f"sympify(\"__import__('os').system('{command}')\")",
        )
    ]
    towers = [f"{a}^{{{b}^{{{c}^{{{d}}}}}}}" for a in (2, 9, 10) for b in (5, 10) for c in (7, 10) for d in (3, 9)]
    towers += [f"{a}**{b}**{c}" for a in (9, 10) for b in (9, 10) for c in (9, 10)]
    towers += [
        r"\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}",
        r"10^{10^{10^{10}}} \bmod 7",
        r"\sqrt{9^{9^{9^9}}}",
        r"x^{x^{x^{10^9}}}",
    ]
    factorials = [f"{n}!" for n in (10**5, 9999999, 10**12)] + [
        "((10!)!)!",
        "9!!!!",
        r"\frac{10^6!}{999999!}",
        r"\Gamma(10^7)",
    ]
    big = [
        r"\sum_{i=1}^{10^9} i^i",
        r"\prod_{i=1}^{10^8} (x+i)",
        r"\binom{10^8}{5 \cdot 10^7}",
        r"\binom{10^6}{5\cdot 10^5}",
    ]
    big += [
        r"\sum_{k=1}^{99999} \frac{1}{k^{k}}",
        r"\int_0^{10^9} x^{x^x} dx",
        r"\lim_{n\to\infty} (1+\frac1n)^{n^{n}}",
    ]
    big += [
        r"(1+x)^{100000}",
        r"(a+b+c+d+e+f+g+h)^{30}",
        r"(x+y+z)^{999}-(z+y+x)^{999}",
        r"\sin(10^{10^8})",
        r"\zeta(10^7)",
    ]
    big += [
        r"x^{997}-3x^{331}+7=0",
        r"\cos^{40} x+\sin^{40} x-\tan^{40} x",
        r"\log_{2}(3^{10^9})",
        r"\lfloor \pi^{10^7} \rfloor",
    ]
    big += ["9" * 1999, "0." + "3" * 1990, "1/" + "7" * 1900, "1e999999999", r"10^{-10^{10}}", "1" + ",000" * 400]
    wide = ["+".join(f"x_{{{i}}}" for i in range(200)), "*".join(f"(x+{i})" for i in range(200)), ",".join("12345")]
    wide += [
        r"\{" + ",".join(f"\\sqrt{{{i}}}" for i in range(150)) + r"\}",
        "=".join("abcdefgh" * 40),
        "<".join("xyz" * 99),
    ]
    wide += [r"\begin{pmatrix}" + r"\\".join("&".join(["x^9"] * 12) for _ in range(12)) + r"\end{pmatrix}", "||" * 400]
    wide += [
        r"\cup".join(f"({i},{i + 1})" for i in range(120)),
        "x" * 1999,
        "i" * 500,
        "!" * 500,
        "-" * 1500,
        "'" * 900,
    ]
    control = [
        "".join(map(chr, range(32))),
        "\x005",
        "5\x00",
        "\x1b[2J5",
        "5\x08\x087",
        "\x7f" * 9,
        "\u202e5",
        "\ufeff5",
    ]
    control += [
        "\ud8005",
        "5\udfff",
        "\ud83d",
        "٥",
        "５",
        "⁵",
        "½",
        "∑∏√∞" * 50,
        "e\u0301" * 500,
        "\U0010ffff",
        "🤖" * 300,
        "\r\n5\r\n",
    ]
    control += [
        "\x85",
        "\u2028",
        "\u20295",
        "\x0c5\x0b",
        "‮‮‮",
        "\N{ZERO WIDTH SPACE}5",
        "5\N{NO-BREAK SPACE}",
        "\\\x00{5}",
    ]
    unclosed = [
        "{" * 50,
        "}" * 50,
        "(" * 999,
        "[" * 999,
        r"\left(" * 150,
        r"\frac{1}{",
        r"\frac" * 300,
        r"\sqrt{" * 200,
        "^" * 999,
    ]
    unclosed += [
        "_" * 999,
        "x^" * 900,
        "x_{" * 300,
        "$" * 999,
        "&" * 999,
        "\\" * 999,
        r"\begin{matrix}" * 50,
        r"\text{" * 100,
    ]
    unclosed += [
        r"\end{matrix}",
        r"\right)",
        r"\boxed{" * 60,
        r"\boxed",
        r"{\boxed{5}",
        "%" * 99,
        "#" * 99,
        "~" * 99,
        r"\\" * 400,
    ]
    long = [
        "9" * 100_000,
        "x+" * 50_000,
        "(" * 100_000,
        "{" * 100_000,
        " " * 100_000 + "5",
        "\n" * 100_000 + "5",
        "\\" * 100_000,
    ]
    long_text = [
        r"\boxed{" * 15_000,
        "Answer:" * 15_000,
        "answer " * 15_000,
        "Answer" + " " * 100_000,
        "Answer:" + "\n" * 100_000,
    ]
    long_text += [
        "$" * 100_000,
        "\\boxed" + " " * 100_000,
        "\\boxed{5}" * 12_000,
        "**Answer" + "*" * 100_000,
        "\\boxed{" + "a" * 100_000,
    ]
    return {
        "towers of powers": (towers, _box),
        "factorials": (factorials, _box),
        "nested fractions": (
            _nested(r"\frac{1}{1+", "2", "}", depths)
            + _nested(r"\frac{", "x", "}{3}", depths)
            + _nested("1/(1+", "x", ")", depths),
            _box,
        ),
        "nested brackets": (
            [
                text
                for left, right in (
                    ("(", ")"),
                    ("[", "]"),
                    (r"\{", r"\}"),
                    ("{", "}"),
                    (r"\left(", r"\right)"),
                    ("|", "|"),
                    ("(", "]"),
                )
                for text in _nested(left, "x", right, depths)
            ],
            _box,
        ),
        "nested functions": (
            [
                text
                for left, right in (
                    (r"\sqrt{", "}"),
                    (r"\sin(", ")"),
                    ("x^{", "}"),
                    (r"\log{", "}"),
                    ("-", ""),
                    (r"\text{", "}"),
                )
                for text in _nested(left, "2", right, depths)
            ],
            _box,
        ),
        "huge numbers, sums and powers": (big, _box),
        "wide expressions": (wide, _box),
        "control characters": (control, _box),
        "control characters, plain": (control, _line),
        "payloads": (payloads, _box),
        "payloads, plain": (payloads, _line),
        "unclosed": (unclosed, _line),
        "unclosed in a box": (unclosed, _box),
        "100,000 characters": (long, _line),
        "100,000 characters of text": (long_text, _as_is),
        "100,000 characters of marks": ([mark * (100_000 // len(mark)) for mark in MARKS], _as_is),
    }
