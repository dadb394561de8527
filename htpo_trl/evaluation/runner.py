"""
n samples per problem → verdicts → mean@n, maj@k, pass@k with intervals over problems.

[`evaluate`] samples and judges, and writes as it goes, so that a killed evaluation is resumed where it stopped;
[`compare`] puts two of them side by side. The metrics are in `metrics.py`, the files in `results.py`, the models in
`generation.py`.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from .. import verifier
from ..utils import write_json
from ..verifier.answers import gold_text
from . import results
from .comparison import compare, comparison_table
from .generation import Generator, TransformersGenerator, VLLMGenerator, load_generator
from .results import ResultsError, budgets, summarize, summary_table
from .sampling import Sampling
from .statistics import majority_at_k, mean_with_interval, pass_at_k, sign_flip_test


__all__ = [
    "Generator",
    "ResultsError",
    "Sampling",
    "TransformersGenerator",
    "VLLMGenerator",
    "compare",
    "comparison_table",
    "evaluate",
    "majority_at_k",
    "mean_with_interval",
    "pass_at_k",
    "sign_flip_test",
    "summarize",
    "summary_table",
]

Problems = Iterable[dict[str, Any]]  # e.g. a `datasets.Dataset`; columns `prompt`, `solution`, and any for the judge
Judge = Callable[..., Sequence[Any]]


def evaluate(
    model: Any,
    benchmarks: Mapping[str, Problems],
    output_dir: str | Path,
    sampling: Sampling | None = None,
    judge: Judge | None = None,
    ks: Iterable[int] | None = None,
    disable_tqdm: bool = False,
) -> dict[str, dict[str, Any]]:
    """
    Evaluate a model: sample, judge, write, summarise.

    Killed at any moment and called again, it goes on after the last batch that was written, and ends with the files
    that it would have written without a break. Called again when it is done, it only summarises.

    Args:
        model (`str`, `tuple` or [`Generator`]):
            Name or path (by vLLM if it is installed, else by transformers), a pair (model, tokenizer) of transformers,
            or a generator, e.g. `VLLMGenerator(LLM(..., tensor_parallel_size=4))`.
        benchmarks (`Mapping[str, Dataset]`):
            Name → problems, a [`~datasets.Dataset`] or a list of dictionaries, with the columns `prompt` (text or a
            conversation) and `solution`, as those of [`~htpo_trl.data`].
        output_dir (`str` or `Path`):
            Gets `<benchmark>.jsonl`, one sample a line, and `<benchmark>.json`, settings and summary. Models are told
            apart by name alone: use a directory per checkpoint.
        sampling ([`Sampling`], *optional*):
            How to sample; by default as the paper does.
        judge (`Callable`, *optional*, defaults to the math verifier):
            Called like a TRL reward function, with the columns of the problems, `prompts` and `completions` as lists.
            Returns per completion a [`~htpo_trl.verifier.Judgement`], or a number: correct if above 0.5, `None` if the
            problem cannot be judged. Numbers tell no answers, so that there is no maj@k.
        ks (`Iterable[int]`, *optional*):
            Sampling budgets of pass@k and maj@k, by default the powers of two up to the number of samples, and that.
        disable_tqdm (`bool`, *optional*, defaults to `False`):
            No progress bar, and no table at the end.

    Returns:
        `dict`: benchmark → summary, see [`summarize`].

    Raises:
        ResultsError: if `output_dir` holds results of other settings or problems, naming the difference.

    Example:

    ```python
    from htpo_trl.evaluation import Sampling, evaluate

    problems = [{"prompt": "1 + 2 =", "solution": "3"}]
    evaluate("Qwen/Qwen3-0.6B", {"sums": problems}, "runs/evaluation/Qwen3-0.6B", Sampling(num_samples=8))
    ```
    """
    sampling = sampling or Sampling()
    budgets(sampling.num_samples, ks)  # before the work, so that it does not fail after it; as all that follows
    generator = load_generator(model)
    directory = Path(output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    plans = {name: Plan.make(name, problems, generator, sampling, judge) for name, problems in benchmarks.items()}
    paths = {name: directory / f"{name}.jsonl" for name in plans}
    drawn = {
        name: results.resume(paths[name], plan.settings, [r.key for r in plan.requests], sampling.batch_size)
        for name, plan in plans.items()
    }
    summaries = {}
    for name, plan in plans.items():
        path, done = paths[name], drawn[name]
        with (
            path.open("ab") as file,
            tqdm(total=len(plan.requests), initial=done, desc=name, unit="sample", disable=disable_tqdm) as progress,
        ):
            for start in range(done, len(plan.requests), sampling.batch_size):
                rows = plan.run(generator, start)
                file.write(results.to_lines(rows))
                file.flush()
                progress.update(len(rows))
        summaries[name] = write_summary(path, ks)
    if not disable_tqdm:
        print(summary_table(summaries))
    return summaries


def write_summary(path: Path, ks: Iterable[int] | None) -> dict[str, Any]:
    """Summarise a finished result file, in the `.json` beside it too."""
    finished = results.read(path)
    summary = summarize(finished, ks)
    write_json(path.with_suffix(".json"), {"settings": finished.settings, "summary": summary})
    return summary


class Request(NamedTuple):
    """One sample to draw."""

    problem: str
    sample: int
    row: dict[str, Any]
    prompt: list[int]  #: tokens
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        return self.problem, self.sample


class Plan(NamedTuple):
    """All samples of a benchmark, in the order in which they are drawn and written; a function of the arguments."""

    settings: dict[str, Any]
    requests: list[Request]
    sampling: Sampling
    judge: Judge | None

    @classmethod
    def make(
        cls, benchmark: str, problems: Problems, generator: Generator, sampling: Sampling, judge: Judge | None
    ) -> "Plan":
        if not re.fullmatch(r"[\w.-]+", benchmark):
            raise ValueError(f"The benchmark's name {benchmark!r} names files: use letters, digits, '_', '-' and '.'.")
        requests: list[Request] = []
        seen: Counter[str] = Counter()
        digest = hashlib.sha256()
        for row in problems:
            if missing := {"prompt", "solution"} - ({"solution"} if judge else set()) - row.keys():
                raise ValueError(
                    f"The problems of {benchmark!r} have no column {min(missing)!r}, only {', '.join(row)}."
                )
            # The bare problem, where there is one, so that models with different prompts can be compared.
            content = json.dumps([row.get("problem", row["prompt"]), row.get("solution")], sort_keys=True)
            problem = hashlib.sha256(content.encode()).hexdigest()[:16]
            seen[problem] += 1
            if seen[problem] > 1:  # the same problem again is another one, with samples of its own
                problem += f"-{seen[problem]}"
            prompt = _tokenize(generator.tokenizer, row["prompt"], sampling)
            digest.update(f"{problem} {prompt}".encode())
            for sample in range(sampling.num_samples):
                requests.append(Request(problem, sample, row, prompt, _seed(sampling.seed, problem, sample)))
        if not requests:
            raise ValueError(f"There are no problems in {benchmark!r}.")
        described = asdict(sampling)
        del described["batch_size"]  # may change: after running out of memory, say
        settings = {
            "benchmark": benchmark,
            "model": generator.name,
            "judge": getattr(judge, "__name__", type(judge).__name__) if judge else "verifier",
            "sampling": described,
            "n_problems": seen.total(),
            # With the tokens of the prompts, so that another chat template is another set.
            "problems": digest.hexdigest()[:16],
        }
        return cls(settings, requests, sampling, judge)

    def run(self, generator: Generator, start: int) -> list[dict[str, Any]]:
        """Draw and judge a batch, the requests from `start` on; its lines of the result file."""
        batch = self.requests[start : start + self.sampling.batch_size]
        completions = generator.generate([r.prompt for r in batch], [r.seed for r in batch], self.sampling)
        verdicts = _judge(self.judge, [r.row for r in batch], [c.text for c in completions])
        return [
            {
                "benchmark": self.settings["benchmark"],
                "problem": r.problem,
                "sample": r.sample,
                "completion": c.text,
                "tokens": c.tokens,
                "truncated": c.truncated,
                **verdict,
            }
            for r, c, verdict in zip(batch, completions, verdicts, strict=True)
        ]


def _seed(seed: int, problem: str, sample: int) -> int:
    """Non-negative and of 63 bits: the widest that every generator takes."""
    return int.from_bytes(hashlib.sha256(f"{seed} {problem} {sample}".encode()).digest()[:8]) >> 1


def _tokenize(tokenizer: Any, prompt: Any, sampling: Sampling) -> list[int]:
    """As TRL does for training: special tokens are those of the chat template, or else the tokenizer's own."""
    if isinstance(prompt, str):
        return tokenizer(prompt).input_ids
    encoded = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, tokenize=True, return_dict=True, **(sampling.chat_template_kwargs or {})
    )
    return encoded["input_ids"]


def _judge(judge: Judge | None, rows: list[dict[str, Any]], texts: list[str]) -> list[dict[str, Any]]:
    """`verdict`, and `answer` where the judge tells it, of each completion."""
    if judge is None:
        golds = [gold_text(row["solution"]) for row in rows]
        judgements: Sequence[Any] = verifier.judge(texts, golds)
    else:
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
        completions = [
            text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
            for row, text in zip(rows, texts, strict=True)
        ]
        judgements = judge(prompts=[row["prompt"] for row in rows], completions=completions, **columns)
    verdicts: list[dict[str, Any]] = []
    for judgement in judgements:
        if hasattr(judgement, "verdict"):
            verdicts.append({"verdict": str(judgement.verdict), "answer": judgement.answer})
        elif judgement is None:
            verdicts.append({"verdict": "unparsable_gold"})
        else:
            verdicts.append({"verdict": "correct" if judgement > 0.5 else "wrong"})
    return verdicts
