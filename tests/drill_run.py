"""
Drills on several processes, one after the other: `torchrun ... -m tests.drill_run DIRECTORY DRILL...`. Each process
writes what came of a drill to `DIRECTORY/<drill>-<rank>.json`.

- `whole`: a run of twelve steps;
- `stopped`: the same, but that the second process gets a SIGTERM in the fifth step; `resumed` goes on from there;
- `raised`: the reward function raises on the second process alone, after the second step;
- `killed:<moment>`: the second process is killed at a moment of `training_run.kill_at`, with verifiers on all.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM, TrainerCallback

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.rewards import math_reward
from htpo_trl.training.interruption import stop_on_signals

from .conftest import CPU_ARGUMENTS, even_digits
from .training_run import kill_at, prompts, weights_of


def run(directory: Path, drill: str) -> dict:
    rank = int(os.environ["RANK"])
    name, _, moment = drill.partition(":")

    class Events(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if name == "stopped" and rank == 1 and state.global_step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    def reward(completions, trainer_state, **kwargs):
        if name == "raised" and rank == 1 and trainer_state.global_step == 2:
            raise KeyError("no such unit")
        if name == "killed":
            math_reward(["\\boxed{3x}"], ["x+2x"])
        return even_digits(completions)

    options = {
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "max_steps": 12 if name in ("whole", "stopped", "resumed") else 10**6,
        "learning_rate": 1e-3,
        "save_strategy": "no",
    }
    trainer = HTPOTrainer(
        Qwen3ForCausalLM.from_pretrained(directory / "model"),
        reward,
        HTPOConfig(str(directory / ("stopped" if name == "resumed" else name)), **CPU_ARGUMENTS | options),
        Dataset.from_list(prompts(64)),
        processing_class=PreTrainedTokenizerFast.from_pretrained(directory / "model"),
        callbacks=[Events()],
    )
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


if __name__ == "__main__":
    for drill in sys.argv[2:]:
        result = run(Path(sys.argv[1]), drill)
    sys.exit(result.get("exit_code"))
