"""Ways in which models end: `%s` stands for the answer. Shared by the tests and benchmarks/verifier.py."""

import re


# With marks of a formula, or in a box: for every answer.
FORMULAS = (
    "Hence the result.\n\n**Final Answer**\n\n$$\n\\boxed{%s}\n$$",
    "### Final Answer\n\n\\[\n\\boxed{%s}\n\\]\n\nLet me know if you have questions!",
    "<think>\nMaybe \\boxed{0}? Answer: 1.\n</think>\n\nThe answer is $\\boxed{%s}$.",
    "So it is 3.\n</think>\n\nThe final answer is: $$\\boxed{%s}$$<|im_end|>",
    "<think>\nNo.\n</think>\n<answer>\n$%s$\n</answer>",
    "[THINK]\\boxed{0}[/THINK]Therefore\n$$\\boxed{%s}.$$",
    "<|channel|>analysis<|message|>\\boxed{0}<|end|><|start|>assistant<|channel|>final<|message|>**Answer:** $%s$",
    "◁think▷Answer: 0◁/think▷\n\n**Answer: $%s$**",
    "<|begin_of_thought|>\\boxed{0}<|end_of_thought|>\n<|begin_of_solution|>\n\\boxed{%s}\n<|end_of_solution|>",
    "First I guessed \\boxed{0}, but the check fails. So $\\boxed{%s}$.",
    "$\\boxed{%s}$\n\nI double-check the answer: it is right.",
    "$$\\boxed{%s}$$\n\n(Answer: verified by substitution.)",
    "The result is \\boxed{%s}\n\nAs asked, I put it within \\boxed{}.",
    "\\boxed{\\boxed{%s}}",
    "```latex\n\\boxed{%s}\n```",
    "> **Answer:** $\\boxed{%s}$",
    "So \\fbox{%s}.",
    "Answer:\n$$\n%s\n$$",
    "Answer:\n\\[%s\\]",
    "## Answer\n\n$$%s$$\n\nThis is what had to be found.",
    "**Final Answer**\n\n\\( %s \\)",
    "Answer:\n- $%s$",
    "Answer:\n\n> $%s$",
    "Answer:\n1. $%s$\n",
    "The final answer is: **$%s$**.</s>",
    "Final Answer: The final answer is $%s$. I hope it is correct.",
    "Answer: The value that was asked for is \\(%s\\).",
    "Answer: $%s$, as required.",
    "\\textbf{Answer:} $%s$ $\\blacksquare$",
    "因此，最终答案是：$%s$。",
    "Ответ: $%s$.",
    "Réponse\u00a0: **$%s$**",
    '{"answer": "$%s$"}',
    "| Answer | $%s$ |",
    "Answer: `$%s$` ✅",
)
# Without: for answers of one line that are no text of their own.
LINES = (
    "**Answer:** %s<|eot_id|>",
    "The answer is: %s.",
    "**Final Answer: %s**",
    "__Answer__: %s\n\nHope this helps!",
    "Answer:\n%s",
    "Answer:\n```\n%s\n```",
    "Answer:\n\n- **%s**\n",
    "## Final Answer\n%s",
    "<answer>%s</answer>",
    "答案：%s",
)


def wrappings(answer: str) -> list[str]:
    """
    The completions that give an answer. A text with formulas or paragraphs in it fits into no formula, one of several
    lines onto no line.
    """
    is_formula = re.search(r"(?<!\\)\$|\n\n", answer) is None
    return [w % answer for w in (*(FORMULAS if is_formula else ()), *(LINES if "\n" not in answer else ()))]
