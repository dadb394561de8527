"""
DeepSpeed ZeRO-3 in as many processes as there are GPUs, or two on a CPU: it trains what one process trains, and goes
on exactly. Part `zero3` of the check; `python -m htpo_trl.check.zero3 DEVICE DIRECTORY` is one of the processes.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..trainer import HTPOTrainer
from .parts import CannotRunError, Finding, Machine
from .tiny import DIGITS, build_model, build_tokenizer, logged, make_trainer


#: Completions of an optimizer step, of all processes.
ROWS = 16
#: Optimizer steps, and the one whose checkpoint is gone on from, within a generation batch.
STEPS, STOP = 6, 3
#: Device -> how far sums that are made in another order may be apart: of the gradient norm, and of a weight's mean.
ROUND_OFF = {"cpu": (1e-5, 1e-7), "cuda": (1e-2, 1e-4)}
_ZERO = {
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,  # or it would keep parameters as small as these whole
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    **dict.fromkeys(("gradient_accumulation_steps", "gradient_clipping", "train_batch_size"), "auto"),
    "train_micro_batch_size_per_gpu": "auto",
}


class _Forced(HTPOTrainer):
    """What is generated is thrown away: each completion is of its prompt and its place in the group alone."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        super()._generate_single_turn(prompt_ids, *args, **kwargs)
        first = self.accelerator.process_index * len(prompt_ids)
        return [_forced(self, ids, row) for row, ids in enumerate(prompt_ids, first)], None


def _forced(trainer: Any, prompt_ids: list[int], row: int) -> list[int]:
    generator = random.Random(f"{prompt_ids} {row % trainer.num_generations}")
    digits = generator.choices(DIGITS, k=generator.randrange(trainer.max_completion_length + 1))
    ids = [*trainer.processing_class.convert_tokens_to_ids(digits), trainer.processing_class.eos_token_id]
    return ids[: trainer.max_completion_length]


def _trainer(machine: Machine, processes: int, **options: Any) -> Any:
    shape = {"per_device_train_batch_size": ROWS // processes, "steps_per_generation": 1, "num_iterations": 2}
    model = str(machine.directory / "model")
    return make_trainer(
        _Forced, machine, model, **shape | {"learning_rate": 1e-3, "max_steps": STEPS, "seed": 0} | options
    )


def find(machine: Machine) -> Iterator[Finding]:
    """What differs from one process, and from a run that was not stopped."""
    if not find_spec("deepspeed"):
        raise CannotRunError("DeepSpeed is not installed: pip install 'htpo_trl[deepspeed]'")
    on_cpu = machine.device == "cpu"
    if on_cpu and not shutil.which(os.environ.get("CXX", "c++")):
        raise CannotRunError("DeepSpeed compiles its collectives for the CPU, and there is no C++ compiler")
    processes = 2 if on_cpu else max(n for n in (1, 2, 4, 8) if n <= torch.cuda.device_count())
    build_model().save_pretrained(machine.directory / "model")
    build_tokenizer(DIGITS).save_pretrained(machine.directory / "model")
    launched = _start(machine, processes)
    one = _trainer(machine, 1, output_dir=str(machine.directory / "one"), model_init_kwargs={"dtype": "float32"})
    one.train()
    while any(process.poll() is None for process in launched) and not any(process.poll() for process in launched):
        time.sleep(0.1)
    if failed := [process.returncode for process in launched if process.returncode]:
        raise RuntimeError(f"One of {processes} processes ended with exit code {failed[0]}.")

    where = f"{processes} process{'es' * (processes > 1)}, {'gloo' if on_cpu else 'NCCL'}"
    parts = [*(machine.directory / "whole").glob(f"checkpoint-{STOP}/global_step*/*model_states.pt")]
    ok = len(parts) == processes
    yield Finding("weights are split among the processes", f"{processes} parts", f"{len(parts)}", ok)
    whole, resumed = (_result(machine.directory / name) for name in ("whole", "resumed"))
    norms, weights = ROUND_OFF[machine.device]
    start = load_file(machine.directory / "model" / "model.safetensors")
    reference = {name: weight.detach().float().cpu() for name, weight in one.model.named_parameters()}
    moved = _mean_difference(start, reference)
    far = _mean_difference(whole["weights"], reference)
    expected = [row["grad_norm"] for row in logged(one)]
    apart = max(abs(a / b - 1) for a, b in zip(whole["norms"], expected, strict=True))
    what = f"gradient norm of {STEPS} steps, {where}"
    yield Finding(what, f"within {norms:.0e} of one process", f"{apart:.1e}", apart < norms)
    yield Finding("weights, mean difference", f"below {weights:.0e} from one process", f"{far:.1e}", far < weights)
    yield Finding("weights have moved, on the mean", f"above {10 * weights:.0e}", f"{moved:.1e}", moved > 10 * weights)
    same = all(torch.equal(resumed["weights"][name], weight) for name, weight in whole["weights"].items())
    yield Finding.same("weights, resumed within a generation batch", same)
    yield Finding.same("log of the resumed run", resumed["log"] == whole["log"])


def _start(machine: Machine, processes: int) -> list[subprocess.Popen]:
    """As a launcher would, but in this part's process group, with which they end."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    config = machine.directory / "zero3.json"
    config.write_text(json.dumps(_ZERO))
    environment |= {"LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_MIXED_PRECISION": "no"}
    environment |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"}
    environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(config)
    # DeepSpeed compiles operators by ninja, which lies beside an interpreter whose environment may not be active.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    if machine.device == "cpu":
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", f"{__package__}.zero3", machine.device, str(machine.directory)]
    return [
        subprocess.Popen(command, env=environment | {"RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(processes)
    ]


def _result(directory: Path) -> dict[str, Any]:
    log = json.loads((directory / "log.json").read_text())
    weights = load_file(directory / "model.safetensors")
    return {"log": log, "norms": [row["grad_norm"] for row in log], "weights": weights}


def _mean_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    differences = [(one[name].float() - weight).abs().flatten() for name, weight in other.items()]
    return float(torch.cat(differences).mean())


def main() -> None:
    """One process: a run as a whole, and one that goes on from a checkpoint of it."""
    device, directory = sys.argv[1], Path(sys.argv[2])
    machine, processes = Machine(device, directory), int(os.environ["WORLD_SIZE"])
    on_cpu = {"use_cpu": False, "ddp_backend": "gloo"} if device == "cpu" else {}  # `use_cpu` turns DeepSpeed off
    options = {"model_init_kwargs": {"dtype": "float32"}, "save_strategy": "steps", "save_steps": STOP, **on_cpu}
    for name, start in {"whole": None, "resumed": str(directory / "whole" / f"checkpoint-{STOP}")}.items():
        trainer = _trainer(machine, processes, output_dir=str(directory / name), **options)
        trainer.train(resume_from_checkpoint=start)
        trainer.save_model(str(directory / name))
        if trainer.accelerator.is_main_process:
            (directory / name / "log.json").write_text(json.dumps(logged(trainer)))
    trainer.accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
