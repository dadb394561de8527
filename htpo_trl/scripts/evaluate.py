"""Evaluate a model: `htpo eval --model MODEL --benchmarks aime24 math500`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..data.names import PromptArguments, as_options, benchmark, check_options
from .arguments import UsageError, read
from .flags import Flag, flags_of
from .reward_names import reward_functions


#: Class -> its title in the help.
TITLES = {"EvalArguments": "Evaluation", "PromptArguments": "Prompts"}


@dataclass
class EvalArguments(PromptArguments):
    """
    What [`~htpo_trl.evaluation.evaluate`] needs, by name. How to sample: see [`~htpo_trl.evaluation.Sampling`].

    Args:
        model (`str`):
            Id on the Hub, or a directory: of a model or of a LoRA adapter.
        benchmarks (`list[str]`):
            Names of `htpo_trl.data`, files or ids on the Hub.
        output_dir (`str`, *optional*):
            Where the samples go, by default `runs/evaluation/<model>`. What is there already is not sampled again.
        against (`str`, *optional*):
            Output directory of another evaluation of the same problems, to compare this one with, pair by pair.
        judge (`str`, *optional*):
            Reward function, by name or dotted path; the math verifier by default.
        backend (`str`, *optional*, defaults to `"auto"`):
            `"vllm"`, `"transformers"`, or the first of them that is installed.
        vllm_options (`dict` or `str`, *optional*):
            Of `vllm.LLM`, such as `{"tensor_parallel_size": 4}`.
    """

    model: str | None = field(default=None, metadata={"help": "Model: id on the Hub, or directory (of LoRA too)."})
    benchmarks: list[str] = field(
        default_factory=list, metadata={"help": "Names that htpo_trl.data knows, files, or ids on the Hub."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Where the samples go; by default runs/evaluation/<model>."}
    )
    against: str | None = field(
        default=None, metadata={"help": "Output directory of another evaluation, to compare this one with."}
    )
    judge: str | None = field(
        default=None, metadata={"help": "Reward function that judges; the math verifier by default."}
    )
    backend: str = field(
        default="auto", metadata={"help": "'vllm', 'transformers', or 'auto': the first of them that is installed."}
    )
    vllm_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Options of vllm.LLM, as JSON: {"tensor_parallel_size": 4}.'}
    )
    dtype: str = field(default="auto", metadata={"help": "Of the weights: 'auto', 'bfloat16', 'float32', ..."})
    num_samples: int = field(default=32, metadata={"help": "Samples per problem."})
    temperature: float = field(default=1.0, metadata={"help": "0 decodes greedily and needs one sample."})
    top_p: float = field(default=0.7, metadata={"help": "Nucleus; the paper evaluates with 0.7."})
    max_new_tokens: int = field(default=20480, metadata={"help": "Tokens per sample."})
    batch_size: int = field(
        default=64, metadata={"help": "Samples generated at once; limited by memory, vLLM wants thousands."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the samples."})
    ks: list[int] | None = field(default=None, metadata={"help": "Budgets of pass@k and maj@k."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model or not self.benchmarks:
            raise UsageError("Set --model and --benchmarks.")
        if self.backend not in ("auto", "vllm", "transformers"):
            raise UsageError(f"backend={self.backend!r} is none of 'auto', 'vllm' and 'transformers'.")
        if self.backend == "auto":
            self.backend = "vllm" if find_spec("vllm") else "transformers"
        if self.backend == "vllm" and not find_spec("vllm"):
            raise UsageError("backend='vllm' needs vLLM: pip install 'htpo_trl[vllm]'")
        if self.backend == "transformers" and self.vllm_options:
            raise UsageError("vllm_options are of backend='vllm', but this is 'transformers'.")


def flags() -> dict[str, Flag]:
    """The command's flags, without importing torch."""
    return flags_of("htpo_trl.scripts.evaluate", "EvalArguments")


def main(argv: Sequence[str]) -> None:
    """Evaluate, and print the table. What is wrong with the options ends it with exit code 2 and one line."""
    from transformers import HfArgumentParser

    from ..evaluation import compare, comparison_table, evaluate

    try:
        arguments = read(argv, flags())
        classes: Any = EvalArguments
        parser = HfArgumentParser(
            classes, prog="htpo eval", usage="htpo eval --OPTION VALUE ...", add_help=False, allow_abbrev=False
        )
        parser.set_defaults(**arguments.defaults)
        (args,) = parser.parse_dict(vars(parser.parse_args(arguments.script)))
        check_options(args.benchmarks, args)
        benchmarks = dict(benchmark(name, args) for name in args.benchmarks)
        judge = reward_functions([args.judge])[0] if args.judge else None
        generator = _generator(args)
    except (ValueError, ImportError, OSError) as error:
        print(f"htpo eval: {error}", file=sys.stderr)
        sys.exit(2)
    output_dir = args.output_dir or f"runs/evaluation/{Path(args.model).name}"
    evaluate(generator, benchmarks, output_dir, _sampling(args), judge, args.ks)
    print(f"Samples and summaries: {output_dir}")
    if args.against:
        files = [(Path(args.against, f"{name}.jsonl"), Path(output_dir, f"{name}.jsonl")) for name in benchmarks]
        print(comparison_table([record for first, second in files for record in compare(first, second, args.ks)]))


def _sampling(args: EvalArguments) -> Any:
    from ..evaluation.sampling import Sampling

    return Sampling(args.num_samples, args.temperature, args.top_p, args.max_new_tokens, args.batch_size, args.seed)


def _generator(args: EvalArguments) -> Any:
    _sampling(args)  # what is wrong with it is known before the model is loaded
    if args.backend == "vllm":
        from vllm import LLM  # type: ignore[import-not-found]

        from ..evaluation.generation import VLLMGenerator

        options = as_options("vllm_options", args.vllm_options)
        return VLLMGenerator(LLM(args.model, dtype=args.dtype, **options))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ..evaluation.generation import TransformersGenerator

    assert args.model is not None
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype, device_map="auto", use_safetensors=True)
    return TransformersGenerator(model, AutoTokenizer.from_pretrained(args.model))
