"""
Train by HTPO, TRL-style: `htpo train`, or under a launcher of your own:

```bash
accelerate launch -m htpo_trl.scripts.htpo --config smollm2-135m-cpu
torchrun --nproc_per_node 8 -m htpo_trl.scripts.htpo --config RECIPE.yaml --learning_rate 2e-6
```
"""

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..data.names import check_hub_id, check_options, evaluation_problems, hub_id, load, result_names
from ..data.splits import exclude, split
from ..output.directory import SETTINGS, check_free, overwrite
from ..output.lock import held
from ..output.terminal import steady_streams, stoppable
from ..utils import UsageError, check_numbers
from .arguments import (
    MODEL_RANGES,
    Arguments,
    HTPOScriptArguments,
    find_model,
    mendable,
    parser_of,
    read,
    set_environment,
)
from .combinations import check_adapter_options, check_evaluation, check_options_agree, check_quantization
from .gold_trial import try_golds_of_run
from .packages import missing_packages
from .reward_names import benchmark_judge, reward_functions, spoken_names


#: Class -> its title in the help.
TITLES = {
    "htpo_trl.config.HTPOConfig": "HTPO, and TRL's options whose defaults it changes (HTPOConfig)",
    "htpo_trl.scripts.arguments.HTPOScriptArguments": "Data, rewards, benchmarks (HTPOScriptArguments)",
    "htpo_trl.data.prompts.PromptArguments": "Prompts (PromptArguments)",
    "htpo_trl.scripts.verifier_arguments.VerifierArguments": "Math verifier (VerifierArguments)",
    "trl.trainer.model_config.ModelConfig": "Model, LoRA, quantization (TRL's ModelConfig)",
    "trl.trainer.grpo_config.GRPOConfig": "TRL's GRPOConfig",
    "trl.trainer.base_config._BaseConfig": "Of all trainers of TRL",
    "transformers.training_args.TrainingArguments": "transformers' TrainingArguments",
}


def make_parser(config_class: type | None = None) -> Any:
    """The parser of the script's classes."""
    from trl import ModelConfig

    from ..config import HTPOConfig

    return parser_of(HTPOScriptArguments, config_class or HTPOConfig, ModelConfig)


def read_options(argv: Sequence[str]) -> Arguments:
    """Sort out a command line of the script, which may hold flags of `accelerate launch`; set its environment."""
    from accelerate.commands.launch import launch_command_parser

    arguments = read(argv, TITLES, vars(launch_command_parser().parse_args(["script"])))
    set_environment(arguments.env)
    return arguments


def parse(tokens: Sequence[str], defaults: dict[str, Any], config_class: type | None = None) -> tuple:
    """The script's three configurations of tokens and defaults, see [`~htpo_trl.scripts.arguments.read`]."""
    warnings.simplefilter("ignore", FutureWarning)  # deprecations within TRL and transformers are not the reader's
    parser = make_parser(config_class)
    parser.set_defaults(**defaults)
    values = vars(parser.parse_args(tokens))
    if values["use_cpu"] and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        # transformers reads `use_cpu` as "no DeepSpeed". What the user means, DeepSpeed on CPU, is this.
        os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        values |= {"use_cpu": False, "ddp_backend": values["ddp_backend"] or "gloo"}
    try:
        script, args, model = parser.parse_dict(values)
    except ValueError as error:  # of the classes of TRL and transformers too
        hint = " On a CPU: --use_cpu true --bf16 false." * ("bf16" in str(error))
        raise UsageError(f"{error}{hint}") from error
    check_numbers(model, MODEL_RANGES)
    check_adapter_options(model, tokens)
    return script, args, model


class Parts(NamedTuple):
    """What the options name, ready for the trainer; of a plan whose data are on the Hub without these."""

    rewards: list[Any]
    train: Any = None
    evaluation: Any = None  #: for TRL's evaluation
    benchmarks: dict[str, Any] = {}
    sampling: Any = None  #: of the benchmarks
    judge: Any = None
    peft_config: Any = None
    quantization_config: Any = None


