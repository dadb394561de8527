"""The model card of a run: objective table in use, rewards, data, hyper-parameters, evaluation. Text: its template."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..objective.table import GROUPS
from ..output.reading import read_json
from ..output.redaction import redact_text
from ..output.writing import WriteError, write_atomically
from ..utils import versions


#: What decides what is learned, in the order of the card. One that a version of TRL does not have is left out.
OPTIONS = (
    *("learning_rate", "lr_scheduler_type", "optim", "weight_decay", "max_grad_norm", "beta"),
    *("loss_type", "epsilon", "epsilon_high", "delta", "advantage", "scale_rewards", "mask_truncated_completions"),
    *("difficulty_threshold", "top_entropy_share", "correctness_threshold"),
    *("num_generations", "temperature", "top_p", "max_completion_length", "dynamic_sampling", "max_sampling_rounds"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "num_iterations"),
    *("generation_batch_size", "seed", "data_seed"),
)
_TEMPLATE = Path(__file__).with_suffix(".md.jinja")
_PACKAGES = ("htpo_trl", "trl", "transformers", "torch", "datasets", "tokenizers")


def write_model_card(
    trainer: Any, write: Callable[..., None], model_name: str | None, dataset_name: str | None, tags: Any
) -> None:
    """
    Write the card of a trainer's model to `output_dir/README.md`. `write` is TRL's `create_model_card`, whose metadata
    and links to trackers are kept; the other arguments are TRL's. A card that fails is a warning: TRL writes it within
    every save, and a checkpoint is worth more.
    """
    output_dir = trainer.args.output_dir
    file = Path(output_dir, "README.md")
    try:
        with TemporaryDirectory() as scratch:  # TRL does not write in one step
            trainer.args.output_dir = scratch
            try:
                write(model_name or file.parent.name, dataset_name or _dataset_id(trainer.train_dataset), tags)
            finally:
                trainer.args.output_dir = output_dir
            if trainer.is_world_process_zero():
                card = _card(ModelCard.load(Path(scratch, file.name)), trainer)
                write_atomically(file, redact_text(str(card)))
    except Exception as error:
        what = error if isinstance(error, WriteError) else f"The model card {file} could not be written: {error!r}."
        warnings.warn(f"{what} Nothing else is lost; trainer.create_model_card() writes it again.", stacklevel=3)


def _card(trl_card: ModelCard, trainer: Any) -> ModelCard:
    args, data = trainer.args, cast(ModelCardData, trl_card.data)
    model = data.base_model
    try:
        validate_repo_id(model)  # type: ignore[arg-type]
    except HFValidationError:  # none, or a path on this machine
        data.base_model = None
    evaluations = _evaluations(Path(args.output_dir), trainer.state.global_step)
    last = max(evaluations, default=-1)
    data.eval_results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=re.sub(r"[^\w.-]+", "-", benchmark),
            dataset_name=benchmark,
            metric_type=metric,
            metric_value=round(value["mean"], 4),
        )
        for benchmark, summary in evaluations.get(last, {}).items()
        for metric, value in summary["metrics"].items()
    ] or None
    options, found = args.to_dict(), versions()  # enums as their values, no token
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        trainer=trainer,
        args=args,
        model_name=data.model_name,
        base=f"[{model}](https://huggingface.co/{model})" if data.base_model else "a model that is not on the Hub",
        trackers=re.findall(r'alt="Visualize in ([^"]+)"[^\]]*\]\(([^)\s]+)\)', trl_card.text),
        rules=[(group, str(row).replace("|", "\\|")) for group, row in zip(GROUPS, trainer.table.rows, strict=True)],
        weights=zip(trainer.reward_func_names, trainer.reward_weights.tolist(), strict=True),
        judges=trainer.correctness_names,
        size=f"{len(trainer.train_dataset):,} rows" if hasattr(trainer.train_dataset, "__len__") else "a stream",
        source=_dataset_id(trainer.train_dataset),
        options={name: options[name] for name in OPTIONS if name in options},
        evaluations={step: found for step, found in evaluations.items() if step in (min(evaluations), last)},
        versions={name: found[name] for name in _PACKAGES if name in found},
    )


def _dataset_id(dataset: Any) -> str | None:
    """The Hub's id of a data set that `load_dataset` took from there."""
    for file in getattr(getattr(dataset, "info", None), "download_checksums", None) or {}:
        if found := re.match(r"hf://datasets/([^@]+)@", file):
            return found[1]
    return None


def _evaluations(output_dir: Path, last_step: int) -> dict[int, dict[str, Any]]:
    """Step -> benchmark -> summary, of what an evaluation callback has finished; not of an older, longer run."""
    steps: dict[int, dict[str, Any]] = {}
    for file in sorted(output_dir.glob("evaluation/step-*/*.json")):
        step = file.parent.name.removeprefix("step-")
        if step.isdecimal() and int(step) <= last_step and (summary := read_json(file).get("summary")):
            steps.setdefault(int(step), {})[file.stem] = summary
    return steps
