"""The warm start of the laptop job: a small Qwen3 that has learned from sloppy searches what a search looks like."""

import random
import sys
from pathlib import Path
from statistics import fmean

import torch
from datasets import Dataset
from transformers import ProgressCallback, Qwen3ForCausalLM, set_seed
from trl import SFTConfig, SFTTrainer

from ..check import tiny
from ..check.tiny import build_tokenizer
from ..data.countdown import problems, write_search


ROW_LENGTH, ROWS_PER_STEP = 128, 18  # about 64 searches a step


def build_model() -> Qwen3ForCausalLM:
    """A Qwen3 of 0.59 million parameters."""
    shape = {"vocab_size": 22, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return tiny.build_model(None, **shape, **heads, initializer_range=0.02)


def warm_start(directory: Path, seed: int, steps: int, model: Qwen3ForCausalLM | None = None) -> list[float]:
    """
    Supervised training on sloppy searches, of a new model by default; model and tokenizer go to `directory`. Returns
    the loss of every step.
    """
    set_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model() if model is None else model
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            str(directory),
            max_steps=steps,
            per_device_train_batch_size=ROWS_PER_STEP,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            learning_rate=3e-3,
            warmup_steps=min(60, steps // 2),
            weight_decay=0.01,
            adam_beta2=0.98,
            seed=seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
        data_collator=lambda rows: {key: torch.tensor([row[key] for row in rows]) for key in rows[0]},
        train_dataset=Dataset.from_list(_packed_searches(tokenizer, seed, steps)),
        processing_class=tokenizer,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    trainer.train()
    model.save_pretrained(directory)  # `Trainer.save_model` would add its arguments as a pickle
    tokenizer.save_pretrained(directory)
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def _packed_searches(tokenizer, seed: int, steps: int) -> list[dict[str, list[int]]]:
    """
    Rows of several searches each, told apart by their restarting positions: the same gradient as one search a row, in
    less than half the time. Sorting by length would be as fast, but short searches are those that found a solution at
    once: batches of one length teach the model to hit or to miss, in turns, and it hardly learned to aim.
    """
    rng, tasks = random.Random(seed), problems("train")
    rows: list[list[tuple[int, int, int]]] = [[]]  # input id, label and position of each token
    while len(rows) <= steps * ROWS_PER_STEP:
        problem = rng.choice(tasks)
        prompt = problem.prompt(rng)
        ids = tokenizer(prompt + write_search(problem, rng) + tokenizer.eos_token).input_ids
        if len(rows[-1]) + len(ids) > ROW_LENGTH:
            rows[-1] += [(tokenizer.pad_token_id, -100, i) for i in range(ROW_LENGTH - len(rows[-1]))]
            rows.append([])
        rows[-1] += zip(ids, [-100] * len(prompt) + ids[len(prompt) :], range(len(ids)), strict=True)
    names = ("input_ids", "labels", "position_ids")
    return [dict(zip(names, map(list, zip(*row, strict=True)), strict=True)) for row in rows[:-1]]


def row(what: str, accuracy: float) -> str:
    """An accuracy as a number and a bar, to stand below others."""
    return f"{what:14}  accuracy {accuracy:.3f}  {'#' * round(40 * accuracy)}"


class Progress(ProgressCallback):
    """A bar with the time left; above it, in reinforcement, the mean accuracy of every eighth of the run as a row."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self._accuracies: list[float] = []
        self._first_step = state.global_step + 1

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None:
            return
        if "htpo/accuracy" in logs:
            self._accuracies.append(logs["htpo/accuracy"])
        if "loss" in logs and self._accuracies and state.global_step % max(state.max_steps // 8, 1) == 0:
            steps = f"steps {self._first_step}-{state.global_step}"
            self.training_bar.write(row(steps, fmean(self._accuracies)))
            sys.stdout.flush()  # where it is no terminal
            self._accuracies.clear()
            self._first_step = state.global_step + 1
