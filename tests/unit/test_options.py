"""Every option of `GRPOConfig` is exercised with HTPO, refused with a sentence, or stands below with the reason why a
CPU cannot show it. An option that a new TRL or Transformers brings is in none of the tables: the first test fails.

To exercise options, short runs are compared bit for bit:

- TRL's trainer, and HTPO's with the table `dapo` (PPO-clip for every token), must end with the same model: nothing
  that TRL does with the options is lost on the way through HTPO's loss;
- HTPO's with the table `htpo` must end elsewhere than with `dapo`: the options do not switch the objective off;
- without the options both trainers must end elsewhere, or else the first comparison shows nothing; but in the same
  place for options that are not to change a model (`acts=False`).

The tables are for every TRL that is supported: options that the installed one lacks are left out.
"""

import dataclasses
import math
import os
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.check.reference import reference

from ..losses import forward, loss_and_grads
from ..option_cases import CONTINUOUS_BATCHING, EXERCISED, PLAIN


FIELDS = {field.name for field in dataclasses.fields(GRPOConfig)}

# Where HTPOConfig's defaults differ: given to both trainers.
RECIPE = {"epsilon_high": 0.28, "delta": 10.0, "steps_per_generation": 4, "use_bias_correction_kl": False}


# A match for the message follows each.
REFUSED = [
    ({"loss_type": "cispo"}, "loss_type='cispo'.*Use one of"),
    ({"loss_type": "bnpo", "gradient_accumulation_steps": 2}, "loss_type='bnpo'.*Use loss_type='dapo'"),
    ({"delta": 1.1}, "delta=1.1 must lie above.*Raise delta"),
    ({"importance_sampling_level": "sequence"}, "importance_sampling_level='sequence'.*Use importance"),
    ({"top_entropy_quantile": 0.2}, "top_entropy_quantile=0.2.*Leave it at 1.0"),
    ({"use_bias_correction_kl": True, "beta": 0.1}, "use_bias_correction_kl=True.*Set use_bias_correction_kl=False"),
    *(
        (
            {name: 2.5},
            f"{name}=2.5: TRL's loss_type='{name.partition('_')[0]}' alone reads it.*Leave it out; for the rule",
        )
        for name in (
            *("sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg"),
            "vespo_lambda_neg",
        )
    ),
    ({"auto_find_batch_size": True}, "auto_find_batch_size is not supported.*Set auto_find_batch_size=False"),  # TRL
]

# Not shown here, for the reason that precedes each. The config takes the values.
ACCEPTED = {
    "vLLM changes who samples, and no loss but by the correction, which a sampler in its place exercises": {
        "use_vllm": True,
        "vllm_mode": "server",
        "vllm_model_impl": "transformers",
        "vllm_enable_sleep_mode": True,
        "vllm_structured_outputs_regex": "[0-9]+",
        "vllm_server_base_url": "http://localhost:9000",
        "vllm_server_host": "localhost",
        "vllm_server_port": 9000,
        "vllm_server_timeout": 1.0,
        "vllm_group_port": 9001,
        "vllm_gpu_memory_utilization": 0.5,
        "vllm_max_model_length": 64,
        "vllm_tensor_parallel_size": 2,
    },
    "tools make a prompt longer; of the loss they change the mask, see test_tool_mask_takes_tokens_out": {
        "max_tool_calling_iterations": 1
    },
    "several processes: test_distributed has two; how parameters and gradients travel is no part of the loss": {
        "ds3_gather_for_generation": False,
        "ddp_find_unused_parameters": True,
        "ddp_bucket_cap_mb": 1,
        "ddp_broadcast_buffers": True,
        "ddp_static_graph": True,
        "ddp_timeout": 60,
    },
    "the Hub, and trackers, get what has been saved and logged": {
        "log_completions": True,
        "log_completions_hub_repo": "someone/completions",
        "push_to_hub": True,
        "hub_model_id": "someone/model",
        "hub_strategy": "end",
        "hub_token": "none",
        "hub_private_repo": True,
        "hub_always_push": True,
        "hub_revision": "main",
        "trackio_space_id": "someone/space",
        "trackio_bucket_id": "someone/bucket",
        "trackio_static_space_id": "someone/static",
    },
    "read by launch scripts, not by trainers; resuming is tested in test_trainer": {"resume_from_checkpoint": "last"},
    "around training: a thread that watches the memory, a checkpoint when the machine is taken away": {
        "skip_memory_metrics": False,
        "enable_jit_checkpoint": True,
    },
    "optimizers of other packages, after the gradient": {"optim_args": "rank=4", "optim_target_modules": ["q_proj"]},
    "the code generator's own setting; another generator is exercised": {"torch_compile_mode": "default"},
    "settings of kernels for a GPU": {"liger_kernel_config": {"rope": True}},
}