def prepare(script: HTPOScriptArguments, args: Any, model: Any, is_plan: bool = False) -> Parts:
    """
    Whatever the options name, but for the model: one way for the run and for its plan, so that both refuse the same.
    """
    from huggingface_hub import get_token
    from trl import get_peft_config, get_quantization_config

    from ..evaluation import Sampling
    from ..evaluation.callback import check_best_metric
    from ..evaluation.judges import check_columns
    from ..evaluation.results import check_ks

    if not model.model_name_or_path:
        raise UsageError("Set model_name_or_path: a model's id on the Hub, or its directory.")
    find_model(model.model_name_or_path)  # which refuses a slip
    check_quantization(model)
    check_evaluation(script, args)
    if not is_plan and (missing := missing_packages(args, model)):
        raise UsageError(f"Packages are missing: pip install {' '.join(map(repr, missing))}")
    if args.enable_jit_checkpoint:
        raise UsageError(
            "enable_jit_checkpoint=True: leave it out, htpo train saves a checkpoint on SIGTERM by itself."
        )
    if args.push_to_hub and not (args.hub_token or get_token()):
        raise UsageError("push_to_hub=True needs a token of the Hub: `hf auth login`, HF_TOKEN or hub_token.")
    try:
        adapter: dict[str, Any] = {"peft_config": get_peft_config(model)}
        adapter["quantization_config"] = None if is_plan else get_quantization_config(model)
    except ValueError as error:
        raise UsageError(str(error)) from error
    rewards = reward_functions(script.reward_funcs, args.max_completion_length, script.soft_punish_cache)
    args.correctness_reward = spoken_names(args.correctness_names, script.reward_funcs, rewards)
    judge = benchmark_judge(script.eval_judge, args, rewards)
    names = script.eval_benchmarks or []
    if not script.dataset_name:
        raise UsageError("Set dataset_name: the data to train on.")
    check_options([script.dataset_name, *names], script)
    sampling = Sampling(
        script.eval_num_samples,
        script.eval_temperature,
        script.eval_top_p,
        script.eval_max_new_tokens or args.max_completion_length,
        script.eval_batch_size,
        args.seed,
        args.chat_template_kwargs,
    )
    is_alone = args.eval_strategy == "no" or not (script.test_split_size or script.dataset_test_split)
    if labels := result_names(names, "eval_benchmarks").values():
        check_best_metric(args, labels, sampling, judge, check_ks(sampling.num_samples), is_alone)
    for name in remote(script):
        check_hub_id(name)
    if is_plan and remote(script):
        return Parts(rewards, judge=judge, **adapter)
    train, evaluation, benchmarks = load_data(script, args)
    for benchmark, problems in benchmarks.items():
        check_columns(judge, problems.column_names, benchmark)
    try_golds_of_run(script, rewards, judge, train, benchmarks)
    return Parts(rewards, train, evaluation, benchmarks, sampling, judge, **adapter)


def remote(script: HTPOScriptArguments) -> list[str]:
    """The data sets of a run that are on the Hub."""
    named = [None if script.dataset_path else script.dataset_name, *(script.eval_benchmarks or [])]
    return [name for name in named if name and name != "test" and hub_id(name)]


def load_data(script: HTPOScriptArguments, args: Any) -> tuple[Any, Any, dict[str, Any]]:
    """
    The data sets that the options name: to train on, without the test part that is held out and the benchmarks'
    problems; for TRL's evaluation; and the benchmarks.
    """
    name, names = script.dataset_name or "", script.eval_benchmarks or []
    path, config, streaming = script.dataset_path, script.dataset_config, script.dataset_streaming
    of_split = partial(load, name, script, path=path, config=config, streaming=streaming)
    train, held_out = of_split(split=script.dataset_train_split), None
    if script.test_split_size is not None:
        # Whatever the run's seed: runs are compared on the same problems.
        parts = split(train, {"train": 1 - script.test_split_size, "test": script.test_split_size})
        train, held_out = parts["train"], parts["test"]
    benchmarks = evaluation_problems(names, script, held_out, "eval_benchmarks")
    if args.eval_strategy == "no":
        held_out = None
    elif held_out is None:
        # Without data of its own the benchmarks are the evaluation.
        held_out = of_split(split=script.dataset_test_split) if script.dataset_test_split else {}
    return _without(train, [*benchmarks.values(), *([held_out] if held_out else [])], args), held_out, benchmarks


def _without(train: Any, held_out: list[Any], args: Any) -> Any:
    """The training data without the problems that the run is evaluated on."""
    if not held_out or {"image", "images"} & {*(train.column_names or [])}:
        return train  # a question about another picture is another problem
    left = exclude(train, *held_out)
    if hasattr(train, "__len__") and not len(left):
        raise UsageError(
            f"All {len(train)} training problems are in what the run is evaluated on, where they do not belong: name "
            "other eval_benchmarks, or hold a part out by test_split_size."
        )
    if hasattr(train, "__len__") and len(left) < len(train) and args.process_index == 0:
        print(f"{len(train) - len(left)} training problems are in what the run is evaluated on: left out.")
    return left


