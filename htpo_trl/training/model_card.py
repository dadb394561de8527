"""The model card of a run: TRL's, with the objective table in use, rewards, data, hyper-parameters and evaluation."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .. import __version__
from ..objective.table import GROUPS
from ..utils import markdown_table


#: What decides what is learned, in the order of the card.
OPTIONS = (
    *("learning_rate", "lr_scheduler_type", "optim", "weight_decay", "max_grad_norm", "beta"),
    *("loss_type", "epsilon", "epsilon_high", "delta", "scale_rewards", "mask_truncated_completions"),
    *("difficulty_threshold", "top_entropy_share", "correctness_threshold"),
    *("num_generations", "temperature", "top_p", "max_completion_length", "dynamic_sampling", "max_sampling_rounds"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "num_iterations"),
    *("generation_batch_size", "seed", "data_seed"),
)


def dataset_id(dataset: Any) -> str | None:
    """The Hub's id of a data set that `load_dataset` took from there."""
    for file in getattr(getattr(dataset, "info", None), "download_checksums", None) or {}:
        if found := re.match(r"hf://datasets/([^@]+)@", file):
            return found[1]
    return None


def extend(file: Path, trainer: Any) -> None:
    """
    Add to the card that TRL wrote what it does not say.

    Args:
        file (`Path`):
            The card, which is replaced.
        trainer ([`HTPOTrainer`]):
            The trainer of the model.
    """
    card = ModelCard.load(file)
    model, name = card.data.base_model, card.data.model_name
    if not _is_repo_id(model):  # a path on this machine, or TRL's None
        card.data.base_model = None
        card.text = card.text.replace(f"[{model}](https://huggingface.co/{model})", "a model that is not on the Hub")
    card.text = card.text.replace('model="None"', f'model="{name}"')  # not pushed, so far

    steps = _evaluations(trainer)
    sections = {
        "Objective": _objective(trainer),
        "Rewards and data": _rewards_and_data(trainer),
        "Hyper-parameters": _hyper_parameters(trainer),
    }
    if steps:
        first, last = min(steps), max(steps)
        sections["Evaluation"] = _evaluation_table({step: steps[step] for step in (first, last)})
        card.data.eval_results = [
            EvalResult(
                task_type="text-generation",
                dataset_type=re.sub(r"[^\w.-]+", "-", benchmark),
                dataset_name=benchmark,
                metric_type=metric,
                metric_value=round(value["mean"], 4),
            )
            for benchmark, summary in steps[last].items()
            for metric, value in summary["metrics"].items()
        ] or None
    before, heading, after = card.text.partition("### Framework versions")
    ours = "".join(f"### {title}\n\n{text}\n\n" for title, text in sections.items())
    card.text = before + ours + heading + after.replace("\n- TRL: ", f"\n- htpo_trl: {__version__}\n- TRL: ", 1)
    card.save(file)


def _is_repo_id(name: str | None) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name is not None


def _objective(trainer: Any) -> str:
    args = trainer.args
    overridden = ", ".join(f"`{group}`" for group in args.objective_overrides or {})
    rows = zip(GROUPS, trainer.table.rows, strict=True)
    return (
        f"Every token has the objective of its group, from the table `{trainer.table.name}`"
        f"{f' with other rules for {overridden}' if overridden else ''}. A prompt is *hard* while less than "
        f"{100 * args.difficulty_threshold:.4g}% of its responses are correct; a token is *high* if its entropy is "
        f"among the top {100 * args.top_entropy_share:.4g}% of its response ({trainer.table.selection} selection). r "
        f"is the importance ratio, Â the advantage, sg stops the gradient, J_PPO = min(r·Â, clip(r, 1-ε_lo, "
        f"1+ε_hi)·Â), ε_lo = {trainer.epsilon_low:g}, ε_hi = {trainer.epsilon_high:g}.\n\n"
        + markdown_table(["group", "objective"], [[" · ".join(group.split("_")), str(rule)] for group, rule in rows])
    )


def _rewards_and_data(trainer: Any) -> str:
    judge = trainer.args.correctness_reward or trainer.reward_func_names[0]
    weights = zip(trainer.reward_func_names, trainer.reward_weights.tolist(), strict=True)
    source = dataset_id(trainer.train_dataset)
    size = f"{len(trainer.train_dataset):,} rows" if hasattr(trainer.train_dataset, "__len__") else "a stream"
    return (
        f"Rewards: {', '.join(f'`{name}` (weight {weight:g})' for name, weight in weights)}. `{judge}` judges "
        f"correctness: above {trainer.args.correctness_threshold:g} a response is correct. Prompts: {size}"
        f"{f' of [{source}](https://huggingface.co/datasets/{source})' if source else ''}."
    )


def _hyper_parameters(trainer: Any) -> str:
    values = trainer.args.to_dict()  # enums as their values, no token
    processes = trainer.accelerator.num_processes
    batch = processes * values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]
    rows = [[name, str(values[name])] for name in OPTIONS] + [["processes", str(processes)]]
    return (
        f"Step {trainer.state.global_step} of {trainer.state.max_steps}, {batch} completions per optimizer step.\n\n"
        + markdown_table(["option", "value"], rows)
    )


def _evaluations(trainer: Any) -> dict[int, dict[str, Any]]:
    """Step -> benchmark -> summary, of what an [`EvaluationCallback`] has finished; not of an older, longer run."""
    steps: dict[int, dict[str, Any]] = {}
    for file in sorted(Path(trainer.args.output_dir).glob("evaluation/step-*/*.json")):
        step = int(file.parent.name.removeprefix("step-"))
        summary = json.loads(file.read_text()).get("summary")
        if summary and step <= trainer.state.global_step:
            steps.setdefault(step, {})[file.stem] = summary
    return steps


def _evaluation_table(steps: dict[int, dict[str, Any]]) -> str:
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for step, summaries in steps.items():
        for benchmark, summary in summaries.items():
            for metric, value in summary["metrics"].items():
                cell = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**value)
                rows.setdefault((benchmark, metric), {})[step] = cell
    header = ["benchmark", "metric", *(f"step {step}" for step in steps)]
    cells = [[*names, *(row.get(step, "") for step in steps)] for names, row in rows.items()]
    return f"Means with 95% bootstrap intervals over problems.\n\n{markdown_table(header, cells)}"
