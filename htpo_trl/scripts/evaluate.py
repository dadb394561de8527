"""
Evaluate a model: `htpo eval --model MODEL --benchmarks aime24 math500`, or under a launcher of your own:

```bash
torchrun --nproc_per_node 8 -m htpo_trl.scripts.evaluate --model MODEL --benchmarks aime24 math500
```
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..data.names import check_hub_id, check_options, evaluation_problems, hub_id, result_names
from ..data.prompts import PromptArguments
from ..output.lock import held
from ..output.terminal import steady_streams, stoppable
from ..output.writing import check_writable
from ..utils import UsageError, check_numbers, option
from .arguments import Arguments, find_model, mendable, parser_of, read, set_environment
from .gold_trial import try_here
from .reward_names import reward_functions
from .verifier_arguments import VerifierArguments


#: Class -> its title in the help.
TITLES = {
    "htpo_trl.scripts.evaluate.EvalArguments": "Evaluation",
    "htpo_trl.evaluation.sampling.Sampling": "Samples",
    "htpo_trl.data.prompts.PromptArguments": "Prompts",
    "htpo_trl.scripts.verifier_arguments.VerifierArguments": "Math verifier",
}


#: What its user is told after Ctrl-C or another signal.
WHEN_STOPPED = "What was written stays: the same command goes on from there."


@dataclass
class EvalArguments(VerifierArguments, PromptArguments):
    """What [`~htpo_trl.evaluation.evaluate`] needs, by name, beside [`~htpo_trl.evaluation.Sampling`]."""

    model: str | None = option(
        None, "Id on the Hub, a warm start of the package, or a directory: of a model or of a LoRA adapter."
    )
    benchmarks: list[str] = option([], "Names that htpo_trl.data knows, files, or ids on the Hub.")
    output_dir: str | None = option(None, "Where samples go, and are found again; by default runs/evaluation/<path>.")
    against: str | None = option(None, "Output directory of another evaluation of the same problems, to compare with.")
    judge: str | None = option(
        None, "Reward function, by name, file.py:function or dotted path; 'verifier', for math, by default."
    )
    backend: str = option("auto", "'vllm', 'transformers', or 'auto': the first of them that is installed.")
    vllm: bool = option(False, "Whether to generate by vLLM: backend='vllm'.")
    tensor_parallel_size: int | None = option(
        None, "GPUs that an engine of vLLM spreads the model over; 1 by default."
    )
    data_parallel_size: int | None = option(
        None, "Engines of vLLM, each in a process of its own; `htpo eval` starts them. As --num_processes."
    )
    vllm_options: dict[str, Any] | None = option(None, 'Options of vllm.LLM, as JSON: {"max_model_len": 8192}.')
    dtype: str = option("auto", "Of the weights: 'auto', 'bfloat16', 'float32', ...")
    ks: list[int] | None = option(None, "Budgets of pass@k and maj@k.")
    allow_unmatched_golds: bool = option(
        False, "Whether to go on where a tenth of the golds or more are not accepted as answers to themselves."
    )

    RANGES = {"[1, inf)": ("tensor_parallel_size", "data_parallel_size")}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, self.RANGES)
        if not self.model or not self.benchmarks:
            raise UsageError("Set --model and --benchmarks.")
        if self.vllm and self.backend == "transformers":
            raise UsageError("vllm=True and backend='transformers' are two engines. Leave one out.")
        self.backend = "vllm" if self.vllm else self.backend
        if self.tensor_parallel_size is not None:
            options, name = self.vllm_options or {}, "tensor_parallel_size"
            if options.get(name, self.tensor_parallel_size) != self.tensor_parallel_size:
                raise UsageError(
                    f"{name}={self.tensor_parallel_size} is {options[name]} in vllm_options. Set it once."
                )
            self.vllm_options = options | {name: self.tensor_parallel_size}


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


def read_options(argv: Sequence[str]) -> Arguments:
    """Sort out a command line of the script, which may hold flags of `accelerate launch`; set its environment."""
    from accelerate.commands.launch import launch_command_parser

    launch_flags = vars(launch_command_parser().parse_args(["script"])).keys() - {"module"}  # which this one is
    arguments = read(argv, TITLES, launch_flags)
    set_environment(arguments.env)
    return arguments


def parse(arguments: Arguments) -> tuple[EvalArguments, Any]:
    """The script's two configurations. Neither initialises a device."""
    parser = make_parser()
    parser.set_defaults(**arguments.defaults)
    return parser.parse_dict(vars(parser.parse_args(arguments.script)))


class Parts(NamedTuple):
    """What the options name, ready to be evaluated; of a plan without the benchmarks that are on the Hub."""

    output_dir: str
    backend: str
    judge: Any
    benchmarks: dict[str, Any]
    others: dict[str, Path]  #: benchmark -> samples of the evaluation to compare with


def remote(args: EvalArguments) -> list[str]:
    """The benchmarks that are on the Hub."""
    return [name for name in args.benchmarks if hub_id(name)]


