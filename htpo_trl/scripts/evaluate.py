"""Evaluate a model: `htpo eval --model MODEL --benchmarks aime24 math500`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.names import check_options, evaluation_problems, result_names
from ..data.prompts import PromptArguments
from ..output.lock import held
from ..output.writing import check_writable
from ..utils import UsageError, option
from ..verifier import VerifierConfig
from .arguments import mendable, parser_of, read, set_environment
from .gold_trial import try_golds_of
from .reward_names import reward_functions


#: Class -> its title in the help.
TITLES = {
    "htpo_trl.scripts.evaluate.EvalArguments": "Evaluation",
    "htpo_trl.evaluation.sampling.Sampling": "Samples",
    "htpo_trl.data.prompts.PromptArguments": "Prompts",
}


@dataclass
class EvalArguments(PromptArguments):
    """What [`~htpo_trl.evaluation.evaluate`] needs, by name, beside [`~htpo_trl.evaluation.Sampling`]."""

    model: str | None = option(None, "Id on the Hub, or a directory: of a model or of a LoRA adapter.")
    benchmarks: list[str] = option([], "Names that htpo_trl.data knows, files, or ids on the Hub.")
    output_dir: str | None = option(None, "Where samples go, and are found again; by default runs/evaluation/<path>.")
    against: str | None = option(None, "Output directory of another evaluation of the same problems, to compare with.")
    judge: str | None = option(
        None, "Reward function, by name, file.py:function or dotted path; 'verifier', for math, by default."
    )
    skip_reasoning: bool = option(
        True,
        "Whether only what follows a block of reasoning, such as <think>...</think>, can hold the math verifier's "
        "answer; one that is not closed holds none. False reads such blocks too.",
    )
    backend: str = option("auto", "'vllm', 'transformers', or 'auto': the first of them that is installed.")
    vllm_options: dict[str, Any] | None = option(None, 'Options of vllm.LLM, as JSON: {"tensor_parallel_size": 4}.')
    dtype: str = option("auto", "Of the weights: 'auto', 'bfloat16', 'float32', ...")
    ks: list[int] | None = option(None, "Budgets of pass@k and maj@k.")
    allow_unmatched_golds: bool = option(
        False, "Whether to go on where a tenth of the golds or more are not accepted as answers to themselves."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model or not self.benchmarks:
            raise UsageError("Set --model and --benchmarks.")


def make_parser() -> Any:
    """The parser of [`EvalArguments`] and [`~htpo_trl.evaluation.Sampling`]."""
    from ..evaluation import Sampling

    return parser_of(EvalArguments, Sampling)


def default_output_dir(model: str) -> str:
    """
    Where the results of a model go: `runs/evaluation/` and its path, from the working directory on and without
    `runs/`, or its id on the Hub, so that checkpoints of one name keep apart.
    """
    path = Path(model)
    if os.path.isdir(path):
        path = Path(os.path.relpath(path))
        path = path.resolve() if ".." in path.parts else path
    parts = [part for part in path.parts if part != path.anchor]
    return str(Path("runs", "evaluation", *parts[len(parts) > 1 and parts[0] == "runs" :]))


def main(argv: Sequence[str]) -> None:
    """Evaluate, and print the table."""
    from .. import verifier
    from ..evaluation import compare, comparison_table, evaluate
    from ..evaluation.generation import load_generator
    from ..evaluation.judges import check_columns
    from ..evaluation.results import check_ks
    from ..training.checks import check_chat_template, check_model
    from ..training.model_files import check_tokenizer_files

    with mendable("htpo eval"):
        arguments = read(argv, TITLES)
        set_environment(arguments.env)
        parser = make_parser()
        parser.set_defaults(**arguments.defaults)
        args, sampling = parser.parse_dict(vars(parser.parse_args(arguments.script)))
        verifier.configure(verifier.VerifierConfig(skip_reasoning=args.skip_reasoning))
        # Before the model is loaded: what follows takes hours.
        output_dir = default_output_dir(args.model) if args.output_dir is None else args.output_dir
        check_ks(sampling.num_samples, args.ks)
        check_options(args.benchmarks, args)
        check_writable("output_dir", output_dir)
        has_judge = args.judge not in (None, "verifier")
        judge = reward_functions([args.judge], option="judge")[0] if has_judge else None
        benchmarks = evaluation_problems(args.benchmarks, args)
        for name, problems in benchmarks.items():
            check_columns(judge, problems.column_names, name)
        if judge is None:
            sets = [(name, benchmarks[label], None) for name, label in result_names(args.benchmarks).items()]
            try_golds_of(sets, args, VerifierConfig(), args.allow_unmatched_golds)
        others = {name: Path(args.against, f"{name}.jsonl") for name in benchmarks} if args.against else {}
        if missing := [str(path) for path in others.values() if not os.path.isfile(path)]:
            raise UsageError(f"against={args.against!r}: there is no {', '.join(missing)}.")
        check_model(args.model, "model")
        check_tokenizer_files(args.model, f"model={args.model!r}")
        if any(isinstance(problems[0]["prompt"], list) for problems in benchmarks.values()):
            check_chat_template(args.model, option="model")
        options = {"backend": args.backend, "dtype": args.dtype, "vllm_options": args.vllm_options}
        with held(output_dir, "htpo eval"):
            evaluate(load_generator(args.model, **options), benchmarks, output_dir, sampling, judge, args.ks)
        print(f"Samples and summaries: {output_dir}")
        if others:
            pairs = [(path, Path(output_dir, f"{name}.jsonl")) for name, path in others.items()]
            print(comparison_table([record for pair in pairs for record in compare(*pair, args.ks)]))
