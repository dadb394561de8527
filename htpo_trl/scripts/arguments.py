"""
The arguments of `htpo train` and `htpo eval`: recipe and command line, sorted into those of the script and those of
accelerate's launcher. No torch, no configuration object: nothing here initialises a device or a process group.
"""

import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..data.prompts import PromptArguments
from ..output.reading import parse_json, read_yaml
from ..output.redaction import redact_text
from ..output.terminal import printable
from ..utils import UsageError, check_numbers, nearest, option
from .flags import flags_of
from .verifier_arguments import VerifierArguments


#: Folder of the packaged recipes.
RECIPES = Path(__file__).parents[1] / "recipes"
#: Folder of the packaged configurations of accelerate.
ACCELERATE_CONFIGS = RECIPES.with_name("accelerate_configs")
#: Folder of the packaged models, each in a directory of its name; `scripts/warm_starts.py` makes them.
WARM_STARTS = RECIPES.with_name("warm_starts")
#: Where the numbers of TRL's `ModelConfig` must lie.
MODEL_RANGES = {"[1, inf)": ("lora_r", "lora_alpha"), "[0, 1)": ("lora_dropout",)}


_MAX_LINE = 4000  # characters of an error: values may be long, and the mend stands at the end


@contextmanager
def mendable(command: str, *errors: type[Exception]) -> Iterator[None]:
    """
    End a command on a [`UsageError`], which its user can mend, or one of `errors`: a line on stderr, with the rank
    where there are several processes, and exit code 2. Any other error is a bug, here or in what a user wrote, and
    keeps its traceback.
    """
    try:
        yield
    except (UsageError, *errors) as error:  # type: ignore[misc]
        parts = [str(error), *getattr(error, "__notes__", [])]
        text = " ".join(line.strip() for part in parts for line in part.splitlines())
        text = text if len(text) < _MAX_LINE else f"{text[: _MAX_LINE // 2]} … {text[-_MAX_LINE // 4 :]}"
        text = printable(redact_text(text)).replace("resume_from_checkpoint=True", "--resume_from_checkpoint true")
        text = text.replace("as `model`", "as --model_name_or_path, with another output_dir")
        rank = f", rank {os.environ['RANK']}" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
        if not rank or _is_first_to_tell(text):
            print(f"{command}{rank}: {text}", file=sys.stderr, flush=True)
        sys.exit(2)


