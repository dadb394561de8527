"""
Train by HTPO, TRL-style: `htpo train`, or under a launcher of your own:

```bash
accelerate launch -m htpo_trl.scripts.htpo --config smollm2-135m-cpu
torchrun --nproc_per_node 8 -m htpo_trl.scripts.htpo --config RECIPE.yaml --learning_rate 2e-6
```
"""

import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..data.names import (
    PromptArguments,
    benchmark,
    check_options,
    dataset,
    hub_id,
    is_ours,
    mixture,
)
from ..utils import versions
from .arguments import UsageError, read
from .flags import Flag, flags_of
from .reward_names import check_columns, reward_functions


#: Class -> its title in the help.
TITLES = {
    "HTPOConfig": "HTPO, and TRL's options whose defaults it changes (HTPOConfig)",
    "HTPOScriptArguments": "Data, rewards, benchmarks (HTPOScriptArguments)",
    "PromptArguments": "Prompts (PromptArguments)",
    "DatasetMixtureConfig": "Several data sets (TRL's DatasetMixtureConfig)",
    "ModelConfig": "Model, LoRA, quantization (TRL's ModelConfig)",
    "GRPOConfig": "TRL's GRPOConfig",
    "_BaseConfig": "Of all trainers of TRL",
    "TrainingArguments": "transformers' TrainingArguments",
}