def prepare(args: EvalArguments, sampling: Any, is_plan: bool = False) -> Parts:
    """
    Whatever the options name, but for the model: one way for the evaluation and for its plan, so that both refuse the
    same, before the model is loaded.
    """
    from ..evaluation.generation import choose_backend
    from ..evaluation.judges import check_columns
    from ..evaluation.results import check_ks
    from ..training.checks import check_model
    from ..training.model_files import check_chat_template, check_tokenizer
    from ..training.prompts import check_prompt_values

    model = find_model(args.model or "", "model")
    output_dir = default_output_dir(args.model or "") if args.output_dir is None else args.output_dir
    check_ks(sampling.num_samples, args.ks)
    check_options(args.benchmarks, args)
    check_writable("output_dir", output_dir)
    named = [args.judge] if args.judge and args.judge != "verifier" else []
    judge = next(iter(reward_functions(named, option="judge")), None)
    for name in remote(args):
        check_hub_id(name)
    benchmarks = {} if is_plan and remote(args) else evaluation_problems(args.benchmarks, args)
    for name, problems in benchmarks.items():
        check_columns(judge, problems.column_names, name)
        check_prompt_values(problems, repr(name))
    others = {name: Path(args.against, f"{name}.jsonl") for name in benchmarks} if args.against else {}
    if missing := [str(path) for path in others.values() if not os.path.isfile(path)]:
        raise UsageError(f"against={args.against!r}: there is no {', '.join(missing)}.")
    loading = {"local_files_only": True} if is_plan else {}
    check_tokenizer(model, check_model(model, "model", is_plan=is_plan), None, f"model={model!r}", **loading)
    if any(isinstance(problems[0]["prompt"], list) for problems in benchmarks.values()):
        check_chat_template(model, option="model", **loading)
    return Parts(
        output_dir, choose_backend(model, args.backend, args.dtype, args.vllm_options), judge, benchmarks, others
    )


def try_golds(args: EvalArguments, parts: Parts) -> None:
    """Where the verifier judges, it must accept the golds."""
    if parts.judge is None and parts.benchmarks:
        sets = [(name, parts.benchmarks[label], None) for name, label in result_names(args.benchmarks).items()]
        try_here(sets, args, args.verifier_config(), args.allow_unmatched_golds)


def check_launched(args: EvalArguments, environment: Any) -> None:
    """Refuse what a launcher of one's own has started otherwise than these options mean."""
    size, count = args.data_parallel_size, int(environment.get("WORLD_SIZE", "1"))
    if size is not None and size != count:
        raise UsageError(
            f"data_parallel_size={size} needs as many processes, and there are {count}. Start them by `htpo eval`, or "
            f"by torchrun --nproc_per_node {size}."
        )
    for name in ("DeepSpeed", "FSDP"):
        if environment.get(f"ACCELERATE_USE_{name.upper()}", "false").lower() == "true":
            check_whole(name)


def check_whole(divided_by: str | None) -> None:
    """Refuse to divide the model's weights as training does."""
    if divided_by:
        raise UsageError(
            f"{divided_by} divides the weights of a training; to evaluate, each process has the whole model. Set "
            "--accelerate_config ddp. A model too large for a GPU: --vllm --tensor_parallel_size, or one process, "
            "which spreads it over all GPUs."
        )


def main(argv: Sequence[str] | None = None) -> None:
    """One process of perhaps many: evaluate; the first prints the table."""
    steady_streams()
    with ExitStack() as stack:
        stack.enter_context(mendable("htpo eval"))
        stack.enter_context(stoppable("htpo eval", WHEN_STOPPED))
        arguments = read_options(sys.argv[1:] if argv is None else argv)
        from .. import verifier
        from ..evaluation import compare, comparison_table, evaluate
        from ..evaluation.generation import load_generator
        from ..evaluation.parallel import joined

        processes = stack.enter_context(joined())
        is_first = processes.process_index == 0
        if not is_first:
            _hush()
        args, sampling = parse(arguments)
        verifier.configure(args.verifier_config())
        check_launched(args, os.environ)
        parts = prepare(args, sampling)
        output_dir, _, judge, benchmarks, others = parts
        if is_first:
            stack.enter_context(held(output_dir, "htpo eval"))
            try_golds(args, parts)
        model = find_model(args.model or "", "model")
        generator = load_generator(model, backend=args.backend, dtype=args.dtype, vllm_options=args.vllm_options)
        evaluate(generator, benchmarks, output_dir, sampling, judge, args.ks, distributed=processes.num_processes > 1)
        if not is_first:
            return
        print(f"Samples and summaries: {output_dir}")
        if others:
            pairs = [(path, Path(output_dir, f"{name}.jsonl")) for name, path in others.items()]
            print(comparison_table([record for pair in pairs for record in compare(*pair, args.ks)]))


def _hush() -> None:
    """The first process tells how loading goes."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()


if __name__ == "__main__":
    main()
