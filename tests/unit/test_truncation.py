"""Options of generation that sample from another distribution than that of training, and what is said of them."""

import math
import warnings

import pytest
import torch
from transformers import GenerationConfig

from htpo_trl import HTPOTrainer
from htpo_trl.cli.launch import Parallelism
from htpo_trl.cli.plan import plan_run
from htpo_trl.scripts import htpo
from htpo_trl.scripts.arguments import read
from htpo_trl.training.truncation import reshaped, told


VLLM = {"use_vllm": True, "max_completion_length": 1024}
BY_TOKEN = {"vllm_importance_sampling_mode": "token_truncate"}
QWEN = {"do_sample": True, "temperature": 0.6, "top_p": 0.8, "top_k": 20}  # as their generation_config.json


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            VLLM | {"top_p": 0.95},
            # 0.95^90 = 0.0099, 0.95^1024 = 1.5e-23
            [
                "top_p=0.95:",
                "down by up to 0.051 nats a token, below 0.01 after 90 such tokens",
                "at worst 2e-23",
                "=1024",
                "Set top_p=1.0. For likelier tokens lower temperature",
            ],
        ),
        (
            VLLM | {"top_p": 0.8, "top_k": 20},
            ["top_p=0.8, top_k=20:", "Long responses then teach nothing", "; set top_k=0"],
        ),
        (VLLM | {"min_p": 0.05}, ["min_p=0.05:", "Long responses then teach nothing", "Set min_p=0.0."]),
        (VLLM | BY_TOKEN | {"top_p": 0.9}, ["multiplies such tokens by ρ = π_old/μ, at least 0.9."]),
        (
            VLLM | {"repetition_penalty": 1.1},
            ["above vllm_importance_sampling_clip_max=3 it is dropped", "penalty=1.0."],
        ),
        (VLLM | {"vllm_importance_sampling_correction": False, "top_k": 9}, ["and no correction makes up for it."]),
        (VLLM | {"vllm_structured_outputs_regex": "a+"}, ["vllm_structured_outputs_regex='a+':", "Leave vllm_struct"]),
        (VLLM | {"generation_kwargs": {"presence_penalty": 1.5}}, ["presence_penalty=1.5 (in generation_kwargs):"]),
        ({"top_p": 0.9}, ["a token was up to 0.105 nats likelier than log π_old says, and no correction"]),
        # The dictionary goes before the option of the same name, as in TRL.
        (
            {"top_p": 0.9, "generation_kwargs": {"top_p": 0.5}},
            ["top_p=0.5 (in generation_kwargs)", "0.693 nats", "Take top_p"],
        ),
        (
            {"generation_kwargs": {"temperature": 0.7}},
            ["Take temperature out of generation_kwargs and set the option temperature=0.7."],
        ),
        ({"generation_kwargs": {"do_sample": False}}, ["do_sample=False (in generation_kwargs)"]),
    ],
)
def test_it_is_told_with_the_numbers_and_the_mend(make_config, options, parts):
    line = told(make_config(**options))
    assert [part for part in parts if part not in line] == []
    assert "\n" not in line


@pytest.mark.parametrize(
    "options",
    [
        {},
        VLLM,
        {"temperature": 0.7},  # by which training divides as well
        VLLM | {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
        VLLM | {"generation_kwargs": {"top_k": -1, "temperature": 1.0, "presence_penalty": 0.0}},
        {"top_p": 0.9, "generation_kwargs": {"top_p": 1.0}},
    ],
)
def test_nothing_is_told_where_the_distributions_are_one(make_config, options):
    assert told(make_config(**options)) == ""


def test_what_a_models_own_file_adds(make_config, make_trainer, model):
    """TRL gives what it has options for; the rest, and `min_p` that is None there, comes from the model's file."""
    defaults = GenerationConfig(**QWEN, min_p=0.1, typical_p=0.9)
    assert reshaped(make_config(), defaults) == {"min_p": 0.1, "typical_p": 0.9}
    assert reshaped(make_config(min_p=0.0), defaults) == {"typical_p": 0.9}
    assert reshaped(make_config(**VLLM), defaults) == {}  # colocated, vLLM asks for nothing but TRL's options
    assert told(make_config(), GenerationConfig(**QWEN)) == ""
    line = told(make_config(), defaults)
    assert "min_p=0.1 (in the model's generation_config.json)" in line
    assert "Set min_p=0.0; set generation_kwargs={'typical_p': 1.0}." in line

    # That is what happens.
    model.generation_config = defaults
    with pytest.warns(UserWarning, match=r"min_p=0.1 \(in the model's"):
        trainer = make_trainer(model=model)
    used, _ = trainer.model._prepare_generation_config(trainer.generation_config)
    found = (used.temperature, used.top_p, used.top_k, used.min_p, used.typical_p)
    assert found == (1.0, 1.0, 0, 0.1, 0.9)


def test_training_divides_by_the_temperature(make_trainer, batch):
    """So that temperature is no such option: log π_old is of the distribution that is sampled from."""
    trainer = make_trainer(temperature=0.5)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    length = batch["completion_ids"].shape[1]
    with torch.no_grad():
        logps, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, torch.ones_like(ids), length)
        logits = trainer.model(ids).logits[:, -length - 1 : -1]
    expected = (logits / 0.5).log_softmax(dim=-1).gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(logps, expected)
    at_1 = logits.log_softmax(dim=-1).gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)
    assert (logps - at_1).abs().max() > 0.1  # negative control


def test_the_bound_of_top_p(model):
    """log π_old - log μ of sampled tokens lies between log(top_p) and 0; with a penalty it does not."""

    def log_ratios(**sampling):
        torch.manual_seed(0)
        given = {
            "do_sample": True,
            "max_new_tokens": 12,
            "top_k": 0,
            "pad_token_id": 0,
            "eos_token_id": None,
            **sampling,
        }
        out = model.generate(
            torch.tensor([[3, 4]] * 32), **given, return_dict_in_generate=True, output_scores=True, output_logits=True
        )
        policy, sampled = (torch.stack(x, dim=1).log_softmax(-1) for x in (out.logits, out.scores))
        return (policy - sampled).gather(2, out.sequences[:, 2:, None])

    ratios = log_ratios(top_p=0.9)
    assert math.log(0.9) - 1e-5 <= ratios.min() < -0.01
    assert ratios.max() <= 1e-6
    assert log_ratios(top_p=1.0).abs().max() < 1e-5
    assert log_ratios(repetition_penalty=1.5).max() > 0.1


@pytest.mark.parametrize("rank", [0, 1])
def test_the_trainer_tells_it_once_on_one_process(make_trainer, make_config, monkeypatch, rank):
    config = make_config(top_p=0.9)
    monkeypatch.setattr(type(config), "process_index", rank)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(HTPOTrainer, config=config)
    lines = [str(warning.message) for warning in caught if "top_p" in str(warning.message)]
    assert len(lines) == (rank == 0)


def test_the_plan_tells_it(place, monkeypatch):
    monkeypatch.chdir(place)
    text = plan_run(read(["--config", "recipe.yaml", "--top_p", "0.9"], htpo.TITLES), Parallelism())
    assert "\nWarnings:\n  top_p=0.9: responses are sampled from another distribution" in text
    assert "Warnings:" not in plan_run(read(["--config", "recipe.yaml"], htpo.TITLES), Parallelism())
