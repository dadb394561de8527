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

import copy
import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3MoeConfig, Qwen3MoeForCausalLM
from trl import GRPOConfig, GRPOTrainer

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.objective.table import GROUPS

from ..losses import forward, loss_and_grads
from ..reference import reference


ALL_CLIP = dict.fromkeys(GROUPS, "clip")
FIELDS = {field.name for field in dataclasses.fields(GRPOConfig)}

# Where HTPOConfig's defaults differ: given to both trainers.
RECIPE = {"epsilon_high": 0.28, "delta": 10.0, "steps_per_generation": 4, "use_bias_correction_kl": False}


# What an option may need in order to act: each function changes the keyword arguments of a trainer.
def nothing(parts, directory):
    pass


def a_name(parts, directory):
    """The model by its name."""
    parts["model"].save_pretrained(directory / "model")
    parts["model"] = str(directory / "model")


def a_reference(parts, directory):
    """A reference policy, which TRL loads by the model's name, that is not the policy."""
    rebuilt(parts["model"], initializer_range=0.2).save_pretrained(directory / "reference")
    parts["model"].config._name_or_path = str(directory / "reference")


def dropout(parts, directory):
    torch.manual_seed(0)
    parts["model"] = GPT2LMHeadModel(GPT2Config(vocab_size=13, n_positions=32, n_embd=32, n_layer=2, n_head=2))


def half_precision(parts, directory):
    parts["model"] = rebuilt(parts["model"], tie_word_embeddings=False).bfloat16()


def experts(parts, directory):
    dense = parts["model"].config.to_dict()
    del dense["model_type"]
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**dense, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)
    parts["model"] = Qwen3MoeForCausalLM(config)


def a_chat(parts, directory):
    parts["processing_class"] = copy.deepcopy(parts["processing_class"])
    parts["processing_class"].chat_template = "{% for m in messages %}{{ m.content }}{{ suffix }}{% endfor %}"
    prompts = [[{"role": "user", "content": prompt}] for prompt in parts["train_dataset"]["prompt"]]
    parts["train_dataset"] = Dataset.from_dict({"prompt": prompts})
    reward = parts["reward_funcs"]
    parts["reward_funcs"] = lambda completions, **kwargs: reward([c[0]["content"] for c in completions])


def two_rewards(parts, directory):
    def brevity(completions, **kwargs):
        return [-len(text) / 10 for text in completions]

    parts["reward_funcs"] = [parts["reward_funcs"], brevity]


def one_layer(parts, directory):
    parts["model"] = rebuilt(parts["model"], num_hidden_layers=1)


def evaluation(parts, directory):
    parts["eval_dataset"] = parts["train_dataset"].select(range(4))


class OtherSampler:
    """In vLLM's place: it samples from a distribution that is not quite the policy's, and says how likely that was."""

    def __call__(self, prompts, trainer):
        generator = torch.Generator().manual_seed(trainer.state.global_step)
        lengths = torch.randint(1, 13, (len(prompts),), generator=generator).tolist()
        return {
            "prompt_ids": trainer.processing_class(prompts)["input_ids"],
            "completion_ids": [torch.randint(3, 13, (n,), generator=generator).tolist() for n in lengths],
            "logprobs": [[-2.5] * n for n in lengths],
        }

    def sync_weights(self):
        pass


def another_sampler(parts, directory):
    parts["rollout_func"] = OtherSampler()


def rebuilt(model, **changes):
    config = copy.deepcopy(model.config)
    config.update(changes)
    torch.manual_seed(0)
    return type(model)(config)


class Case(NamedTuple):
    options: dict[str, Any]  # under test, at values that are not the defaults
    needs: Callable = nothing
    given: dict[str, Any] = {}  # other options that these need in order to act
    acts: bool = True  # whether the run ends elsewhere than without them
    objective: str = "htpo"


ADAPTIVE = {"use_adaptive_entropy": True, "entropy_coef": 0.2, "entropy_target": 10.0}
SYNCED = {"sync_ref_model": True, "ref_model_sync_steps": 4, "beta": 0.1, "max_steps": 8}

CONTINUOUS_BATCHING = {
    "use_transformers_continuous_batching": True,
    # A tiny cache: sizing it to the memory of the machine takes a minute on a CPU.
    "transformers_continuous_batching_config": {"num_blocks": 32, "max_batch_tokens": 64},
}

