"""The math verifier's options, of `htpo train` and of `htpo eval`."""

from dataclasses import dataclass

from ..utils import check_numbers, option
from ..verifier import VerifierConfig


@dataclass
class VerifierArguments:
    """[`~htpo_trl.verifier.VerifierConfig`], by names of the command line."""

    verifier_workers: int = option(8, "Worker processes of the math verifier.")
    verifier_deadline: float = option(5.0, "Seconds the math verifier has per answer.")
    verifier_memory_limit: int = option(512, "MiB the math verifier has per answer.")
    verifier_max_length: int = option(2000, "Characters of an answer or gold; longer ones are unparsable.")
    verifier_budget: float = option(30.0, "Seconds the math verifier has for a batch's answers that hang.")
    skip_reasoning: bool = option(
        True,
        "Whether only what follows a block of reasoning, such as <think>...</think>, can hold the math verifier's "
        "answer; one that is not closed holds none. False reads such blocks too.",
    )

    RANGES = {
        "[1, inf)": ("verifier_workers", "verifier_memory_limit", "verifier_max_length"),
        "(0, inf)": ("verifier_deadline", "verifier_budget"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the class beside which this one stands
        check_numbers(self, VerifierArguments.RANGES)

    def verifier_config(self) -> VerifierConfig:
        """The limits that the options set."""
        return VerifierConfig(
            workers=self.verifier_workers,
            deadline=self.verifier_deadline,
            memory_limit=self.verifier_memory_limit,
            max_length=self.verifier_max_length,
            budget=self.verifier_budget,
            skip_reasoning=self.skip_reasoning,
        )
