"""Options of `GRPOConfig` at values that act, and what each needs to act: what `test_options.py` exercises."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3MoeConfig, Qwen3MoeForCausalLM


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
    Case({"vespo_k_neg": 1.0, "vespo_lambda_pos": 1.0}, given={"loss_type": "vespo"}),
    Case({"importance_sampling_level": "sequence"}),
    Case({"importance_sampling_level": "sequence", "loss_type": "grpo"}),
    Case({"importance_sampling_level": "sequence", "loss_type": "luspo"}),
    Case({"top_entropy_quantile": 0.2}),
    Case({"loss_type": "bnpo"}, given={"gradient_accumulation_steps": 2}),
    Case({"delta": 1.1}),
    Case({"use_bias_correction_kl": True}, a_reference, given={"beta": 0.1}),
]
