"""
A small run in processes of its own, that can be told to kill itself, by SIGKILL, at a given moment. Each process
writes what it saw and ended with.
"""

import hashlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path

import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM, TrainerCallback

from htpo_trl import HTPOConfig, HTPOTrainer

from .architectures import build
from .forks import Forks
from .tiny import CPU_ARGUMENTS, even_digits


def half_solvable(prompts, completions, **kwargs):
    """Of an even prompt, right where most digits of the completion are even; of an odd one, always wrong."""
    return [e * (int(p) % 2 == 0) for p, e in zip(prompts, even_digits(completions), strict=True)]


def prompts(n):
    return [{"prompt": f"{i:02d}", "number": i} for i in range(n)]


def start(spec: dict, n_processes: int) -> Forks:
    return Forks(main, spec, output=Path(spec["directory"]) / "output.txt", n_processes=n_processes)


def mixed_groups(seen: list[list[dict]], group_size: int) -> float:
    """Share of groups that were trained on in which both verdicts occur; `seen` of all processes, in order."""
    mixed = []
    for parts in zip(*seen, strict=True):
        correct = [c for part in parts for c in part["is_correct"]]
        mixed += [0 < sum(correct[i : i + group_size]) < group_size for i in range(0, len(correct), group_size)]
    return sum(mixed) / len(mixed)


class Recorder(HTPOTrainer):
    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        names = ("prompt_ids", "completion_ids", "is_correct")
        self.seen.append({name: output[name].tolist() for name in names})
        return output


def kill_at(moment: str, trainer) -> None:
    """`generation:3`: SIGKILL in the third forward pass that extends completions; and so on."""
    kind, n = moment.split(":")
    count = itertools.count(1)

    def tick():
        if next(count) == int(n):
            os.kill(os.getpid(), signal.SIGKILL)

    def before_forward(module, args, kwargs):
        if not torch.is_grad_enabled() and kwargs["input_ids"].shape[1] == 1:
            tick()

    class BeforeStep(TrainerCallback):
        def on_pre_optimizer_step(self, *args, **kwargs):
            tick()

    def audit(event, arguments):
        writes = event in ("os.mkdir", "os.rename", "os.remove", "shutil.rmtree", "os.rmdir")
        if event == "open" and isinstance(arguments[1], str):
            writes = any(c in arguments[1] for c in "wax+")
        if writes and "checkpoint-" in str(arguments[0]):
            tick()

    if kind == "generation":
        trainer.model.register_forward_pre_hook(before_forward, with_kwargs=True)
    elif kind == "backward":
        next(trainer.model.parameters()).register_hook(lambda grad: tick())
    elif kind == "step":
        trainer.add_callback(BeforeStep())
    elif kind == "save":
        sys.addaudithook(audit)
    else:
        raise ValueError(moment)


def weights_of(trainer) -> str:
    weights = hashlib.sha256()
    for parameter in trainer.model.parameters():
        weights.update(getattr(parameter, "ds_tensor", parameter).detach().numpy().tobytes())  # of ZeRO-3 the own part
    return weights.hexdigest()


def main(spec):
    directory = Path(spec["directory"])
    data = prompts(spec.get("n_prompts", 64))
    dataset = IterableDataset.from_generator(lambda: iter(data)) if spec.get("iterable") else Dataset.from_list(data)
    if "architecture" in spec:
        model = build(spec["architecture"])
    else:
        model = Qwen3ForCausalLM.from_pretrained(directory / "model", attention_dropout=spec.get("dropout", 0.0))
    arguments = CPU_ARGUMENTS | {"learning_rate": 2e-3, "max_completion_length": 8} | spec["options"]
    trainer = Recorder(
        model,
        half_solvable,
        HTPOConfig(str(directory / spec.get("run", "run")), **arguments),
        dataset,
        processing_class=PreTrainedTokenizerFast.from_pretrained(directory / "model"),
    )
    trainer.seen = []
    rank = trainer.accelerator.process_index
    if "die" in spec and rank == spec.get("die_rank", 0):
        kill_at(spec["die"], trainer)
    trainer.train(resume_from_checkpoint=spec.get("resume"))
    result = {"weights": weights_of(trainer), "seen": trainer.seen, "log": trainer.state.log_history}
    (directory / f"result_{rank}.json").write_text(json.dumps(result))
