"""
Drills on several processes, one after the other: `torchrun ... -m tests.drill_run DIRECTORY DRILL...`. Each process
writes what came of a drill to `DIRECTORY/<drill>-<rank>.json`.

- `whole`: a run of twelve steps;
- `stopped`: the same, but that the second process gets a SIGTERM in the fifth step; `resumed` goes on from there;
- `held`: a checkpoint for which the second process has nothing written until the first waits for it, or has saved;
- `raised`: the reward function raises on the second process alone, after the second step;
- `killed:<moment>`: the second process is killed at a moment of `training_run.kill_at`, with verifiers on all.
"""

import functools
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM, TrainerCallback

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.rewards import math_reward
from htpo_trl.training.interruption import stop_on_signals

from .hostile import FOR_WORKERS
from .tiny import CPU_ARGUMENTS, even_digits
from .training_run import kill_at, prompts, weights_of


def run(directory: Path, drill: str) -> dict:
    rank = int(os.environ["RANK"])
    name, _, moment = drill.partition(":")
    directory_of_run = directory / ("stopped" if name == "resumed" else name)

    class Events(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if name == "stopped" and rank == 1 and state.global_step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

        def on_save(self, *args, **kwargs):
            if name == "held" and rank == 0:
                release()

    def reward(completions, trainer_state, **kwargs):
        if name == "raised" and rank == 1 and trainer_state.global_step == 2:
            raise KeyError("no such unit")
        if name == "killed":
            math_reward(["\\boxed{3x}"], [FOR_WORKERS])
        return even_digits(completions)

    options = {
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "max_steps": {"held": 1, "raised": 10**6, "killed": 10**6}.get(name, 12),
        "learning_rate": 1e-3,
        "save_strategy": "steps" if name == "held" else "no",
    }
    trainer = HTPOTrainer(
        Qwen3ForCausalLM.from_pretrained(directory / "model"),
        reward,
        HTPOConfig(str(directory_of_run), **CPU_ARGUMENTS | options),
        Dataset.from_list(prompts(64)),
        processing_class=PreTrainedTokenizerFast.from_pretrained(directory / "model"),
        callbacks=[Events()],
    )
    if name == "held":
        release = hold(directory_of_run / "checkpoint-1", directory / "release", rank)
    if moment and rank == 1:
        kill_at(moment, trainer)
    result = {}
    try:
        with stop_on_signals(trainer):
            trainer.train(resume_from_checkpoint=True if name == "resumed" else None)
    except SystemExit as stopped:
        result["exit_code"] = stopped.code
    except (KeyError, RuntimeError) as error:
        if name == "killed":
            raise
        result["error"] = "".join(traceback.format_exception_only(error))
    (directory / f"{name}-{rank}.json").write_text(json.dumps(result | {"weights": weights_of(trainer)}))
    return result


def hold(checkpoint: Path, pipe: Path, rank: int) -> Callable[[], None]:
    """Hold the second process up in its first write to a checkpoint, until the first one calls what is returned."""
    barrier = torch.distributed.barrier
    # Once each; at a named pipe reader and writer wait for each other.
    wait = functools.cache(pipe.read_text)
    release = functools.cache(lambda: pipe.write_text(""))

    def audit(event, arguments):
        if event == "os.mkdir" and str(arguments[0]) == str(checkpoint):
            wait()

    def release_and_wait(*args, **kwargs):
        if (checkpoint / "trainer_state.json").exists():  # the last of the first process's own files
            release()
        return barrier(*args, **kwargs)

    if rank == 1:
        sys.addaudithook(audit)
    else:
        torch.distributed.barrier = release_and_wait
    return release


if __name__ == "__main__":
    gc.freeze()  # see conftest
    for drill in sys.argv[2:]:
        result = run(Path(sys.argv[1]), drill)
    sys.exit(result.get("exit_code"))
