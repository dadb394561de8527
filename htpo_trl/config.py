"""`HTPOConfig`: `GRPOConfig` with HTPO's options and the recipe's defaults; contradictions are refused."""

import math
import warnings
from dataclasses import dataclass, fields
from typing import Any

from transformers import GenerationConfig
from transformers.integrations import get_reporting_integration_callbacks
from trl import GRPOConfig

from .advantages import Estimator, check_advantage, estimators, get_estimator
from .objective.compatibility import PPO_LOSS_TYPES, check_options, told_of_options
from .objective.presets import PRESETS, get_table
from .objective.rules import Rule, rule_spec
from .objective.selections import check_choice
from .objective.table import SETTINGS, Table
from .output.reading import parse_json
from .output.redaction import Discreet
from .utils import UsageError, check_given, check_numbers, nearest, option


#: Where numbers must lie, those of TRL's and transformers' options too: range → names. Others need only be finite.
RANGES = {
    "-1 or [1, inf)": ("max_steps",),
    "[-1, inf)": ("local_rank",),
    "[2, inf)": ("num_generations",),  # an advantage is a difference within the group
    "[1, inf)": (
        *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
        *("num_generations_eval", "generation_batch_size", "steps_per_generation", "num_iterations"),
        *("max_completion_length", "pad_to_multiple_of", "ref_model_sync_steps", "torch_empty_cache_steps"),
        *("eval_accumulation_steps", "dataloader_prefetch_factor", "ddp_bucket_cap_mb", "ddp_timeout"),
        *("vllm_max_model_length", "vllm_tensor_parallel_size", "max_sampling_rounds"),
    ),
    "(0, inf)": (
        *("learning_rate", "num_train_epochs", "temperature", "repetition_penalty"),
        *("logging_steps", "eval_steps", "save_steps", "sapo_temperature_neg", "sapo_temperature_pos"),
        *("vllm_importance_sampling_clip_max", "vllm_importance_sampling_cap"),
    ),
    "(0, inf]": ("delta",),
    "[0, inf]": ("max_grad_norm",),  # 0 clips nothing
    "[0, inf)": (
        *("epsilon", "epsilon_high", "beta", "weight_decay", "adam_epsilon", "warmup_steps", "eval_delay", "top_k"),
        *("neftune_noise_alpha", "router_aux_loss_coef", "off_policy_mask_threshold", "entropy_target"),
        *("entropy_coef_delta", "vllm_importance_sampling_clip_min", "vllm_server_timeout", "save_total_limit"),
        *("dataloader_num_workers", "max_tool_calling_iterations", "num_completions_to_print"),
        *("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
    ),
    "(0, 1]": ("top_p", "vllm_gpu_memory_utilization", "difficulty_threshold", "top_entropy_share"),
    "[0, 1]": ("min_p", "warmup_ratio", "label_smoothing_factor", "ref_model_mixup_alpha", "top_entropy_quantile"),
    "[0, 1)": ("adam_beta1", "adam_beta2"),
    "[1, 65535]": ("vllm_server_port", "vllm_group_port"),
    "[0, 4294967295]": ("seed", "data_seed"),  # NumPy's
}
#: Names that nobody else checks before the model is loaded.
CHOICES: dict[str, tuple] = {
    "on_sampling_exhausted": ("error", "train"),
    "loss_type": (*PPO_LOSS_TYPES, "cispo", "sapo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("colocate", "server"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}


@dataclass(repr=False)
class HTPOConfig(Discreet, GRPOConfig):
    r"""
    Configuration of the [`HTPOTrainer`]: all of [`~trl.GRPOConfig`], with HTPO's options and the defaults of the
    recipe it was published with (arXiv 2605.08283, on top of DAPO, arXiv 2503.14476).

    > [!NOTE]
    > These parameters have default values different from [`~trl.GRPOConfig`]:
    > - `epsilon`, `epsilon_high`, `loss_type`: Default to `None`, which becomes what the objective was published with,
    >   or else the recipe's `0.2`, `0.28` and `"dapo"`. For TRL's `epsilon_high=None`, which is as `epsilon`, give the
    >   number.
    > - `delta`: Defaults to `10.0` instead of `None` (the dual clip).
    > - `num_generations`: Defaults to `16` instead of `8`.
    > - `steps_per_generation`: Defaults to `4 * gradient_accumulation_steps`, four optimizer steps per generation
    >   batch, instead of one. With one step every importance ratio is 1: the rules beyond the clip range never act.
    > - `use_bias_correction_kl`: Defaults to `False` instead of `True`: it weighs the KL term by the importance ratio,
    >   which is not the policy's on tokens whose gradient is kept.

    Raises:
        UsageError: for a number out of its range, or an option that contradicts the objective, with the mend.
    """

    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "objective_overrides", "advantage_kwargs"]

    # Defaults of the recipe
    epsilon: float | None = option(  # type: ignore[assignment]
        None,
        "Lower-bound epsilon value for clipping: the ratio from 1-epsilon on. By default that of the objective as it "
        f"was published, or else the recipe's {SETTINGS['epsilon']}.",
    )
    epsilon_high: float | None = option(
        None,
        "Upper-bound epsilon value for clipping: the ratio up to 1+epsilon_high. By default that of the objective as "
        f"it was published, or else the recipe's {SETTINGS['epsilon_high']}, DAPO's clip-higher. Where every row is "
        "`clip` (objective 'none' or 'dapo') and loss_type is 'cispo' it is TRL's, the cap of the ratio itself: TRL's "
        "5.0 is 4.0 with objective 'cispo', whose cap is 1+epsilon_high.",
    )
    loss_type: str | None = option(  # type: ignore[assignment]
        None,
        f"How tokens become one loss: {', '.join(PPO_LOSS_TYPES)}. By default that of the objective as it was "
        f"published, or else the recipe's {SETTINGS['loss_type']}. TRL's cispo, sapo and vespo go with objective "
        "'none'; as objectives they have the same names.",
    )
    delta: float | None = option(
        10.0, "Upper bound of the importance ratio for negative advantages (dual clip). `None`: no bound."
    )
    num_generations: int | None = option(16, "Number of responses to sample per prompt (G).")
    steps_per_generation: int | None = option(
        None,
        "Number of steps per generation. If `None`, it defaults to `4 * gradient_accumulation_steps`: "
        "four optimizer steps per generation batch, as in the HTPO paper.",
    )
    use_bias_correction_kl: bool = option(
        False,
        "Whether to multiply the KL term by the importance ratio. Refused, when `beta` is not 0, for "
        "objectives that keep gradients outside the clip range.",
    )

    # The objective
    objective: str = option(
        "htpo",
        f"Preset of the objective table: {', '.join(PRESETS)}. Or a table of your own, by its file or module: "
        "'path/mine.py:TABLE', 'package.mine:TABLE'.",
    )
    objective_overrides: dict[str, Any] | str | None = option(
        None,
        "Rows of the objective table to replace, for ablations and objectives of your own: a mapping from group to "
        'rule, e.g. `{"hard_correct_low": "clip"}`, or with arguments `{"easy_correct_high": {"rule": "detach", '
        '"share": 0.05, "which": "highest"}}`, or to several rules, as a list. Some words of a group name all groups '
        'that have them, "all" names all: `{"high": "cispo", "hard_wrong_high": "clip"}`; the name with more words '
        "holds. In Python a rule may be an object. Kept in its written form.",
    )
    difficulty_threshold: float = option(
        0.6,
        "A prompt is hard while the share of its responses that are correct lies below this (the paper's 1 - τ_diff). "
        "Raise it to explore on more prompts, lower it to exploit earlier.",
    )
    top_entropy_share: float = option(
        0.2, "Share of a response's tokens, by entropy, that count as forking (high) tokens; at least one token."
    )
    # In this order, for transformers' parser: one that ends in `None` would leave a single string.
    correctness_reward: list[str] | None | str = option(  # noqa: RUF036
        None,
        "Name of the reward function that judges correctness (its `__name__`); for several tasks several names, of "
        "which the first that does not return None judges. Defaults to the first reward function.",
    )
    correctness_threshold: float = option(
        0.5, "A response is correct when the correctness reward exceeds this. The default fits 1/0 and +1/-1 rewards."
    )

    # From rewards to advantages
    advantage: str = option(
        "grpo",
        f"How rewards become advantages: {estimators.names(from_verdicts=False)}, of which grpo is TRL's, with "
        f"`scale_rewards`; from verdicts alone {estimators.names(from_verdicts=True)}; or a function, "
        "'path/mine.py:name'.",
    )
    advantage_kwargs: dict[str, Any] | str | None = option(
        None, "Parameters of `advantage` to set, e.g. `{\"alpha\": 0.5}` for 'a-grae'."
    )

    # Dynamic sampling
    dynamic_sampling: bool = option(
        False,
        "Whether to discard, in training, the groups that teach nothing, by most estimators those whose responses are "
        "all correct or all wrong, and to generate for fresh prompts until the batch is full (DAPO). How many more "
        "completions that costs is logged. Worth it when many prompts are too easy or too hard for the model.",
    )
    max_sampling_rounds: int = option(10, "Rounds of generation per batch with dynamic sampling, the first included.")
    on_sampling_exhausted: str = option(
        "error",
        "What to do when the batch is not full after `max_sampling_rounds`, or the data has no other prompts: 'error' "
        "saves a checkpoint and stops, 'train' fills the batch with discarded groups, with a warning.",
    )

    resume_with_changes: bool = option(
        False, "Whether to resume although objective, data, model or rewards are not those of the checkpoint."
    )

    def __post_init__(self):
        published = dict(get_table(self.objective).settings)
        given = [name for name in SETTINGS if getattr(self, name) is not None]
        for name in SETTINGS.keys() - given:
            setattr(self, name, (SETTINGS | published)[name])
        check_numbers(self, RANGES)
        for name, choices in CHOICES.items():
            check_choice("HTPOConfig", name, getattr(self, name), choices)
        for name in self._VALID_DICT_FIELDS:
            self._check_mapping(name)
        if self.steps_per_generation is None and self.generation_batch_size is None:
            self.steps_per_generation = 4 * self.gradient_accumulation_steps
        if isinstance(self.resume_from_checkpoint, str):  # as recipes and flags write a bool
            written: dict[str, Any] = {"true": True, "false": None}
            self.resume_from_checkpoint = written.get(self.resume_from_checkpoint.lower(), self.resume_from_checkpoint)
        try:
            super().__post_init__()
            get_reporting_integration_callbacks(self.report_to)
            self._check_generation()
        except ValueError as error:
            group, batch, size = self.num_generations, self.generation_batch_size, self.per_device_train_batch_size
            if "by num_generations" not in str(error) or not group or not batch:
                # transformers tells a name that it does not know, and not of which option.
                unknown = (f"{f.name}: " for f in fields(self) if str(error).startswith(_unknown(self, f.name)))
                raise UsageError(f"{next(unknown, '')}{error}") from error
            # Groups do not fit the generation batch: these numbers would.
            per_row = batch // size  # of the generation batch, per row on each device
            rows = group // math.gcd(group, per_row)
            nearest = max(rows, round(size / rows) * rows)
            groups = [n for n in range(2, batch + 1) if batch % n == 0]
            near = [*(n for n in groups if n < group)][-1:] + [*(n for n in groups if n > group)][:1]
            raise UsageError(
                f"{error} A generation batch of {batch} = per_device_train_batch_size={size} x {per_row} must hold "
                f"whole groups of num_generations={group}. Set per_device_train_batch_size={nearest} (or a multiple "
                f"of {rows}), or num_generations={' or '.join(map(str, near))}."
            ) from None
        except (ImportError, OSError, TypeError) as error:  # of a package or a file that an option names, or its keys
            raise UsageError(str(error)) from error

        table = self.table  # raises for an unknown preset, group or rule
        if self.objective_overrides is not None:  # written out: JSON holds no rules
            overrides = dict(self.objective_overrides)  # type: ignore[arg-type]
            self.objective_overrides = {group: _written(rule) for group, rule in overrides.items()}
        if self.sync_ref_model and self.beta == 0.0:
            raise UsageError(
                "sync_ref_model=True with beta=0.0: there is no reference model to move. Set beta above 0, or "
                "sync_ref_model=False."
            )
        check_options(table, self)
        check_advantage(self)
        for text in told_of_options(table, self, given) if self.process_index == 0 else ():
            warnings.warn(text, stacklevel=3)

    def _check_generation(self) -> None:
        given: Any = self.generation_kwargs or {}
        check_given("generation_kwargs", given, RANGES | {"-1 or [0, inf)": ("top_k",)})  # -1 is vLLM's
        if self.use_vllm:  # whose engine has options of its own
            return
        known = vars(GenerationConfig())
        for name in given.keys() - known.keys():
            raise UsageError(
                f"generation_kwargs: {nearest(name, known)}{name!r} is not an option of GenerationConfig."
            )
        GenerationConfig(**{"cache_implementation": self.cache_implementation, **given})  # raises for other values

    def _check_mapping(self, name: str) -> None:
        """A string must be JSON, or where transformers reads one the name of a file."""
        value = getattr(self, name)
        may_be_file = name in ("accelerator_config", "fsdp_config", "deepspeed")
        if not isinstance(value, str) or (may_be_file and "{" not in value):
            return
        try:
            is_mapping = isinstance(parse_json(value), dict)
        except ValueError as error:
            raise UsageError(
                f"{name}={value!r:.80} must be a mapping, as JSON on the command line: {error}."
            ) from None
        if not is_mapping:
            raise UsageError(f"{name}={value!r:.80} must be a mapping, as JSON on the command line.")

    @property
    def correctness_names(self) -> list[str]:
        """The names in `correctness_reward`, one or several; none where it is left to the first reward function."""
        names: Any = self.correctness_reward or []
        return [names] if isinstance(names, str) or callable(names) else names

    @property
    def estimator(self) -> Estimator:
        """The advantage estimator in use, with its parameters."""
        return get_estimator(self.advantage, self.advantage_kwargs)

    @property
    def table(self) -> Table:
        """The objective table in use: the preset with its overrides."""
        overrides = self.objective_overrides
        if overrides is not None and not isinstance(overrides, dict):
            raise UsageError(f"objective_overrides={overrides!r} must map groups to rules: JSON on the command line.")
        return get_table(self.objective, overrides)

    @property
    def is_on_policy(self) -> bool:
        """Whether every importance ratio is 1, because each generation batch is used up within one optimizer step."""
        generate_every = (self.steps_per_generation or 1) * self.num_iterations  # set by `__post_init__`
        return self.gradient_accumulation_steps % generate_every == 0


def _written(rule: Any) -> Any:
    if isinstance(rule, list | tuple):
        return [_written(each) for each in rule]
    return rule_spec(rule) if isinstance(rule, Rule) else rule


def _unknown(config: HTPOConfig, name: str) -> tuple[str, ...]:
    value = getattr(config, name)
    return tuple(
        f"{each} is not " for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)
    )
