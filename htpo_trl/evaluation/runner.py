"""[`~htpo_trl.evaluation.evaluate`]: n samples per problem, judged, written as they come, and summarised."""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..output.lock import held
from ..output.writing import WriteError, write_json, writing
from ..utils import UsageError, check_prompt, check_vocabulary, content_digest
from ..verifier import configuration
from . import results
from .generation import Generator, TransformersGenerator, load_generator
from .judges import Judge, check_columns, digest_of, judge_samples, name_of
from .parallel import Processes, joined
from .sampling import Sampling


_logger = logging.getLogger(__name__)

Problems = Iterable[dict[str, Any]]  # e.g. a `datasets.Dataset`; columns `prompt`, `solution`, and any for the judge


def evaluate(
    model: Any,
    benchmarks: Mapping[str, Problems],
    output_dir: str | Path,
    sampling: Sampling | Mapping[str, Any] | None = None,
    judge: Judge | None = None,
    ks: Iterable[int] | None = None,
    disable_tqdm: bool = False,
    distributed: bool = False,
) -> dict[str, dict[str, Any]]:
    """
    Evaluate a model: sample, judge, write, summarise.

    Killed at any moment and called again, it goes on after the last batch that was written, and ends with the files
    that it would have written without a break. When it is done, it only summarises.

    Args:
        model (`str`, `Path`, `tuple` or [`Generator`]):
            As [`load_generator`] takes it.
        benchmarks (`Mapping[str, Dataset]`):
            Name → problems, a [`~datasets.Dataset`] or a list of dictionaries, with the columns `prompt` (text or a
            conversation) and `solution`, as those of [`~htpo_trl.data`].
        output_dir (`str` or `Path`):
            Gets `<benchmark>.jsonl`, one sample a line, and `<benchmark>.json`, settings and summary. A digest of the
            weights is among the settings: other weights of the same name are refused.
        sampling ([`Sampling`] or `Mapping`, *optional*):
            How to sample, or some of its options by name; by default as the paper does.
        judge (`Callable`, *optional*, defaults to the math verifier):
            Called like a TRL reward function, with the columns of the problems, `prompts` and `completions` as lists.
            Returns per completion a [`~htpo_trl.verifier.Judgement`], or a number: correct if above 0.5, `None` if the
            problem cannot be judged. Numbers tell no answers, so that there is no maj@k.
        ks (`Iterable[int]`, *optional*):
            Budgets of pass@k and maj@k, by default the powers of two up to the number of samples, and that.
        disable_tqdm (`bool`, *optional*, defaults to `False`):
            No progress bar, and no table at the end.
        distributed (`bool`, *optional*, defaults to `False`):
            Whether all processes that a launcher has started (torchrun, `accelerate launch`) are here, to share the
            samples out. Each judges what it draws; the first one writes, in the order of a single process.

    Returns:
        `dict`: benchmark → summary, see [`summarize`].

    Raises:
        ResultsError: if `output_dir` holds results of other settings or problems, naming the difference; or if a
            process has other ones than the first.
        OutputError: if another process writes there.
        WriteError: where a result cannot be written; those that were stay.
    """
    # What can fail does so before the work.
    if not isinstance(benchmarks, Mapping):
        raise UsageError(
            f"benchmarks is a `{type(benchmarks).__name__}`, and must map names to problems, as in "
            '{"aime24": htpo_trl.data.load("aime24")}.'
        )
    if judge is not None and not callable(judge):
        raise UsageError(f"judge={judge!r} is not a function. Pass one, such as htpo_trl.rewards.last_number_reward.")
    sampling = Sampling.of(sampling)
    results.check_ks(sampling.num_samples, ks)
    directory = Path(output_dir)
    with ExitStack() as stack:
        processes = stack.enter_context(joined()) if distributed else Processes()
        is_first = processes.process_index == 0
        generator = load_generator(model)
        if isinstance(generator, TransformersGenerator):
            check_vocabulary(generator.model.config, generator.tokenizer, generator.name)
        weights = getattr(generator, "weights", None)
        if is_first:
            stack.enter_context(held(directory, "evaluate()"))
        runs = [SamplingRun(directory, *each, generator, sampling, judge, weights) for each in benchmarks.items()]
        for run in runs if is_first else []:
            with writing(run.path):
                run.done = results.resume(run.path, run.settings, run.keys, sampling.batch_size)
        for run, (done, settings) in zip(
            runs, processes.share([(run.done, run.settings) for run in runs]), strict=True
        ):
            run.done = done
            run.check_same(settings)
        disable_tqdm |= not is_first
        summaries = {run.path.stem: run.write(ks, processes, disable_tqdm) for run in runs}
        summaries = processes.share(summaries)
    if not disable_tqdm:
        print(results.summary_table(summaries))
    return summaries