def _is_first_to_tell(text: str) -> bool:
    """Whether no other process of the run has said this line. Where all fail on the same, one tells."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    from torch.distributed import TCPStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=10))
        return store.add(f"htpo_trl/{text}", 1) == 1
    except RuntimeError:  # the launcher is gone
        return True


def strict(parser: ArgumentParser) -> ArgumentParser:
    """The parser, with a [`UsageError`] for what it refuses, where argparse would print all 300 options."""

    def error(message: str) -> NoReturn:
        raise UsageError(message)

    parser.error = error  # type: ignore[method-assign]
    return parser


def parser_of(*classes: Any) -> Any:
    """The parser of dataclasses. Whoever parses builds no configuration yet, which would initialise devices."""
    from transformers import HfArgumentParser

    parser = strict(HfArgumentParser(classes, add_help=False, allow_abbrev=False))
    parser.register("type", dict[str, Any], _mapping)
    return parser


def _mapping(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r:.80} must be a mapping, as JSON: {error}") from None


@dataclass
class HTPOScriptArguments(VerifierArguments, PromptArguments):
    """What the training script needs beyond [`HTPOConfig`] and [`~trl.ModelConfig`]."""

    overwrite_output_dir: bool = option(
        False,
        "Whether to remove another run that `output_dir` holds: checkpoints, weights, logs, evaluations, records. "
        "Without it that run is refused, unless `resume_from_checkpoint` goes on with it.",
    )
    dataset_name: str | None = option(
        None,
        "A set that htpo_trl knows by name, such as 'dapo-math-17k', a procedural task, 'countdown', a .jsonl, .csv "
        "or .parquet file, or an id on the Hub.",
    )
    dataset_path: str | None = option(None, "Downloaded copy of a set known by name: .jsonl, .csv or .parquet.")
    dataset_config: str | None = option(None, "Configuration of a data set of the Hub.")
    dataset_train_split: str | None = option(None, "Split of a data set of the Hub to train on, 'train' by default.")
    dataset_test_split: str | None = option(None, "Split of a data set of the Hub for `eval_strategy`.")
    dataset_streaming: bool = option(False, "Whether to stream a data set of the Hub that has the column 'prompt'.")
    test_split_size: float | None = option(None, "Share of the training data to hold out, by a hash of the problem.")
    allow_unmatched_golds: bool = option(
        False, "Whether to go on where a tenth of the golds or more are not accepted as answers to themselves."
    )
    reward_funcs: list[str] = option(
        ["math_reward"],
        "Reward functions: 'math_reward', 'signed_math_reward', 'dapo_math_reward', 'last_number_reward', "
        "'countdown_reward', 'get_soft_overlong_punishment', 'accuracy_reward', 'reasoning_accuracy_reward', "
        "'think_format_reward', or your own: file.py:function, module.function. The first judges correctness.",
    )
    soft_punish_cache: int = option(4096, "Tokens before `max_completion_length` over which the punishment grows.")
    eval_benchmarks: list[str] | None = option(
        None,
        "What to evaluate mean@n and pass@k on, every `eval_steps` steps and at both ends: names as for "
        "`dataset_name`, or 'test', the part of the training data that `test_split_size` holds out.",
    )
    eval_before_training: bool = option(True, "Whether to evaluate the benchmarks before the first step, too.")
    eval_num_samples: int = option(8, "Samples per problem of the benchmarks.")
    eval_max_new_tokens: int | None = option(None, "Tokens per sample, `max_completion_length` by default.")
    eval_temperature: float = option(1.0, "Temperature of the benchmarks' samples.")
    eval_top_p: float = option(0.7, "Top-p of the benchmarks' samples; the paper's.")
    eval_batch_size: int = option(64, "Samples of the benchmarks generated at once; with vLLM thousands are best.")
    eval_judge: str | None = option(
        None,
        "Who judges the benchmarks: a reward function, named as in `reward_funcs`, or 'verifier', for math. By "
        "default what judges correctness in training, which for this package's math rewards is the verifier.",
    )
    record_tokens_steps: int | None = option(None, "Steps between two records for `htpo tokens`; none by default.")
    record_tokens_completions: int = option(16, "Completions per record of tokens.")

    RANGES = {
        "[1, inf)": (
            *("soft_punish_cache", "eval_num_samples", "eval_max_new_tokens", "eval_batch_size"),
            *("record_tokens_steps", "record_tokens_completions", *VerifierArguments.RANGES["[1, inf)"]),
        ),
        "(0, inf)": VerifierArguments.RANGES["(0, inf)"],
        "[0, inf)": ("eval_temperature",),
        "(0, 1]": ("eval_top_p",),
        "(0, 1)": ("test_split_size",),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, self.RANGES)


# Option -> what to do in its place, where the nearest name would mislead.
_OTHERWISE = {
    "dry_run": "It stands on the command line alone: --dry_run.",
    "max_prompt_length": "TRL no longer cuts prompts: leave long ones out of the data.",
}


class Arguments(NamedTuple):
    """What recipe and command line ask for. Tokens are for argparse, those of the recipe first: the last one wins."""

    script: list[str]
    launch: list[str]  #: for `accelerate launch`
    defaults: dict[str, Any]  #: of the script: what a token cannot hold, `None` and mappings
    env: dict[str, str]  #: environment variables, for [`set_environment`]


def read(argv: Sequence[str], titles: Mapping[str, str], launch_flags: Iterable[str] = ()) -> Arguments:
    """
    Sort out a command line and the recipe that its `--config` names, a file or one of the package's recipes; flags are
    the fields of the classes in `titles`. Raises a [`UsageError`] for any other option, with the nearest that is one.
    """
    flags, launch_flags = flags_of(titles), {*launch_flags, "accelerate_config"}
    script, launch, defaults, env = found = Arguments([], [], {}, {})

    def place(name: str, tokens: list[str], where: object) -> None:
        if name not in flags and name not in launch_flags:
            known = [*flags, *launch_flags, "config", *(["dry_run"] if launch_flags - {"accelerate_config"} else [])]
            mend = _OTHERWISE.get(name) or nearest(name, known)
            raise UsageError(f"{where}: {name!r} is not an option. {mend}".rstrip())
        if name in flags and not flags[name].takes_several:
            _check_one(name, tokens, where)
        (script if name in flags else launch).extend(tokens)

    starts = [i for i, token in enumerate(argv) if token.startswith("--")]
    if argv and starts[:1] != [0]:
        raise UsageError(f"command line: {argv[0]!r} stands before any option. Options begin with --.")
    spans = [argv[start:end] for start, end in pairwise([*starts, len(argv)])]
    options = [(span[0][2:].partition("=")[0].replace("-", "_"), [*span]) for span in spans]
    for tokens in [tokens for name, tokens in options if name == "config"]:
        values = _check_one("config", tokens, "command line")
        if not values:
            raise UsageError("command line: --config takes one value, a recipe.")
        path, recipe, variables = load_recipe(values[0])
        env |= variables
        for name, value in recipe.items():
            items = value if isinstance(value, list) else [value]
            if name in flags:
                _check_kind(name, items, flags[name].type, path)
            if name in flags and any(item is None or isinstance(item, dict) for item in items):
                defaults[name] = value  # some versions of TRL take no mapping as a flag
            else:
                place(
                    name, [f"--{name}", *map(str, items)] if isinstance(value, list) else [f"--{name}={value}"], path
                )
    for name, tokens in options:
        if name != "config":
            name = name[3:] if name.startswith("no_") and name[3:] in flags else name
            place(name, tokens, "command line")
    return found


def _check_one(name: str, tokens: Sequence[str], where: object) -> list[str]:
    """The value of an option that takes one, if it has one."""
    values = [value for value in (tokens[0].partition("=")[2], *tokens[1:]) if value]
    if len(values) > 1:
        raise UsageError(
            f"{where}: --{name} takes one value, and {values[0]!r} is followed by {values[1]!r}. Give one; options "
            "begin with --."
        )
    return values


def _check_kind(name: str, items: Sequence[Any], kind: str, path: Path) -> None:
    """Refuse what YAML makes of an option with a value of another kind: nothing, a mapping, or a bool of `no`."""
    for item in items:
        if item is None and not re.search("None|Optional|Any", kind):
            raise UsageError(f"{path}: {name} is empty. Give it a value, or leave the line out.")
        if isinstance(item, dict) and not re.search("dict|Any", kind):
            raise UsageError(f"{path}: {name}={item!r} must be a value, or a list of some, not a mapping.")
        if isinstance(item, bool) and name != "resume_from_checkpoint" and not re.search("bool|Any", kind):
            raise UsageError(
                f"{path}: {name} is no switch, and YAML reads no, off, yes and on as one. Put the value in quotes."
            )


def load_recipe(name: str) -> tuple[Path, dict[str, Any], dict[str, str]]:
    """A recipe of the package by name, or a YAML file: its path, its options, and the environment it asks for."""
    path = find(name, RECIPES, "recipe")
    options = read_yaml(path)
    if not isinstance(options, dict):
        raise UsageError(f"{path} must map options to values, as in `learning_rate: 1.0e-6`.")
    env = options.pop("env", None) or {}
    if not isinstance(env, dict):
        raise UsageError(f"{path}: env={env!r:.60} must map environment variables to values.")
    for variable, value in env.items():
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", variable, re.ASCII):
            raise UsageError(f"{path}: env: {variable!r:.60} is no name of a variable: letters, digits and _ are.")
        if value is None or isinstance(value, (dict, list)):
            raise UsageError(f"{path}: env: {variable}={value!r:.60} must be one value. Put text in quotes.")
    return path, options, {variable: str(value) for variable, value in env.items()}


def set_environment(env: Mapping[str, str]) -> None:
    """Set environment variables of this process, and of those that it starts, but for those that are set already."""
    for variable, value in env.items():
        os.environ.setdefault(variable, value)


def find(name: str, packaged: Path, kind: str) -> Path:
    """A YAML file by path, or one of the package's by its name."""
    for path in (Path(name), packaged / f"{name}.yaml"):
        if os.path.isfile(path):  # unlike the path's own, of a name that is too long too
            return path
    known = names(packaged)
    raise UsageError(
        f"{nearest(name, known)}{name!r} is neither a file nor a {kind} of the package: {', '.join(known)}."
    )


def names(packaged: Path) -> list[str]:
    """The names of the package's YAML files in a folder."""
    return sorted(path.relative_to(packaged).with_suffix("").as_posix() for path in packaged.rglob("*.yaml"))


def find_model(name: str, option: str = "model_name_or_path") -> str:
    """
    Where a model is loaded from: of one of the package's warm starts its directory, of any other the name itself. A
    local directory of that name comes first.
    """
    known = sorted(path.parent.name for path in WARM_STARTS.glob("*/config.json"))
    if "/" in name or os.path.isdir(name):
        return name
    if name in known:
        return str(WARM_STARTS / name)
    if mend := nearest(name, known):  # what is on the Hub has an owner, or one of a few old names
        raise UsageError(
            f"{mend}{option}={name!r} is neither a directory nor a warm start of the package: {', '.join(known)}."
        )
    return name