@dataclass
class HTPOScriptArguments(PromptArguments):
    """
    What the training script needs beyond [`HTPOConfig`], [`~trl.ModelConfig`] and [`~trl.DatasetMixtureConfig`].

    Args:
        dataset_name (`str`, *optional*):
            A benchmark or training set of `htpo_trl.data`, a procedural task, `"countdown"`, a `.jsonl`, `.csv` or
            `.parquet` file, or an id on the Hub. For several, use `datasets`.
        dataset_path (`str`, *optional*):
            A downloaded copy of a set that `htpo_trl.data` knows, with the Hub's columns, as `.jsonl`, `.csv` or
            `.parquet`.
        dataset_config, dataset_train_split, dataset_test_split, dataset_streaming (*optional*):
            As in TRL's scripts, for data sets of the Hub by their id.
        reward_funcs (`list[str]`, *optional*, defaults to `["math_reward"]`):
            Names, or dotted paths that are importable from the working directory. The first one judges correctness.
        soft_punish_cache (`int`, *optional*, defaults to `4096`):
            With the reward `get_soft_overlong_punishment`: the last tokens below `max_completion_length`, over which
            the penalty grows.
        eval_benchmarks (`list[str]`, *optional*):
            What to evaluate mean@n and pass@k on, every `eval_steps` steps and at both ends: names as for
            `dataset_name`, or `"test"`, the part of the training data that `test_split_size` holds out.
        eval_num_samples, eval_max_new_tokens, eval_temperature, eval_top_p, eval_batch_size (*optional*):
            How the benchmarks are sampled, see [`~htpo_trl.evaluation.Sampling`].
        eval_judge (`str`, *optional*):
            Reward function that judges the benchmarks; the math verifier by default.
        record_tokens_steps (`int`, *optional*):
            Optimizer steps between two records of tokens, which `htpo tokens` shows, see
            [`~htpo_trl.tokens.callback.TokenRecorder`]. By default nothing is recorded.
        record_tokens_completions (`int`, *optional*, defaults to `16`):
            Completions per record.
        verifier_workers, verifier_deadline, verifier_memory_limit (*optional*):
            Limits of the math verifier, see [`~htpo_trl.verifier.VerifierConfig`].
    """

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A set that htpo_trl knows by name, such as 'dapo-math-17k', a procedural task, 'countdown', a "
            ".jsonl, .csv or .parquet file, or an id on the Hub. For several, use `datasets` in the recipe."
        },
    )
    dataset_path: str | None = field(
        default=None,
        metadata={"help": "Downloaded copy of a set that htpo_trl knows by name: .jsonl, .csv or .parquet."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a data set of the Hub."})
    dataset_train_split: str | None = field(
        default=None, metadata={"help": "Split of a data set of the Hub to train on, 'train' by default."}
    )
    dataset_test_split: str | None = field(
        default=None, metadata={"help": "Split of a data set of the Hub for the trainer's evaluation (eval_strategy)."}
    )
    dataset_streaming: bool = field(
        default=False, metadata={"help": "Whether to stream a data set of the Hub that has the column 'prompt'."}
    )
    reward_funcs: list[str] = field(
        default_factory=lambda: ["math_reward"],
        metadata={
            "help": "Reward functions: 'math_reward', 'signed_math_reward', 'dapo_math_reward', 'last_number_reward', "
            "'countdown_reward', 'get_soft_overlong_punishment', TRL's 'accuracy_reward', 'think_format_reward', "
            "'reasoning_accuracy_reward', or dotted paths. The first one judges correctness."
        },
    )
    soft_punish_cache: int = field(
        default=4096,
        metadata={"help": "Tokens below `max_completion_length` over which the soft overlong punishment grows."},
    )
    eval_benchmarks: list[str] | None = field(
        default=None,
        metadata={
            "help": "What to evaluate mean@n and pass@k on every `eval_steps`: names as for `dataset_name`, or "
            "'test', the part of the training data that `test_split_size` holds out."
        },
    )
    eval_num_samples: int = field(default=8, metadata={"help": "Samples per problem of the benchmarks."})
    eval_max_new_tokens: int | None = field(
        default=None, metadata={"help": "Tokens per sample of the benchmarks, `max_completion_length` by default."}
    )
    eval_temperature: float = field(default=1.0, metadata={"help": "Temperature of the benchmarks' samples."})
    eval_top_p: float = field(default=0.7, metadata={"help": "Top-p of the benchmarks' samples; the paper's."})
    eval_batch_size: int = field(default=64, metadata={"help": "Samples of the benchmarks generated at once."})
    eval_judge: str | None = field(
        default=None, metadata={"help": "Reward function that judges the benchmarks; the math verifier by default."}
    )
    record_tokens_steps: int | None = field(
        default=None,
        metadata={"help": "Optimizer steps between two records of tokens for `htpo tokens`; none by default."},
    )
    record_tokens_completions: int = field(default=16, metadata={"help": "Completions per record of tokens."})
    verifier_workers: int = field(default=8, metadata={"help": "Worker processes of the math verifier."})
    verifier_deadline: float = field(default=5.0, metadata={"help": "Seconds the math verifier has per answer."})
    verifier_memory_limit: int = field(default=512, metadata={"help": "MiB the math verifier has per answer."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("record_tokens_steps", "record_tokens_completions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")


def make_parser(prog: str | None = None, config_class: type | None = None):
    """TRL's parser of the script's classes. Parsing builds the configuration, which initialises devices."""
    from trl import DatasetMixtureConfig, ModelConfig, TrlParser

    from ..config import HTPOConfig

    classes: Any = (HTPOScriptArguments, config_class or HTPOConfig, ModelConfig, DatasetMixtureConfig)
    usage = f"{prog} [--config RECIPE] [--OPTION VALUE ...]"  # not all 300 of them with every error
    return TrlParser(classes, prog=prog, usage=usage, add_help=False, allow_abbrev=False)


def flags() -> dict[str, Flag]:
    """The script's flags, without importing TRL or torch."""
    return {
        **flags_of("htpo_trl.scripts.htpo", "HTPOScriptArguments"),
        **flags_of("htpo_trl.config", "HTPOConfig"),
        **flags_of("trl", "ModelConfig", "DatasetMixtureConfig"),
    }


def parse(script: Sequence[str], defaults: dict[str, Any], prog: str, config_class: type | None = None) -> tuple:
    """The script's four configurations of tokens and defaults, see [`~htpo_trl.scripts.arguments.read`]."""
    parser = make_parser(prog, config_class)
    parser.set_defaults(**defaults)
    values = vars(parser.parse_args(script))
    if values["use_cpu"] and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        # transformers reads `use_cpu` as "no DeepSpeed". What the user means, DeepSpeed on CPU, is this.
        os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        values |= {"use_cpu": False, "ddp_backend": values["ddp_backend"] or "gloo"}
    if str(values["resume_from_checkpoint"]).lower() == "true":
        values["resume_from_checkpoint"] = True
    return parser.parse_dict(values)


def missing_packages(training_args: Any, model_args: Any) -> list[str]:
    """Packages that the options need and that are not installed, as arguments of pip."""
    needed = {
        "vllm": ("htpo_trl[vllm]", training_args.use_vllm),
        "bitsandbytes": ("bitsandbytes", model_args.load_in_4bit or model_args.load_in_8bit),
        **{name: (f"htpo_trl[{name}]", name in training_args.report_to) for name in ("wandb", "trackio")},
        "tensorboard": ("htpo_trl[tensorboard]", "tensorboard" in training_args.report_to),
        "deepspeed": ("htpo_trl[deepspeed]", bool(training_args.deepspeed)),
    }
    return [argument for name, (argument, needs) in needed.items() if needs and not find_spec(name)]


class Data:
    """
    What the options name, found: the data to train on (`train`), for TRL's evaluation (`eval`) and as `benchmarks`,
    and the `reward_funcs` that fit it.
    """

    def __init__(self, script_args: HTPOScriptArguments, training_args: Any, dataset_args: Any) -> None:
        from ..data.loaders import exclude, split

        self.reward_funcs = reward_functions(
            script_args.reward_funcs, training_args.max_completion_length, script_args.soft_punish_cache
        )
        if bool(script_args.dataset_name) == bool(dataset_args.datasets):
            raise UsageError("Give the training data by --dataset_name, or several sets by `datasets` in the recipe.")
        name = script_args.dataset_name
        names = [name] if name else [entry.path for entry in dataset_args.datasets]
        check_options([*names, *(script_args.eval_benchmarks or [])], script_args)
        if name is None:
            self.train = mixture(dataset_args.datasets, script_args)
        else:
            self.train = self._load(
                script_args, script_args.dataset_train_split or (None if is_ours(name) else "train")
            )
        held_out = None
        if dataset_args.test_split_size is not None:
            share = dataset_args.test_split_size
            # Whatever the run's seed: runs are compared on the same problems.
            parts = split(self.train, {"train": 1 - share, "test": share})
            self.train, held_out = parts["train"], parts["test"]
        self.benchmarks = {}
        for entry in script_args.eval_benchmarks or []:
            if entry == "test":
                if held_out is None:
                    raise UsageError(
                        "eval_benchmarks: 'test' is what test_split_size holds out: set it, e.g. to 0.05."
                    )
                self.benchmarks["test"] = held_out
            else:
                self.benchmarks |= [benchmark(entry, script_args)]
        if self.benchmarks and "problem" in (self.train.column_names or []):
            before = len(self.train)
            self.train = exclude(self.train, *self.benchmarks.values())
            if len(self.train) < before and training_args.process_index == 0:
                print(f"{before - len(self.train)} training problems are in the benchmarks: left out.")
        check_columns(self.reward_funcs, self.train)
        self.eval = None
        if training_args.eval_strategy != "no":
            if held_out is not None:
                self.eval = held_out
            elif name and script_args.dataset_test_split:
                self.eval = self._load(script_args, script_args.dataset_test_split)
            else:
                raise UsageError(
                    f"eval_strategy={str(training_args.eval_strategy.value)!r} needs data: set test_split_size, or "
                    "dataset_test_split for a data set of the Hub. For mean@n and pass@k, set eval_benchmarks instead."
                )

    @staticmethod
    def _load(args: HTPOScriptArguments, part: str | None) -> Any:
        assert args.dataset_name is not None
        return dataset(
            args.dataset_name,
            args,
            path=args.dataset_path,
            config=args.dataset_config,
            split=part,
            streaming=args.dataset_streaming,
        )


def build(script_args: HTPOScriptArguments, training_args: Any, model_args: Any, dataset_args: Any) -> Any:
    """The trainer, ready to train."""
    from transformers import set_seed
    from trl import get_peft_config, get_quantization_config

    from .. import verifier
    from ..evaluation.callback import EvaluationCallback
    from ..evaluation.sampling import Sampling
    from ..tokens.callback import TokenRecorder
    from ..trainer import HTPOTrainer

    if not model_args.model_name_or_path:
        raise UsageError("Set model_name_or_path: a model's id on the Hub, or its directory.")
    name = model_args.model_name_or_path
    if not os.path.isdir(name) and name.count("/") > 1:
        raise UsageError(f"model_name_or_path={name!r} is no directory here, and cannot be an id on the Hub.")
    if missing := missing_packages(training_args, model_args):
        raise UsageError(f"Packages are missing: pip install {' '.join(map(repr, missing))}")
    verifier.configure(
        verifier.VerifierConfig(
            script_args.verifier_workers, script_args.verifier_deadline, script_args.verifier_memory_limit
        )
    )
    data = Data(script_args, training_args, dataset_args)
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        "use_safetensors": True,
        **(training_args.model_init_kwargs or {}),
    }
    set_seed(training_args.seed)
    trainer = HTPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=data.reward_funcs,
        args=training_args,
        train_dataset=data.train,
        eval_dataset=data.eval,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    if data.benchmarks:
        sampling = Sampling(
            script_args.eval_num_samples,
            script_args.eval_temperature,
            script_args.eval_top_p,
            script_args.eval_max_new_tokens or training_args.max_completion_length,
            script_args.eval_batch_size,
            training_args.seed,
        )
        judge = reward_functions([script_args.eval_judge])[0] if script_args.eval_judge else None
        trainer.add_callback(EvaluationCallback(trainer, data.benchmarks, sampling, judge))
    if script_args.record_tokens_steps is not None:
        steps, completions = script_args.record_tokens_steps, script_args.record_tokens_completions
        trainer.add_callback(TokenRecorder(trainer, steps, completions))
    if trainer.accelerator.is_main_process:
        write_settings(Path(training_args.output_dir), script_args, training_args, model_args, dataset_args)
    return trainer


def train(trainer: Any, dataset_name: str | None) -> None:
    """Train, save, push."""
    from ..training.interruption import stop_on_signals

    args = trainer.args
    with stop_on_signals(trainer):
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_state()
    trainer.save_model(args.output_dir)
    trainer.create_model_card(dataset_name=dataset_name)
    trainer.accelerator.print(f"Model saved to {args.output_dir}.")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=dataset_name)
        trainer.accelerator.print(f"Model pushed to {trainer.hub_model_id}.")
    if hasattr(trainer, "end"):  # transformers from 5.18: finishes the trackers, ends the process group
        trainer.end()


def write_settings(directory: Path, *configs: Any) -> None:
    """The options of a run, by class and without tokens, and the versions: `settings.json` beside its model."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = {
        type(config).__name__: config.to_dict() if hasattr(config, "to_dict") else asdict(config) for config in configs
    }
    text = json.dumps({"versions": versions(), **settings}, indent=1, default=str)
    (directory / "settings.json").write_text(text + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """One process of perhaps many. What is wrong with the options ends it with exit code 2 and one line."""
    from accelerate.commands.launch import launch_command_parser

    warnings.simplefilter("ignore", FutureWarning)  # deprecations within TRL and transformers are not the reader's
    argv = sys.argv[1:] if argv is None else argv
    launcher = vars(launch_command_parser().parse_args(["script"]))
    try:
        arguments = read(argv, flags(), launcher)
        configs = parse(arguments.script, arguments.defaults, "htpo train")
        trainer = build(*configs)
    except (ValueError, ImportError, OSError) as error:
        hint = " On a CPU: --use_cpu true --bf16 false. On a GPU without bfloat16: --bf16 false --fp16 true."
        if os.environ.get("RANK", "0") == "0":
            print(f"htpo train: {error}{hint * ('bf16' in str(error))}", file=sys.stderr)
        sys.exit(2)
    train(trainer, hub_id(configs[0].dataset_name))


if __name__ == "__main__":
    main()
