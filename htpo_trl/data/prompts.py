"""How problems become prompts: the templates, and the options that `load`, the command line and recipes share."""

from dataclasses import dataclass
from typing import Any

from ..output.reading import parse_json
from ..utils import UsageError, option


#: What surrounds a problem; `answer` is the instruction of DAPO-Math-17k, to the letter.
TEMPLATES = {
    "boxed": "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "answer": "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\n"
    'Remember to put your answer on its own line after "Answer:".',
    "none": "{problem}",
}


@dataclass
class PromptArguments:
    """How problems become prompts, the same for training and evaluation: the options of [`~htpo_trl.data.load`]."""

    template: str = option(
        "boxed",
        "What surrounds a problem: 'boxed' asks for \\boxed{}, 'answer' for a last line 'Answer: ...' as DAPO does, "
        "'none' for nothing, or a text of your own with {problem} in it.",
    )
    system_prompt: str | None = option(None, "System message; without chat, a paragraph before the prompt.")
    chat: bool = option(
        True, "Whether prompts are conversations, for the model's chat template. False for base models."
    )
    problem_column: str | None = option(
        None,
        "Column with the problem, of a file or Hub data set of your own ('problem' by default). Without it, a data "
        "set that has the column 'prompt' is taken as it is, as in TRL.",
    )
    solution_column: str | None = option(
        None, "Column with the answer, of a file or Hub data set of your own ('solution' by default)."
    )
    dataset_options: dict[str, Any] | str | None = option(
        None, 'Options of a procedural task, as JSON: {"size": 500, "seed": 1, "max_terms": 3}.'
    )

    def __post_init__(self) -> None:
        if isinstance(self.dataset_options, str):
            try:
                self.dataset_options = parse_json(self.dataset_options)
            except ValueError as error:
                raise UsageError(f"dataset_options={self.dataset_options!r:.80} is not JSON: {error}.") from None
        if self.dataset_options is not None and not isinstance(self.dataset_options, dict):
            raise UsageError(f"dataset_options={self.dataset_options!r} must map options to values.")
        if "{problem}" not in TEMPLATES.get(self.template, self.template):
            raise UsageError(
                f"template={self.template!r} is none of {', '.join(TEMPLATES)} and has no {{problem}} in it."
            )

    def prompt(self, problem: str) -> str | list[dict[str, str]]:
        """A problem as the trainer reads it: messages, or plain text without chat."""
        # Not by format(): LaTeX is full of braces.
        content = TEMPLATES.get(self.template, self.template).replace("{problem}", problem)
        if not self.chat:
            return f"{self.system_prompt}\n\n{content}" if self.system_prompt else content
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": content}]
