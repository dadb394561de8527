"""`htpo env`: versions and devices, for bug reports."""

import platform
from importlib.metadata import PackageNotFoundError, version


#: What a bug report should tell the versions of.
PACKAGES = (
    *("htpo_trl", "trl", "transformers", "accelerate", "datasets", "peft", "torch", "deepspeed", "vllm"),
    *("bitsandbytes", "math-verify", "pebble", "reasoning-gym", "matplotlib", "wandb", "trackio", "tensorboard"),
    *("huggingface_hub", "safetensors", "numpy"),
)


def versions() -> dict[str, str]:
    """Package → version, of those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def report() -> str:
    """Versions and devices as text."""
    import torch

    installed = versions()
    rows = {"Python": platform.python_version(), "Platform": platform.platform()}
    rows |= {name: installed.get(name, "not installed") for name in PACKAGES}
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows["GPUs"] = ", ".join(devices) or "none"
    rows["CUDA of torch"] = torch.version.cuda or "none"
    return "\n".join(f"- {name}: {value}" for name, value in rows.items())
