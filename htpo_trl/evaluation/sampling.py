"""How completions are sampled for evaluation. No torch: the command line reads its options here."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..utils import UsageError, check_numbers, nearest, option


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled for evaluation; the defaults are the HTPO paper's (arXiv 2605.08283)."""

    num_samples: int = option(
        32,
        "Samples per problem. pass@k and maj@k exist for k up to this; small benchmarks (AIME: 30 problems) need "
        "many.",
    )
    temperature: float = option(1.0, "0 decodes greedily, and needs `num_samples=1`: all samples would be the same.")
    top_p: float = option(
        0.7, "Sample among the most likely tokens whose probabilities reach this sum; 1.0 samples from all."
    )
    max_new_tokens: int = option(20480, "Tokens per completion; where it ends there, the sample counts as truncated.")
    batch_size: int = option(
        64,
        "Completions generated at once, and lost if the process is killed meanwhile. Limited by memory with "
        "transformers; vLLM schedules by itself and wants thousands.",
    )
    seed: int = option(
        0, "Each sample has a seed of its own, derived from this one, the problem and the sample's number."
    )
    chat_template_kwargs: dict[str, Any] | None = option(
        None,
        'Passed to the chat template of conversational prompts, e.g. `{"enable_thinking": false}`; on the command '
        "line as JSON.",
    )

    RANGES = {
        "[1, inf)": ("num_samples", "max_new_tokens", "batch_size"),
        "[0, inf)": ("temperature", "seed"),
        "(0, 1]": ("top_p",),
    }

    def __post_init__(self) -> None:
        check_numbers(self, self.RANGES)
        kwargs = self.chat_template_kwargs
        if not (kwargs is None or (isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs))):
            raise UsageError(
                f"chat_template_kwargs={kwargs!r} must be a dictionary with names, such as "
                "{'enable_thinking': False}."
            )
        if self.temperature == 0 and self.num_samples > 1:
            raise UsageError(
                f"temperature=0 decodes greedily: num_samples={self.num_samples} samples of a problem would all be "
                "the same. Set num_samples=1, or a temperature above 0."
            )

    @classmethod
    def of(cls, given: "Sampling | Mapping[str, Any] | None") -> "Sampling":
        """What an option `sampling` means, which may be a dictionary, as YAML has it; without one the defaults."""
        if isinstance(given, cls):
            return given
        known = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping | None):
            raise UsageError(
                f"sampling={given!r:.80} is a `{type(given).__name__}`: pass a Sampling, or a dictionary of its "
                f"options: {', '.join(known)}."
            )
        for name in given or {}:
            if name not in known:
                raise UsageError(
                    f"sampling: {nearest(str(name), known)}{name!r} is none of its options: {', '.join(known)}."
                )
        return cls(**(given or {}))
