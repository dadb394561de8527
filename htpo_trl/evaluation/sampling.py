"""How completions are sampled for evaluation. No torch: the command line reads its options here."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled for evaluation; the defaults are the HTPO paper's (arXiv 2605.08283)."""

    num_samples: int = field(
        default=32, metadata={"help": "Samples per problem, and the largest k of pass@k; small benchmarks need many."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "0 decodes greedily, and needs `num_samples=1`: all samples would be the same."}
    )
    top_p: float = field(
        default=0.7, metadata={"help": "Sample among the most likely tokens that have this probability together."}
    )
    max_new_tokens: int = field(
        default=20480, metadata={"help": "Tokens per completion; where it ends there, it counts as truncated."}
    )
    batch_size: int = field(
        default=64, metadata={"help": "Completions generated at once, and lost by a kill. vLLM wants thousands."}
    )
    seed: int = field(
        default=0, metadata={"help": "Each sample's own seed derives from it, the problem and the sample's number."}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Options of the chat template, as JSON: {"enable_thinking": false}.'}
    )

    def __post_init__(self) -> None:
        for name in ("num_samples", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must be positive, or 0 to decode greedily.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must lie in (0, 1]; 1 samples from all tokens.")
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(
                f"temperature=0 decodes greedily: num_samples={self.num_samples} samples of a problem would all be "
                "the same. Set num_samples=1, or a temperature above 0."
            )
