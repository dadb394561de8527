"""Recorded training runs of a tiny model, in this process, in forks, or in each process that a launcher starts:

    accelerate launch --num_processes 2 -m tests.distributed_run DIRECTORY

`DIRECTORY/model` holds model and tokenizer, `DIRECTORY/jobs.json` the runs by name. Each process writes what it saw to
`DIRECTORY/NAME/rank<i>.json`; the trained model goes to `DIRECTORY/NAME`.
"""

import importlib.util
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from accelerate.utils import gather
from datasets import Dataset
from packaging.version import Version
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.evaluation import Sampling
from htpo_trl.evaluation.callback import EvaluationCallback
from htpo_trl.rewards import math_reward
from htpo_trl.tokens.callback import TokenRecorder
from tests.forks import Forks
from tests.hostile import FOR_WORKERS
from tests.tiny import CPU_ARGUMENTS, even_digits


ROOT = Path(__file__).parent.parent
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")
with socket.socket() as free:
    free.bind(("localhost", 0))
    PORT = free.getsockname()[1]  # accelerate's own choice of a free port hangs in its older versions
# Parameters as small as these would be kept whole, but for the threshold of 0 in the file. On CPU the training
# arguments must not say `use_cpu`, which turns DeepSpeed off, but `ddp_backend="gloo"`.
ZERO3 = (
    *("accelerate.commands.launch", "--use_deepspeed", "--zero3_init_flag=true", "--mixed_precision=no"),
    *("--num_machines=1", "--num_processes=2", f"--main_process_port={PORT}"),
    f"--deepspeed_config_file={ROOT / 'tests' / 'data' / 'zero3.json'}",
)

# All rules act on completions this short, and the second pass over each generation batch is off-policy.
ARGUMENTS = {
    "max_steps": 6,
    "num_iterations": 2,
    "top_entropy_share": 0.3,
    "difficulty_threshold": 0.45,
    "objective_overrides": {
        "hard_correct_low": {"rule": "detach", "share": 0.25, "which": "lowest"},
        "easy_correct_high": {"rule": "detach", "share": 0.5, "which": "highest"},
    },
}
# Some eighty float32 epsilons, relative to the largest value: sums of a few hundred terms, over six steps of AdamW.
ROUND_OFF = 1e-5

# transformers before 5.18 asks torch.load for a device "cpu:0" where several processes resume on CPU.
CAN_RESUME = Version(transformers.__version__) >= Version("5.18")

# DeepSpeed compiles an operator by ninja, which lies beside an interpreter whose environment may not be active.
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
}


def missing_for_zero3():
    if importlib.util.find_spec("deepspeed") is None:
        return "DeepSpeed is not installed"
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return "DeepSpeed compiles its CPU collectives, and there is no C++ compiler"
    return ""