def check_output(script: HTPOScriptArguments, args: Any, model: Any) -> None:
    """Raise a [`UsageError`] where the run may not write to `output_dir`."""
    read = [model.model_name_or_path, script.dataset_name, script.dataset_path, *(script.eval_benchmarks or [])]
    check_free(args.output_dir, args.resume_from_checkpoint, script.overwrite_output_dir, read)


def model_init_kwargs(args: Any, model: Any) -> dict[str, Any]:
    """How the model is loaded."""
    return {
        "revision": model.model_revision,
        "trust_remote_code": args.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        "use_safetensors": True,
        **(args.model_init_kwargs or {}),
    }


def build(script: HTPOScriptArguments, args: Any, model: Any) -> Any:
    """The trainer, ready to train; its `settings.json` will tell the script's options too."""
    from transformers import PrinterCallback, ProgressCallback, set_seed

    from .. import verifier
    from ..evaluation import EvaluationCallback
    from ..tokens.callback import TokenRecorder
    from ..trainer import HTPOTrainer
    from ..training.checks import loading_told
    from ..training.console import ConsoleLog

    verifier.configure(script.verifier_config())
    parts = prepare(script, args, model)
    args.model_init_kwargs = model_init_kwargs(args, model)
    set_seed(args.seed)
    with loading_told(f"model_name_or_path={model.model_name_or_path!r}"):
        trainer = HTPOTrainer(
            model=find_model(model.model_name_or_path),
            reward_funcs=parts.rewards,
            args=args,
            train_dataset=parts.train,
            eval_dataset=parts.evaluation,
            quantization_config=parts.quantization_config,
            peft_config=parts.peft_config,
        )
    trainer.resume_option = "--resume_from_checkpoint {}"
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    trainer.add_callback(ConsoleLog())
    if parts.benchmarks:
        options: Any = {"judge": parts.judge or "verifier", "before_training": script.eval_before_training}
        trainer.add_callback(EvaluationCallback(trainer, parts.benchmarks, parts.sampling, **options))
    if script.record_tokens_steps is not None:
        trainer.add_callback(TokenRecorder(trainer, script.record_tokens_steps, script.record_tokens_completions))
    if script.overwrite_output_dir and trainer.accelerator.is_main_process:
        overwrite(args.output_dir)
    trainer.settings = {type(config).__name__: asdict(config) for config in (script, model)}
    return trainer


def train(trainer: Any, dataset_name: str | None) -> None:
    """Train, save, push. A signal that comes when no step is left takes effect after that."""
    from ..training.interruption import stop_on_signals

    args = trainer.args
    with stop_on_signals(trainer):
        try:
            trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        except BaseException:
            did_nothing = trainer.state.global_step == 0 and not args.resume_from_checkpoint
            if did_nothing and trainer.accelerator.is_main_process:
                Path(args.output_dir, SETTINGS).unlink(missing_ok=True)  # which stand for a run
            raise
        finish(trainer, dataset_name)


def finish(trainer: Any, dataset_name: str | None) -> None:
    """Save, push."""
    from ..training.saving import save_model

    args = trainer.args
    save_model(trainer)
    trainer.create_model_card(dataset_name=dataset_name)
    trainer.accelerator.print(f"Model saved to {args.output_dir}.")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=dataset_name)
        trainer.accelerator.print(f"Model pushed to {trainer.hub_model_id}.")
    if hasattr(trainer, "end"):  # transformers from 5.18: finishes the trackers, ends the process group
        trainer.end()


def main(argv: Sequence[str] | None = None) -> None:
    """One process of perhaps many. What its user can mend ends it with exit code 2 and one line."""
    steady_streams()
    with ExitStack() as stack:
        stack.enter_context(mendable("htpo train"))
        with stoppable("htpo train", "Training had not begun."):
            arguments = read_options(sys.argv[1:] if argv is None else argv)
            configs = parse(arguments.script, arguments.defaults)
            check_options_agree(*configs)
            if configs[1].process_index == 0:
                stack.enter_context(held(configs[1].output_dir, "htpo train"))
                check_output(*configs)
            trainer = build(*configs)
        with stoppable("htpo train", "The run is complete."):
            train(trainer, hub_id(configs[0].dataset_name))


if __name__ == "__main__":
    main()