# Not even the config takes them on a CPU, without a launcher, or without a package.
OUT_OF_REACH = {
    "kernels for a GPU, accepted or refused by a test of their own": {"use_liger_kernel"},
    "GPUs' formats; bf16 is exercised": {"fp16", "fp16_full_eval", "tf32"},
    "engines that spread a model over processes": {"deepspeed", "fsdp", "fsdp_config", "parallelism_config"},
    "set by launchers, or for them": {"local_rank", "ddp_backend"},
}


@pytest.fixture(autouse=True)
def unmarked_process():
    """Some options set environment variables and switches of the process."""
    with patch.dict(os.environ, TRL_EXPERIMENTAL_SILENCE="1"):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def without_options():
    """Ends of runs without the options under test, to be filled in."""
    return {}


@pytest.fixture
def train(make_model, tokenizer, dataset, reward, cpu_arguments, tmp_path):
    def train(cls, needs, **options):
        parts = {
            "model": make_model(),
            "reward_funcs": reward,
            "train_dataset": dataset,
            "processing_class": tokenizer,
        }
        needs(parts, tmp_path)
        config = {GRPOTrainer: GRPOConfig, HTPOTrainer: HTPOConfig}[cls](**{**cpu_arguments, **RECIPE, **options})
        trainer = cls(args=config, **parts)
        if "rollout_func" in parts:  # `use_vllm` in the config would start vLLM
            trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, parts["rollout_func"], -1
        trainer.train()
        if "eval_dataset" in parts:
            trainer.evaluate()
        return [p.detach().clone() for p in trainer.model.parameters()]

    return train


def present(options):
    return {name: value for name, value in options.items() if name in FIELDS}


def same(left, right):
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_every_option_is_in_a_table(cpu_arguments):
    decided = set(cpu_arguments) | set(CONTINUOUS_BATCHING) | {"use_transformers_paged"}
    decided |= {name for case in EXERCISED for name in case.options}
    decided |= {name for options, _ in REFUSED for name in options}
    decided |= {name for options in ACCEPTED.values() for name in options}
    decided |= {name for names in OUT_OF_REACH.values() for name in names}
    assert sorted(FIELDS - decided) == []


@pytest.mark.parametrize("case", EXERCISED, ids=lambda case: next(iter(case.options)))
def test_exercised(case, train, without_options):
    options = present(case.options)
    if not options or case.given.keys() - FIELDS:
        pytest.skip(f"not in this TRL: {', '.join((case.given | case.options).keys() - FIELDS)}")
    options = case.given | options
    theirs = train(GRPOTrainer, case.needs, **options)
    ours = train(HTPOTrainer, case.needs, **options, objective="dapo")
    assert same(ours, theirs)

    # Most of the table acts on high-entropy tokens and on hard prompts: of so few tokens, many should be both.
    control = {"objective": case.objective, "top_entropy_share": 0.5, "difficulty_threshold": 1.0}
    controlled = train(HTPOTrainer, case.needs, **options, **control)
    assert all(p.isfinite().all() for p in controlled)
    assert not same(controlled, ours)

    for cls, extra, end in ((GRPOTrainer, {}, theirs), (HTPOTrainer, control, controlled)):
        key = (cls, case.needs, repr(case.given))
        if key not in without_options:
            without_options[key] = train(cls, case.needs, **case.given, **extra)
        assert same(end, without_options[key]) is not case.acts


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: "-".join(case.options))
def test_a_table_that_changes_nothing_leaves_every_option_to_trl(case, train, without_options):
    options = case.given | case.options
    theirs = train(GRPOTrainer, case.needs, **options)
    is_named = "loss_type" not in case.options  # or else another table of which every row is replaced
    table = {"objective": "none"} if is_named else {"objective": "gppo", "objective_overrides": {"all": "clip"}}
    assert same(train(HTPOTrainer, case.needs, **options, **table), theirs)
    key = (GRPOTrainer, case.needs, repr(case.given))
    if key not in without_options:
        without_options[key] = train(GRPOTrainer, case.needs, **case.given)
    assert not same(theirs, without_options[key])