class Recorder(HTPOTrainer):
    """
    Keeps what the trainer saw.

    Args:
        forced (`bool`):
            The completions depend on the prompt and the place in its group alone, not on model or process.
        local_labels (`bool`):
            The mistake that gathered rewards prevent: each process judges difficulty by its own rows.
        loss_type (`str`, *optional*):
            A loss type behind the configuration's back, which refuses what cannot hold.
    """

    def __init__(self, *args, forced=False, local_labels=False, loss_type=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.forced, self.local_labels = forced, local_labels
        self.loss_type = loss_type or self.loss_type
        self.labels, self.expected_shares = [], []

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        if not self.forced:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        first = self.accelerator.process_index * len(prompt_ids)
        rows = enumerate(prompt_ids, start=first)
        return [self._completion(ids, row % self.num_generations) for row, ids in rows], None

    def _completion(self, prompt_ids, place):
        """From the end-of-sequence token alone to one that is cut at the greatest length."""
        generator = random.Random(f"{prompt_ids} {place}")
        digits = generator.choices("0123456789", k=generator.randrange(self.max_completion_length + 1))
        ids = [*self.processing_class.convert_tokens_to_ids(digits), self.processing_class.eos_token_id]
        return ids[: self.max_completion_length]

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.local_labels:
            first = self.accelerator.process_index * len(inputs)
            places = torch.arange(first, first + len(inputs)) // self.num_generations
            for group in places.unique():
                mine = places == group
                accuracy = output["is_correct"][mine].float().mean()
                output["is_hard"][mine] = accuracy < self.args.difficulty_threshold
        names = ("is_hard", "is_correct", "is_judged", "advantages")
        self.labels.append({name: output[name].tolist() for name in names})
        return output

    def _control_objective(self, inputs, **kwargs):
        result = super()._control_objective(inputs, **kwargs)
        mask = inputs["completion_mask"].bool()
        in_group = torch.stack([(result.groups == i).sum() for i in range(8)])
        totals = gather(torch.cat([in_group, mask.sum().unsqueeze(0)])).view(-1, 9).sum(dim=0).tolist()
        self.expected_shares.append([n / max(totals[8], 1) for n in totals[:8]])
        return result


class Run(NamedTuple):
    """What runs are compared by: loss and gradient norm of every optimizer step, and the trained parameters."""

    loss: torch.Tensor
    gradient_norm: torch.Tensor
    parameters: torch.Tensor


def build(directory, arguments, cls=Recorder, config=HTPOConfig, rewards=even_digits, model="model", **options):
    return cls(
        AutoModelForCausalLM.from_pretrained(directory / model),
        rewards,
        config(str(directory / "run"), **CPU_ARGUMENTS | arguments),
        # No prompt of one digit twice: where a context repeats one token, entropies tie but for their round-off, and
        # which of the tokens is the higher is up to the shape of the batch.
        Dataset.from_dict({"prompt": [f"{i:02d}" for i in range(70) if i % 11]}),
        processing_class=PreTrainedTokenizerFast.from_pretrained(directory / "model"),
        **options,
    )


def run(directory: Path, name: str, job: dict) -> None:
    benchmarks, sampling = job.pop("benchmarks", None), job.pop("sampling", {})
    record_tokens, resume = job.pop("record_tokens", None), job.pop("resume", None)
    trainer = build(directory, **job)
    if record_tokens:
        trainer.add_callback(TokenRecorder(trainer, **record_tokens))
    if benchmarks:
        trainer.add_callback(EvaluationCallback(trainer, benchmarks, Sampling(**sampling), even_digits))
    trainer.train(resume_from_checkpoint=resume)
    (directory / name).mkdir(exist_ok=True)
    trainer.save_model(str(directory / name))
    record = {
        "labels": trainer.labels,
        "expected_shares": trainer.expected_shares,
        "log": trainer.state.log_history,
        "parameters": sum(p.double().sum().item() for p in trainer.model.parameters()),
    }
    if benchmarks:  # the verifier on every rank, of DDP and of DeepSpeed
        record["verdicts"] = math_reward(["\\boxed{3x}", "\\boxed{4x}"], [FOR_WORKERS] * 2)
    rank = trainer.accelerator.process_index
    (directory / name / f"rank{rank}.json").write_text(json.dumps(record))


def run_command(command: list[str], place: Path) -> subprocess.CompletedProcess:
    """
    Run a command to its end. Of two processes on gloo one aborts now and then within the interpreter's exit, when all
    is done and saved (a thread of gloo's outlives Python): then, and for nothing else, it is run once more.
    """
    for _ in range(2):
        done = subprocess.run(command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
        if "terminate called without an active exception" not in done.stderr:
            break
    return done


def launch(directory: Path, jobs: dict[str, dict], launcher: tuple[str, ...] | None = None, n_machines=1) -> None:
    """Run the jobs one after the other in two processes, of a launcher or of our own."""
    (directory / "jobs.json").write_text(json.dumps(jobs))
    if launcher is None:
        output = directory / "output.txt"
        Forks(run_jobs, directory, output=output, n_processes=2, n_machines=n_machines).finish()
        return
    done = run_command([sys.executable, "-m", *launcher, "-m", "tests.distributed_run", str(directory)], ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


def run_jobs(directory: Path) -> None:
    for name, job in json.loads((directory / "jobs.json").read_text()).items():
        run(directory, name, job)


def records(directory: Path, name: str) -> list[dict]:
    """What each process of a launched run wrote."""
    return [json.loads(path.read_text()) for path in sorted((directory / name).glob("rank*.json"))]


def launched(directory: Path, name: str) -> Run:
    return _run(records(directory, name)[0]["log"], load_file(directory / name / "model.safetensors"))


def trained(directory: Path, arguments: dict, **options) -> Run:
    """A run in this process."""
    trainer = build(directory, arguments, **options)
    trainer.train()
    return run_of(trainer)


def run_of(trainer) -> Run:
    return _run(trainer.state.log_history, dict(trainer.model.named_parameters()))


def _run(log, weights) -> Run:
    steps = [row for row in log if "grad_norm" in row]
    loss, norm = (torch.tensor([row[name] for row in steps]) for name in ("loss", "grad_norm"))
    return Run(loss, norm, torch.cat([weights[name].detach().flatten() for name in sorted(weights)]))


if __name__ == "__main__":
    run_jobs(Path(sys.argv[1]))
