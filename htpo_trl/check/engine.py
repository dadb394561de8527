"""vLLM in the process of training: it has the policy's weights after each sync, evaluation uses it, and it sleeps."""

import json
import os
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .parts import CannotRunError, Finding, Machine


#: Of each generation batch, in nats; TRL's metric.
DIFFERENCE = "sampling/sampling_logp_difference/max"
#: Options of the engine. By itself it takes bfloat16 for weights in float32; compiling takes longer than these runs.
ENGINE = {"dtype": "float32", "enforce_eager": True}

_ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # a GiB; threads that are not pinned
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_FACTOR = 10  # between what a stale engine shows and a fresh one
_PROBLEMS = [{"prompt": f"{i:02d}"} for i in range(17)]


def find(machine: Machine) -> Iterator[Finding]:
    """Training and evaluation by an engine that stays awake; then the same without the sync, which must show."""
    yield from _find(machine, sleeps=False)


def find_sleeping(machine: Machine) -> Iterator[Finding]:
    """The same by an engine without weights and cache while the policy trains."""
    _check_installed()
    if machine.device == "cpu":
        raise CannotRunError("vLLM sleeps on GPUs alone")
    yield from _find(machine, sleeps=True)


def _find(machine: Machine, sleeps: bool) -> Iterator[Finding]:
    _check_installed()  # before what takes long to import
    _prepare(machine.device)
    from transformers import AutoModelForCausalLM

    from ..evaluation import EvaluationCallback, Sampling
    from ..trainer import HTPOTrainer
    from .policy import STALE, TOLERANCE
    from .tiny import DIGITS, build_model, build_tokenizer, even_digits, logged, make_trainer

    path = machine.directory / "model"
    build_model().save_pretrained(path)
    build_tokenizer(DIGITS).save_pretrained(path)
    trainer = make_trainer(
        HTPOTrainer,
        machine,
        AutoModelForCausalLM.from_pretrained(path, dtype="float32"),
        use_vllm=True,
        vllm_gpu_memory_utilization=0.1,  # of the machine's memory, on a CPU
        vllm_max_model_length=64,
        vllm_enable_sleep_mode=sleeps,
        max_steps=12,
        eval_steps=3,  # within generation batches and between them
    )
    greedy = Sampling(num_samples=1, temperature=0, max_new_tokens=12, batch_size=8)
    for name, backend in (("engine", "auto"), ("transformers", "transformers")):
        trainer.add_callback(EvaluationCallback(trainer, {name: _PROBLEMS}, greedy, even_digits, backend=backend))

    trainer.train()
    fresh = [row[DIFFERENCE] for row in logged(trainer) if row.get(DIFFERENCE) is not None]
    limit = max(TOLERANCE, 5 * fresh[0])
    what, ok = f"log-probs of vLLM and of the policy, {len(fresh)} batches", max(fresh) <= limit < STALE
    expected, ok = f"difference ≤ {limit:.1g} (first {fresh[0]:.0e})", ok and len(fresh) > 2
    yield Finding(what, expected, f"{max(fresh):.1e}", ok, {"differences": fresh})
    same = same_completions(Path(trainer.args.output_dir))
    total, of = map(sum, zip(*same.values(), strict=True))
    what, ok = f"greedy completions of {len(same)} evaluations by vLLM", total >= 0.95 * of  # near-ties may turn
    yield Finding(what, "those of transformers", f"{total} of {of}", ok, {"same at step": same})
    if sleeps:  # and has lost its weights, so that there is no control without a sync
        return
    trainer.vllm_generation.sync_weights = lambda: None
    trainer.train()
    # The first batch is by the weights of the last evaluation, which are the policy's then.
    stale = [row[DIFFERENCE] for row in logged(trainer) if row.get(DIFFERENCE) is not None][1:]
    least, found = max(STALE, _FACTOR * max(fresh)), min(stale)
    what, said = "log-probs without the sync, as a control", ": the check could not see it" * (found < least)
    yield Finding(what, f"difference ≥ {least:.1g}", f"{found:.2f}{said}", found >= least, {"differences": stale})
    total, of = [*same_completions(Path(trainer.args.output_dir)).values()][-1]
    what = "its last evaluation, as a control"
    yield Finding(what, "other completions", f"{total} of {of} the same", total < 0.95 * of)


def _check_installed() -> None:
    if not find_spec("vllm"):
        raise CannotRunError("vLLM is not installed: pip install 'htpo_trl[vllm]'")


def _prepare(device: str) -> None:
    """Import vLLM, with `ENGINE` for TRL's engines. Raises [`CannotRunError`] where it is not there for the device."""
    for name, value in (_QUIET | (_ON_CPU if device == "cpu" else {})).items():
        os.environ.setdefault(name, value)
    from vllm.platforms import current_platform  # type: ignore[import-not-found]

    if device != current_platform.device_type:
        raise CannotRunError(f"vLLM is built for {current_platform.device_type or 'no device here'}, not for {device}")
    from trl.generation import vllm_generation

    vllm_generation.LLM = partial(vllm_generation.LLM, **ENGINE)
    if device == "cpu":
        vllm_generation.VLLMGeneration.sync_weights = sync_on_cpu  # type: ignore[method-assign]


def sync_on_cpu(generation: Any) -> None:
    """
    TRL writes each tensor into vLLM's model. On a CPU, vLLM has packed them for its kernels; `reload_weights` loads
    and packs anew, all but an output head tied to the embeddings, which keeps its own packed copy.
    """
    runner = generation.llm.llm_engine.model_executor.driver_worker.model_runner
    runner.reload_weights(weights_iterator=generation._iter_named_params())
    runner.model.lm_head.quant_method.process_weights_after_loading(runner.model.lm_head)
    generation.llm.reset_prefix_cache()


def same_completions(output_dir: Path) -> dict[str, list[int]]:
    """Step -> how many greedy completions are the same by the engine as by transformers, and of how many."""
    same = {}
    for directory in sorted(output_dir.glob("evaluation/step-*"), key=lambda path: int(path.name[5:])):
        files = [(directory / f"{name}.jsonl").read_text().splitlines() for name in ("engine", "transformers")]
        rows = [[(row["completion"], row["tokens"], row["truncated"]) for row in map(json.loads, f)] for f in files]
        same[directory.name[5:]] = [sum(map(tuple.__eq__, *rows)), len(rows[0])]
    return same