def check_benchmark(name: str) -> None:
    """The name of a benchmark must be able to name its files."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(
            f"The benchmark's name {name!r} names files: use letters, digits, '_', '-' and '.'. Rename its file."
        )


class SamplingRun:
    """The samples of a benchmark, in the order of `keys`; `path` holds the first `done` of them."""

    def __init__(
        self,
        directory: Path,
        benchmark: str,
        problems: Problems,
        generator: Generator,
        sampling: Sampling,
        judge: Judge | None,
        weights: str | None = None,
    ) -> None:
        check_benchmark(benchmark)
        self.path, self.done = directory / f"{benchmark}.jsonl", 0
        self.generator, self.sampling, self.judge = generator, sampling, judge
        self.problems: dict[str, tuple[dict[str, Any], list[int]]] = {}  # id → row, tokens of the prompt
        seen, columns = Counter[str](), None
        digest = hashlib.sha256()
        for number, row in enumerate(problems, 1):
            if row.keys() != columns:
                check_columns(judge, columns := row.keys(), benchmark)
            check_prompt(row["prompt"], f"{benchmark!r}, row {number}")
            # The bare problem, where there is one, so that models with different prompts can be compared.
            parts = [row.get("problem", row["prompt"]), row.get("solution"), *pictures_of(row)]
            content = json.dumps(parts, sort_keys=True, default=content_digest)
            problem = hashlib.sha256(content.encode()).hexdigest()[:16]
            seen[problem] += 1
            if seen[problem] > 1:  # the same problem again is another one, with samples of its own
                problem += f"-{seen[problem]}"
            # As TRL does for training: special tokens are those of the chat template, or else the tokenizer's own.
            tokenizer, prompt, options = generator.tokenizer, row["prompt"], sampling.chat_template_kwargs or {}
            if hasattr(generator, "tokenize"):  # a policy in training: as its trainer does
                tokens = generator.tokenize(row)
            elif has_pictures(row):
                raise UsageError(
                    f"{benchmark!r} has pictures, which are evaluated during training alone, by EvaluationCallback. "
                    "Leave it out."
                )
            elif isinstance(prompt, str):
                tokens = tokenizer(prompt).input_ids
            else:
                tokens = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **options)["input_ids"]
            digest.update(f"{problem} {tokens}".encode())
            self.problems[problem] = row, tokens
        if not self.problems:
            raise UsageError(f"There are no problems in {benchmark!r}.")
        self.keys = [(problem, sample) for problem in self.problems for sample in range(sampling.num_samples)]
        self.settings = {
            "benchmark": benchmark,
            "model": generator.name,
            **({"weights": weights} if weights else {}),
            "judge": name_of(judge),
            **({"judge_source": source} if judge and (source := digest_of(judge)) else {}),
            **({} if configuration().skip_reasoning else {"skip_reasoning": False}),
            # Its size may change: after running out of memory, say.
            "sampling": {name: value for name, value in asdict(sampling).items() if name != "batch_size"},
            "n_problems": len(self.problems),
            # With the tokens of the prompts, so that another chat template is another set.
            "problems": digest.hexdigest()[:16],
        }

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Of several processes each must evaluate what the first does, whose settings these are."""
        if differences := [
            f"{name}={settings.get(name)!r} there, {self.settings.get(name)!r} here"
            for name in dict.fromkeys([*settings, *self.settings])
            if settings.get(name) != self.settings.get(name)
        ]:
            raise results.ResultsError(
                f"{self.path.stem}: this process would evaluate something else than rank 0: {'; '.join(differences)}. "
                "See to it that all machines have the same files."
            )

    def write(
        self, ks: Iterable[int] | None = None, processes: Processes | None = None, disable_tqdm: bool = False
    ) -> dict[str, Any]:
        """
        Draw the samples that are not there yet, append them to the result file batch by batch, and return the summary,
        which goes to the `.json` beside it. Of several processes each draws a batch in every round; the first one
        writes, the others return nothing.
        """
        processes = processes or Processes()
        count, index = processes.num_processes, processes.process_index
        in_training = hasattr(self.generator, "tokenize")
        record = self.path.with_suffix(".json")
        starts = range(self.done, len(self.keys), self.sampling.batch_size)
        failure: WriteError | None = None

        def store(rows: list[dict[str, Any]] | None = None) -> None:
            """Write settings, or append rows. In training, errors wait until all processes have done their rounds."""
            nonlocal failure
            if index or failure:
                return
            try:
                with writing(self.path, "" if in_training else "What is whole stays: called again, it goes on."):
                    if rows is None:
                        write_json(record, {"settings": self.settings})
                    with self.path.open("ab" if self.done or rows else "wb") as file:
                        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows or []).encode())
            except WriteError as error:
                if not in_training:
                    raise
                failure = error

        store()
        with tqdm(
            total=len(self.keys),
            initial=self.done,
            desc=f"{self.path.parent.name}/{self.path.stem}",
            unit="sample",
            leave=not in_training,
            disable=disable_tqdm or index > 0,
        ) as progress:
            for first in range(0, len(starts), count):
                mine = first + index
                rows = []
                if mine < len(starts):
                    rows = self._draw(starts[mine])
                elif in_training:
                    self.generator.take_part(*self._requests(starts[-1])[1:], self.sampling)  # type: ignore[attr-defined]
                rows = processes.gather(rows)
                store(rows)
                progress.update(len(rows))
        if index:
            return {}
        if failure:
            raise failure
        summary = results.summarize(results.read(self.path), ks)
        write_json(record, {"settings": self.settings, "summary": summary})
        if summary["unparsable"] == 1:
            verdicts = " and ".join(f"{count} {verdict}" for verdict, count in summary["verdicts"].items())
            _logger.warning(
                f"{self.path}: no sample got a verdict of {self.settings['judge']} ({verdicts}). The metrics say "
                "nothing of the model: look at completions there, and whether judge, template and solutions fit."
            )
        return summary

    def _requests(self, start: int) -> tuple[Any, Any, list[int]]:
        """The problems of a batch of samples, from `start` on, the tokens of their prompts, and the samples' seeds."""
        keys = self.keys[start : start + self.sampling.batch_size]
        rows, prompts = zip(*(self.problems[problem] for problem, _ in keys), strict=True)
        seeds = [  # non-negative and of 63 bits: the widest that every generator takes
            int.from_bytes(hashlib.sha256(f"{self.sampling.seed} {problem} {sample}".encode()).digest()[:8]) >> 1
            for problem, sample in keys
        ]
        return rows, prompts, seeds

    def _draw(self, start: int) -> list[dict[str, Any]]:
        """A batch of samples, from `start` on, drawn and judged: its rows of the result file."""
        keys = self.keys[start : start + self.sampling.batch_size]
        rows, prompts, seeds = self._requests(start)
        completions = self.generator.generate(prompts, seeds, self.sampling)
        verdicts = judge_samples(self.judge, rows, [completion.text for completion in completions])
        return [
            {"benchmark": self.settings["benchmark"], "problem": problem, "sample": sample}
            | {"completion": completion.text, "tokens": completion.tokens, "truncated": completion.truncated}
            | verdict
            for (problem, sample), completion, verdict in zip(keys, completions, verdicts, strict=True)
        ]


def pictures_of(row: Mapping[str, Any]) -> list[Any]:
    """The pictures in a problem's columns, as TRL's trainers take them."""
    if row.get("image") is not None:
        return [row["image"]]
    return list(row.get("images") or [])


def has_pictures(row: Mapping[str, Any]) -> bool:
    """Whether there are pictures in a problem's columns, or in its messages."""
    contents = [] if isinstance(row["prompt"], str) else [message.get("content") for message in row["prompt"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return bool(pictures_of(row)) or any(part["type"] == "image" for part in parts)