def test_liger_is_refused_where_it_replaces_the_loss(make_config, monkeypatch):
    """Up to TRL 1.13. Later versions replace layers alone."""
    monkeypatch.delattr(GRPOTrainer, "compute_liger_loss", raising=False)
    assert make_config(use_liger_kernel=True).use_liger_kernel
    monkeypatch.setattr(GRPOTrainer, "compute_liger_loss", print, raising=False)
    assert make_config(use_liger_kernel=True, objective="dapo").use_liger_kernel
    with pytest.raises(ValueError, match=r"use_liger_kernel=True.*trl>=1.14"):
        make_config(use_liger_kernel=True)


@pytest.mark.parametrize(
    "clip", [{"epsilon": 0.05, "epsilon_high": 0.1, "delta": 1.5}, {"epsilon_high": 0.2, "delta": None}]
)
def test_the_table_has_the_clip_range_of_the_loss(make_trainer, batch, monkeypatch, clip):
    """The only options that TRL's loss and the table both read."""
    trainer = make_trainer(**clip)
    loss, _ = loss_and_grads(trainer, batch)
    with torch.no_grad():
        logps, entropies = forward(trainer, batch)
    case = {name: value.tolist() for name, value in batch.items()}
    case |= {"mask": case["completion_mask"], "per_token_logps": logps.tolist(), "entropies": entropies.tolist()}
    with_defaults, *_ = reference(case)
    monkeypatch.setattr("htpo_trl.check.reference.DUAL_CLIP", clip["delta"] or math.inf)
    expected, *_ = reference(case, clip=(trainer.args.epsilon, clip["epsilon_high"]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert abs(with_defaults - expected) > 1e-3


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[next(iter(options)) for options, _ in REFUSED])
def test_refused(make_config, options, message):
    if options.keys() - FIELDS:
        pytest.skip("not in this TRL")
    with pytest.raises(ValueError, match=message):
        make_config(**options)


def test_each_refusal_is_argued():
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    argued = page.split("## What is refused, and why")[1].split("\n## ")[0]
    ours = [options for options, _ in REFUSED if "auto_find_batch_size" not in options]
    missing = [name for options in ours for name in options if f"`{name}" not in argued]
    assert set(missing) == {"gradient_accumulation_steps"}, "a word of it: with accumulation"


@pytest.mark.parametrize("options", ACCEPTED.values(), ids=list(ACCEPTED))
def test_accepted(make_config, options):
    options = present(options)
    config = make_config(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_continuous_batching(make_model, make_config, tokenizer, dataset, reward):
    """It leaves the model in training mode, also in evaluation, whose groups are of another size."""
    config = make_config(
        **CONTINUOUS_BATCHING,
        max_steps=1,
        eval_strategy="steps",
        num_generations_eval=2,
        per_device_eval_batch_size=8,
    )
    trainer = HTPOTrainer(make_model(), reward, config, dataset, dataset.select(range(4)), processing_class=tokenizer)
    labels = []
    score = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: labels.append(score(inputs)) or labels[-1]
    trainer.train()
    assert len(labels) == 2
    for output, size in zip(labels, (4, 2), strict=True):
        accuracy = output["is_correct"].float().view(-1, size).mean(dim=1)
        assert output["is_hard"].view(-1, size).T.tolist() == [(accuracy < 0.6).tolist()] * size
    # TRL's own log would not show them: it takes this evaluation for training.
    assert len(trainer._metrics["eval"]["htpo/accuracy"]) == len(trainer._metrics["eval"]["reward"]) == 1


@pytest.mark.skipif("use_transformers_paged" not in FIELDS, reason="this TRL does not have the deprecated name")
def test_the_former_name_of_continuous_batching(make_config):
    with pytest.warns(FutureWarning, match="use_transformers_paged"):
        assert make_config(use_transformers_paged=True).use_transformers_continuous_batching
