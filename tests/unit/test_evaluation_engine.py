"""Evaluation by training's engine of vLLM: TRL's own generation and weight sync, on what stands for the engine."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from trl.data_utils import prepare_multimodal_messages
from trl.generation.vllm_generation import VLLMGeneration

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.evaluation import EvaluationCallback, Sampling, policy
from htpo_trl.utils import UsageError

from .. import engine, scenarios
from ..distributed_run import build
from ..tiny import CPU_ARGUMENTS, even_digits, same_parameters
from .test_evaluation_prompts import QUESTION, pictured


PROBLEMS = [{"prompt": "123456789"[i:] + str(i)} for i in range(5)]
GREEDY = Sampling(num_samples=1, temperature=0, max_new_tokens=5, batch_size=2)
SAMPLED = Sampling(num_samples=2, temperature=0.8, top_p=0.9, max_new_tokens=5, batch_size=4)
# Evaluations within a generation batch (1), and between two (2).
ARGUMENTS = {"max_steps": 3, "eval_steps": 1, "steps_per_generation": 2, "max_completion_length": 5, "use_vllm": True}
STEPS = (0, 1, 2, 3)


@pytest.fixture
def directory(model, tokenizer, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # which TRL sets for vLLM
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    engine.stand_in(monkeypatch.setattr, monkeypatch.setitem, tmp_path / "model")
    return tmp_path


def trained(directory, evaluated=True, arguments=None, **options):
    trainer = build(directory, ARGUMENTS | (arguments or {}), **options)
    if evaluated:
        for name, sampling, backend in (
            ("engine", GREEDY, "auto"),
            ("sampled", SAMPLED, "auto"),
            ("transformers", GREEDY, "transformers"),
        ):
            trainer.add_callback(EvaluationCallback(trainer, {name: PROBLEMS}, sampling, even_digits, backend=backend))
    trainer.train()
    return trainer


def completions(directory, name, step):
    lines = (directory / "run" / "evaluation" / f"step-{step}" / f"{name}.jsonl").read_text().splitlines()
    return [(row["completion"], row["tokens"], row["truncated"]) for row in map(json.loads, lines)]


def same_at(directory):
    """The steps at which both give the same."""
    return [s for s in STEPS if completions(directory, "engine", s) == completions(directory, "transformers", s)]


MODES = {
    "colocate": {},
    "sleep": {"vllm_enable_sleep_mode": True},
    "server": {"vllm_mode": "server", "vllm_server_base_url": "http://localhost:1"},
    "dynamic sampling": {"dynamic_sampling": True, "max_sampling_rounds": 30},
}


@pytest.mark.parametrize("mode", MODES)
def test_it_samples_from_the_policy_and_leaves_training_as_it_was(directory, mode):
    plain = trained(directory, evaluated=False, arguments=MODES[mode])
    evaluated = trained(directory, arguments=MODES[mode])
    assert same_parameters(evaluated, plain)
    assert same_at(directory) == [*STEPS]
    assert len({str(completions(directory, "engine", step)) for step in STEPS}) > 1, "it learns"
    own = evaluated.vllm_generation
    llm = own.vllm_client.llm if mode == "server" else own.llm
    assert llm.cached == set(), "nothing is left of the last evaluation"
    assert llm.asleep == ({"weights", "kv_cache"} if mode == "sleep" else set())
    assert getattr(own, "_llm_weights_sleeping", False) == (mode == "sleep"), "or TRL would generate without weights"


def test_without_the_sync_it_would_be_another_policy(directory, monkeypatch):
    monkeypatch.setattr(VLLMGeneration, "sync_weights", lambda self: None)
    trained(directory)
    assert same_at(directory) == [0]


def test_an_adapter_is_merged_and_taken_out_without_a_trace(directory, monkeypatch):
    def adapter():
        torch.manual_seed(0)
        return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)

    plain = trained(directory, evaluated=False, peft_config=adapter())
    evaluated = trained(directory, peft_config=adapter())
    assert same_parameters(evaluated, plain)
    assert same_at(directory) == [*STEPS]
    monkeypatch.setattr(policy, "_unmerged_exactly", lambda model: nullcontext())
    assert not same_parameters(trained(directory, peft_config=adapter()), plain)


def test_requests(directory):
    """Options of the evaluation alone, a seed for each sample, and the ends of a turn that transformers would take."""
    arguments = {"temperature": 0.5, "top_p": 0.6, "generation_kwargs": {"seed": 5}, "repetition_penalty": 1.0}
    trainer = build(directory, ARGUMENTS | arguments)
    trainer.model.generation_config.eos_token_id = [1, 4]
    llm = trainer.vllm_generation.llm
    EvaluationCallback(trainer, {"sampled": PROBLEMS}, SAMPLED, even_digits)._evaluate(0)
    seeds = [params.seed for params in llm.requests]
    assert len({*seeds}) == 10
    options = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 5}
    assert llm.requests == [
        engine.SamplingParams(**options, seed=seed, stop_token_ids=[1, 4], ignore_eos=True, detokenize=False)
        for seed in seeds
    ]
    rows = completions(directory, "sampled", 0)
    assert {truncated for _, _, truncated in rows} == {True, False}
    settings = json.loads((directory / "run/evaluation/step-0/sampled.json").read_text())["settings"]
    assert settings["model"] == f"vllm {directory / 'model'}"

    # Neither the size of the batches nor what was asked for before changes a sample.
    other = Sampling(**vars(SAMPLED) | {"batch_size": 3})
    EvaluationCallback(trainer, {"sampled": PROBLEMS}, other, even_digits)._evaluate(1)
    assert completions(directory, "sampled", 1) == rows


def test_what_does_not_fit_is_refused_before_training(directory):
    trainer = build(directory, ARGUMENTS | {"vllm_max_model_length": 14})
    EvaluationCallback(trainer, {"one": PROBLEMS[1:]}, SAMPLED, even_digits)
    with pytest.raises(UsageError, match=r"'one', 10 tokens, are more than vllm_max_model_length=14: set .* least 15"):
        EvaluationCallback(trainer, {"one": PROBLEMS}, SAMPLED, even_digits)
    EvaluationCallback(trainer, {"one": PROBLEMS}, SAMPLED, even_digits, backend="transformers")
    with pytest.raises(UsageError, match="backend='vllm' is none of 'auto', 'transformers'"):
        EvaluationCallback(trainer, {"one": PROBLEMS}, SAMPLED, even_digits, backend="vllm")
    server = build(directory, ARGUMENTS | MODES["server"])
    problem = {"prompt": [{"role": "user", "content": "7"}], "image": scenarios.picture(1)}
    with pytest.raises(UsageError, match=r"'seen' has pictures.*backend='transformers'"):
        EvaluationCallback(server, {"seen": [problem]}, SAMPLED, even_digits)


@pytest.mark.parametrize("form", ["image", "images", "messages"])
def test_a_colocated_engine_is_sent_pictures(directory, form):
    """In the form in which TRL sends those of training."""
    parts = scenarios.pictures(directory)
    trainer = HTPOTrainer(args=HTPOConfig(str(directory / "run"), eval_steps=1, **CPU_ARGUMENTS), **parts)
    sent = []

    def generate(requests, parameters, use_tqdm):
        sent.extend(requests)
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5])])] * len(requests)

    trainer.vllm_generation = SimpleNamespace(
        mode="colocate", tensor_parallel_size=1, llm=SimpleNamespace(generate=generate)
    )
    sees = policy.EnginePolicy(trainer, {})
    problems = [pictured(form, "7", 20), {"prompt": QUESTION}]
    prompts = [sees.tokenize(problem) for problem in problems]
    assert len(sees.generate(prompts, [1, 2], SAMPLED)) == 2
    (ids, *_), _, _ = trainer._tokenize_prompts(
        [prepare_multimodal_messages([{"role": "user", "content": "7"}], images=[scenarios.picture(20)])]
    )
    with_picture, without = sent
    assert with_picture["prompt_token_ids"] == ids
    assert with_picture["multi_modal_data"]["image"].tobytes() == scenarios.picture(20).tobytes()
    assert without == {"prompt_token_ids": [*prompts[1]]}