EXERCISED = [
    # TRL: model
    Case({"model_init_kwargs": {"dtype": "bfloat16"}}, a_name),
    Case({"trust_remote_code": True}, a_name, acts=False),
    Case({"router_aux_loss_coef": 0.5}, experts),
    Case({"disable_dropout": True}, dropout),
    Case({"cast_lm_head_to_fp32": True}, half_precision),
    # TRL: batches
    Case({"num_generations": 2}),
    Case({"max_completion_length": 6}),
    Case({"shuffle_dataset": False}),
    Case({"pad_to_multiple_of": 16}),
    Case({"generation_batch_size": 16}, given={"steps_per_generation": None}),
    Case({"steps_per_generation": 2}),
    Case({"num_iterations": 2}, given={"max_steps": 8}),
    # TRL: generation
    Case({"temperature": 0.7}),
    Case({"top_p": 0.8}),
    Case({"top_k": 5}),
    Case({"min_p": 0.05}),
    Case({"repetition_penalty": 1.3}),
    Case({"generation_kwargs": {"suppress_tokens": [5]}}),
    Case({"chat_template_kwargs": {"suffix": "7"}}, a_chat),
    Case({"cache_implementation": "static"}, acts=False),
    Case({**CONTINUOUS_BATCHING}),
    # TRL: loss
    Case({"epsilon": 0.5}),
    Case({"epsilon_high": 0.05}),
    Case({"delta": 1.3}),
    Case({"loss_type": "grpo"}),
    Case({"scale_rewards": "batch"}),
    Case({"reward_weights": [1.0, 0.2]}, two_rewards),
    Case({"multi_objective_aggregation": "normalize_then_sum"}, two_rewards),
    Case({"mask_truncated_completions": True}),
    Case({"off_policy_mask_threshold": 0.01}),
    Case({"beta": 0.1}, a_reference),
    Case({"use_bias_correction_kl": True}, a_reference, given={"beta": 0.1}, objective="high-entropy-only"),
    Case(SYNCED, a_reference, given={"beta": 0.1, "max_steps": 8}),
    Case({"ref_model_mixup_alpha": 0.1}, a_reference, given=SYNCED),
    Case({"entropy_coef": 0.2}),
    Case({"use_adaptive_entropy": True}, given={"entropy_coef": 0.2}),
    Case({"entropy_target": 10.0}, given={"entropy_coef": 0.2, "use_adaptive_entropy": True}),
    Case({"entropy_coef_delta": 0.1}, given=ADAPTIVE),
    Case({"entropy_coef_max": 0.201, "entropy_coef_min": 0.1}, given=ADAPTIVE),  # no run comes down to the minimum
    Case({"vllm_importance_sampling_correction": False}, another_sampler),
    Case({"vllm_importance_sampling_mode": "token_mask"}, another_sampler),
    *(
        Case(clip, another_sampler, given={"vllm_importance_sampling_mode": "token_mask"})
        for clip in (
            {"vllm_importance_sampling_clip_max": 1.5},
            {"vllm_importance_sampling_clip_min": 0.2},
            {"vllm_importance_sampling_cap": 1.5},
        )
    ),
    # TRL: parameters of loss types that the table leaves to TRL, see `PLAIN`
    Case(
        {
            "sapo_temperature_neg": 2.0,
            "sapo_temperature_pos": 2.0,
            "vespo_k_pos": 1.0,
            "vespo_lambda_pos": 1.0,
            "vespo_k_neg": 1.0,
            "vespo_lambda_neg": 1.0,
        },
        acts=False,
    ),
    # TRL: logs
    Case(
        {"log_completions": True, "log_unique_prompts": True, "num_completions_to_print": 1, "log_multimodal": False},
        acts=False,
    ),
    # Transformers: what a step is made of
    Case({"per_device_train_batch_size": 16}),
    Case({"gradient_accumulation_steps": 2}),
    Case({"num_train_epochs": 0.125, "max_steps": -1}, acts=False),  # 4 steps of 32
    Case({"seed": 7}),
    Case({"learning_rate": 1e-3}),
    Case({"max_grad_norm": 0.1}),
    Case(
        {
            "optim": "adamw_torch",
            "adam_beta1": 0.5,
            "adam_beta2": 0.9,
            "adam_epsilon": 1e-4,
            "weight_decay": 0.1,
            "lr_scheduler_type": "cosine_with_restarts",
            "lr_scheduler_kwargs": {"num_cycles": 2},
            "warmup_steps": 1,
            "warmup_ratio": 0.5,
        }
    ),
    # Transformers: the forward pass
    Case({"bf16": True}),
    Case({"neftune_noise_alpha": 5.0}),
    Case({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, acts=False),
    Case({"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}, acts=False),
    Case({"torch_compile": True, "torch_compile_backend": "eager"}, one_layer, acts=False),
    Case({"use_cache": True, "full_determinism": True, "debug": "underflow_overflow"}, acts=False),
    # Transformers: what TRL does without
    Case(
        {
            "label_smoothing_factor": 0.5,
            "average_tokens_across_devices": False,
            "train_sampling_strategy": "group_by_length",
            "length_column_name": "prompt",
            "data_seed": 7,
            "label_names": ["other"],
        },
        acts=False,
    ),
    # Transformers: around the steps
    Case(
        {
            "logging_strategy": "epoch",
            "logging_steps": 3,
            "logging_dir": "logs",
            "logging_first_step": True,
            "logging_nan_inf_filter": False,
            "log_level": "error",
            "log_level_replica": "error",
            "log_on_each_node": False,
            "include_num_input_tokens_seen": "all",
            "run_name": "other",
            "project": "other",
            "disable_tqdm": False,
            "torch_empty_cache_steps": 1,
            "do_train": True,
            "do_predict": True,
            "ignore_data_skip": True,
            "save_strategy": "steps",
            "save_steps": 2,
            "save_total_limit": 1,
            "save_only_model": True,
            "save_on_each_node": True,
            "restore_callback_states_from_checkpoint": True,
            "remove_unused_columns": True,
            "dataloader_num_workers": 1,
            "dataloader_prefetch_factor": 1,
            "dataloader_persistent_workers": True,
            "dataloader_multiprocessing_context": "fork",
            "dataloader_in_order": False,
            "dataloader_drop_last": True,
            "dataloader_pin_memory": False,
            "accelerator_config": {"even_batches": False},
        },
        acts=False,
    ),
    Case(
        {
            "eval_strategy": "steps",
            "eval_steps": 4,
            "eval_delay": 1,
            "eval_on_start": True,
            "eval_accumulation_steps": 1,
            "eval_do_concat_batches": False,
            "eval_use_gather_object": True,
            "do_eval": True,
            "num_generations_eval": 2,
            "per_device_eval_batch_size": 4,
            "prediction_loss_only": True,
            "include_for_metrics": ["loss"],
            "batch_eval_metrics": True,
            "bf16_full_eval": True,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_reward",
            "greater_is_better": False,
        },
        evaluation,
        given={"save_strategy": "steps", "save_steps": 4},
    ),
]

# With a table that changes nothing every option is TRL's own; with any other these are refused.
PLAIN = [
    Case({"loss_type": "cispo", "epsilon_high": 5.0}),
    Case({"loss_type": "sapo"}),
    Case({"sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0}, given={"loss_type": "sapo"}),
    Case({"loss_type": "vespo"}),
    Case({"vespo_k_pos": 1.0, "vespo_lambda_neg": 1.0}, given={"loss_type": "vespo"}),
    Case({"importance_sampling_level": "sequence"}),
    Case({"importance_sampling_level": "sequence", "loss_type": "grpo"}),
    Case({"importance_sampling_level": "sequence", "loss_type": "luspo"}),
    Case({"top_entropy_quantile": 0.2}),
    Case({"loss_type": "bnpo"}, given={"gradient_accumulation_steps": 2}),
    Case({"delta": 1.1}),
    Case({"use_bias_correction_kl": True}, a_reference, given={"beta": 0.1}),
]

# A match for the message follows each.
REFUSED = [
    ({"loss_type": "cispo"}, "loss_type='cispo'.*Use one of"),
    ({"loss_type": "bnpo", "gradient_accumulation_steps": 2}, "loss_type='bnpo'.*Use loss_type='dapo'"),
    ({"delta": 1.1}, "delta=1.1 must lie above.*Raise delta"),
    ({"importance_sampling_level": "sequence"}, "importance_sampling_level='sequence'.*Use importance"),
    ({"top_entropy_quantile": 0.2}, "top_entropy_quantile=0.2.*Leave it at 1.0"),
    ({"use_bias_correction_kl": True, "beta": 0.1}, "use_bias_correction_kl=True.*Set use_bias_correction_kl=False"),
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
    "Triton kernels, for a GPU": {"use_liger_kernel": True, "liger_kernel_config": {"rope": True}},
}

# Not even the config takes them on a CPU, without a launcher, or without a package.
OUT_OF_REACH = {
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
    assert same(train(HTPOTrainer, case.needs, **options, objective="dapo"), theirs)
    assert same(train(HTPOTrainer, case.needs, **options, objective="gppo", objective_overrides=ALL_CLIP), theirs)
    key = (GRPOTrainer, case.needs, repr(case.given))
    if key not in without_options:
        without_options[key] = train(GRPOTrainer, case.needs, **case.given)
    assert not same(theirs, without_options[key])


@pytest.mark.parametrize("objective", ["htpo", "dapo"])
def test_liger_is_refused_where_it_replaces_the_loss(make_config, monkeypatch, objective):
    """Up to TRL 1.13. Later versions replace layers alone."""
    monkeypatch.setattr(GRPOTrainer, "compute_liger_loss", print, raising=False)
    if objective == "dapo":
        assert make_config(use_liger_kernel=True, objective=objective).use_liger_kernel
        return
    with pytest.raises(ValueError, match=r"use_liger_kernel=True.*trl>=1.14"):
        make_config(use_liger_kernel=True, objective=objective)


@pytest.mark.parametrize(
    "clip", [{"epsilon": 0.05, "epsilon_high": 0.1, "delta": 1.5}, {"epsilon_high": None, "delta": None}]
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
    monkeypatch.setattr("tests.reference.DUAL_CLIP", clip["delta"] or math.inf)
    expected, *_ = reference(case, clip=(trainer.args.epsilon, clip["epsilon_high"] or trainer.args.epsilon))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert abs(with_defaults - expected) > 1e-3


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[next(iter(options)) for options, _ in REFUSED])
def test_refused(make_config, options, message):
    with pytest.raises(ValueError, match=message):
        make_config(**options)


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
