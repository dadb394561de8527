"""Packages that the options of a run need, and how to install them."""

import os
from importlib.util import find_spec
from typing import Any


#: Part of an optimizer's name → the package that it is in.
OPTIMIZERS = {
    **dict.fromkeys(("bnb", "paged", "lion", "ademamix", "adamw_8bit"), "bitsandbytes"),
    **dict.fromkeys(("torch_4bit", "torch_8bit"), "torchao"),
    **{"galore": "galore_torch", "lomo": "lomo_optim", "schedule_free": "schedulefree", "apollo": "apollo_torch"},
}
#: Trackers that are packages of this name.
TRACKERS = ("wandb", "trackio", "tensorboard", "mlflow", "comet_ml", "clearml", "dvclive", "swanlab", "codecarbon")
#: Packages that an extra of this one brings.
EXTRAS = ("vllm", "deepspeed", "wandb", "trackio", "tensorboard")


def missing_packages(args: Any, model: Any, uses_deepspeed: bool = False) -> list[str]:
    """Packages that the options need and that are not installed, as arguments of pip."""
    launched = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    named = {
        "bitsandbytes": model.load_in_4bit or model.load_in_8bit,
        "vllm": args.use_vllm,
        "deepspeed": bool(args.deepspeed) or uses_deepspeed or launched,
        "flash_attn": model.attn_implementation == "flash_attention_2",
        **{tracker: tracker in args.report_to for tracker in TRACKERS},
        **{package: True for part, package in OPTIMIZERS.items() if part in args.optim.value},
    }
    missing = [package for package, needs in named.items() if needs and not find_spec(package)]
    return [f"htpo_trl[{package}]" if package in EXTRAS else package.replace("_", "-") for package in missing]
