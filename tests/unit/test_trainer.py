import json
import math
import re
import warnings

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.check.reference import reference
from htpo_trl.objective import GROUPS, control

from ..losses import forward, loss_and_grads


# What HTPO's own rules do, by the number that `control` gives it.
OWN_EFFECTS = ("detach_lowest", "detach_highest", "keep_below", "keep_inside", "keep_above")
PPO_LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "luspo"]


@pytest.mark.parametrize(("clip", "top"), [((0.2, 0.28), (1, 5)), ((0.1, 0.5), (2, 5))])
def test_loss_is_the_reference(make_trainer, batch, clip, top):
    """The whole way through TRL's loss: value and gradient equal those of the per-token loop."""
    trainer = make_trainer(epsilon=clip[0], epsilon_high=clip[1], top_entropy_share=top[0] / top[1])
    loss, grads = loss_and_grads(trainer, batch)
    logps, entropies = forward(trainer, batch)
    case = {name: value.tolist() for name, value in batch.items()}
    case |= {"mask": case["completion_mask"], "per_token_logps": logps.tolist(), "entropies": entropies.tolist()}
    expected, slopes, _ = reference(case, top=top, clip=clip)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    trainer.model.zero_grad()
    logps.backward(torch.tensor(slopes))
    for grad, parameter in zip(grads, trainer.model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-3, atol=1e-6)
    # Negative control: kept gradients and detached tokens are there to be seen.
    _, plain, _ = reference(case, "dapo", clip=clip)
    assert (torch.tensor(slopes) - torch.tensor(plain)).abs().max() > 1e-3


@pytest.mark.parametrize("loss_type", PPO_LOSS_TYPES)
def test_dapo_preset_is_trl_bit_for_bit(make_trainer, batch, cpu_arguments, loss_type):
    ours = make_trainer(objective="dapo", loss_type=loss_type)
    options = {"epsilon_high": 0.28, "delta": 10.0, "loss_type": loss_type, "use_bias_correction_kl": False}
    theirs = make_trainer(GRPOTrainer, config=GRPOConfig(**cpu_arguments, **options))
    for inputs in (batch, {k: v for k, v in batch.items() if k != "old_per_token_logps"}):
        (loss, grads), (expected_loss, expected_grads) = loss_and_grads(ours, inputs), loss_and_grads(theirs, inputs)
        assert torch.equal(loss, expected_loss)
        assert all(map(torch.equal, grads, expected_grads))
    # Negative control: another objective is not equal.
    _, grads = loss_and_grads(make_trainer(objective="htpo", loss_type=loss_type), batch)
    _, expected_grads = loss_and_grads(theirs, batch)
    assert not all(map(torch.equal, grads, expected_grads))


@pytest.mark.parametrize("options", [{}, {"beta": 0.1}, {"num_iterations": 2}, {"mask_truncated_completions": True}])
def test_dapo_run_is_trls_run_bit_for_bit(make_trainer, make_model, cpu_arguments, tmp_path, options):
    make_model(1).save_pretrained(tmp_path / "reference")  # TRL loads the reference policy by the model's name

    def train(cls, config=None, **kwargs):
        model = make_model()
        model.config._name_or_path = str(tmp_path / "reference")
        trainer = make_trainer(cls, config=config, model=model, **kwargs, **({} if config else options))
        trainer.train()
        return trainer

    recipe = {"epsilon_high": 0.28, "delta": 10.0, "steps_per_generation": 4, "use_bias_correction_kl": False}
    theirs = train(GRPOTrainer, GRPOConfig(**cpu_arguments, **recipe, **options))
    ours = train(HTPOTrainer, objective="dapo")
    assert all(map(torch.equal, ours.model.parameters(), theirs.model.parameters()))
    for mine, other in zip(ours.state.log_history[:-1], theirs.state.log_history[:-1], strict=True):
        timeless = {name: value for name, value in other.items() if "time" not in name}
        assert timeless == {name: mine[name] for name in timeless}
    # Negative control: another objective gives another model.
    htpo = train(HTPOTrainer, objective="htpo")
    assert not all(map(torch.equal, htpo.model.parameters(), theirs.model.parameters()))


def test_one_forward_per_loss(make_trainer, batch):
    trainer = make_trainer()
    calls = []
    trainer.model.register_forward_hook(lambda *args: calls.append(1))
    loss_and_grads(trainer, batch)
    assert len(calls) == 1


def test_transform_does_not_leak_into_scoring(make_trainer, batch):
    """Forwards outside a loss, and a loss that failed, leave nothing behind."""
    trainer = make_trainer()
    assert trainer._loss_inputs is None
    with pytest.raises(KeyError, match="is_hard"):
        trainer._compute_loss(trainer.model, {k: v for k, v in batch.items() if k != "is_hard"})
    assert trainer._loss_inputs is None
    before = {name: value.clone() for name, value in batch.items()}
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(trainer.model, batch)
    assert all(torch.equal(before[name], batch[name]) for name in batch)


def test_only_the_first_forward_of_a_loss_is_transformed(make_trainer, batch, monkeypatch):
    """Should TRL's loss ever run a second forward, say of a reference policy, the inputs are left alone."""
    trainer = make_trainer()
    seen = []

    def loss(self, model, inputs):
        for _ in range(2):
            self._get_per_token_logps_and_entropies(
                model,
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                inputs["completion_ids"].shape[1],
                compute_entropy=True,
            )
            seen.append(inputs["advantages"])

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", loss)
    trainer._compute_loss(trainer.model, batch)
    assert seen[0].shape == batch["completion_ids"].shape
    assert seen[0] is seen[1]


def test_responses_without_a_verdict_keep_ppo(make_trainer, batch):
    none_judged = batch | {"is_judged": torch.zeros(6, dtype=torch.bool)}
    loss, grads = loss_and_grads(make_trainer(), none_judged)
    expected_loss, expected_grads = loss_and_grads(make_trainer(objective="dapo"), batch)
    assert torch.equal(loss, expected_loss)
    assert all(map(torch.equal, grads, expected_grads))


def labels_of(trainer, inputs):
    return trainer._generate_and_score_completions(inputs)


def scripted(rewards):
    """A reward function that returns the next of the given lists."""
    rewards = iter(rewards)

    def scripted_reward(completions, **kwargs):
        return next(rewards)

    return scripted_reward


def test_labels(make_trainer):
    """Four prompts of four responses: accuracies 0, 1/4, 3/4 and, of those judged, 1/2."""
    rewards = [0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 1, None, 1, None, 0]
    trainer = make_trainer(reward_funcs=scripted([rewards]), num_generations=4)
    trainer.model.train()
    output = labels_of(trainer, [{"prompt": f"{i // 4}"} for i in range(16)])
    assert output["is_hard"].tolist() == [True] * 8 + [False] * 4 + [True] * 4
    assert output["is_correct"].tolist() == [r == 1 for r in rewards]
    assert output["is_judged"].tolist() == [r is not None for r in rewards]
    assert output["is_hard"].dtype == output["is_correct"].dtype == torch.bool
    metrics = trainer._metrics["train"]
    assert metrics["htpo/frac_hard"] == [0.75]
    assert metrics["htpo/accuracy"] == [5 / 14]


def test_difficulty_threshold_is_exclusive(make_trainer):
    for threshold, hard in ((0.5, False), (0.51, True)):
        trainer = make_trainer(
            reward_funcs=scripted([[1, 1, 0, 0]]), num_generations=4, difficulty_threshold=threshold
        )
        trainer.model.train()
        output = labels_of(trainer, [{"prompt": "1"}] * 4)
        assert output["is_hard"].tolist() == [hard] * 4


def test_correctness_threshold_is_exclusive(make_trainer):
    trainer = make_trainer(reward_funcs=scripted([[0.5, 0.51, 0.49, 1]]), correctness_threshold=0.5)
    trainer.model.train()
    assert labels_of(trainer, [{"prompt": "1"}] * 4)["is_correct"].tolist() == [False, True, False, True]


def test_unjudged_group_is_neither_hard_nor_counted(make_trainer):
    def length(completions, **kwargs):
        return [0.1] * len(completions)

    trainer = make_trainer(reward_funcs=[scripted([[None] * 4 + [1, 0, 0, 0] + [None] * 3 + [1]]), length])
    trainer.model.train()
    output = labels_of(trainer, [{"prompt": f"{i // 4}"} for i in range(12)])
    assert output["is_hard"].tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert trainer._metrics["train"]["htpo/frac_hard"] == [1 / 2]
    assert trainer._metrics["train"]["htpo/accuracy"] == [2 / 5]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_process_labels_its_own_responses(make_trainer, monkeypatch, rank):
    """Two groups of six over three processes of four: the second process holds parts of both."""
    trainer = make_trainer()
    rewards = [1, 0, 1, 1, 1, 1, 0, 1, 0, None, 0, 0]
    trainer._rewards_per_func = torch.tensor([[math.nan if r is None else r] for r in rewards])
    trainer.num_generations = 6
    monkeypatch.setattr(type(trainer.accelerator), "process_index", rank)
    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", lambda self, inputs: {})
    trainer.model.train()
    output = labels_of(trainer, [{}] * 4)
    own = slice(4 * rank, 4 * rank + 4)
    assert output["is_hard"].tolist() == ([False] * 6 + [True] * 6)[own]
    assert output["is_correct"].tolist() == [r == 1 for r in rewards][own]
    assert output["is_judged"].tolist() == [r is not None for r in rewards][own]


def test_correctness_comes_from_the_named_function(make_trainer):
    def length(completions, **kwargs):
        return [-5.0] * len(completions)

    def verdict(completions, **kwargs):
        return [1.0, -1.0] * (len(completions) // 2)

    inputs = [{"prompt": "1"}] * 4
    trainer = make_trainer(reward_funcs=[length, verdict], correctness_reward="verdict", reward_weights=[1.0, 0.0])
    trainer.model.train()
    assert labels_of(trainer, inputs)["is_correct"].tolist() == [True, False] * 2
    trainer = make_trainer(reward_funcs=[length, verdict])
    trainer.model.train()
    assert labels_of(trainer, inputs)["is_correct"].tolist() == [False] * 4
    with pytest.raises(ValueError, match=r"correctness_reward='accuracy'.*length, verdict"):
        make_trainer(reward_funcs=[length, verdict], correctness_reward="accuracy")


def test_evaluation_uses_its_own_group_size(make_trainer, dataset):
    rewards = [1, 1, 1, 0, 1, 1, 1, 0]
    trainer = make_trainer(
        reward_funcs=scripted([rewards, rewards]),
        num_generations_eval=2,
        per_device_eval_batch_size=8,
        eval_dataset=dataset.select(range(4)),
    )
    metrics = trainer.evaluate()
    assert metrics["eval_htpo/frac_hard"] == 0.5
    assert metrics["eval_htpo/accuracy"] == 6 / 8
    assert math.isfinite(metrics["eval_loss"])
    trainer.model.train()
    assert not labels_of(trainer, [{"prompt": "1"}] * 8)["is_hard"].any()


def test_metrics(make_trainer, batch):
    trainer = make_trainer()
    loss_and_grads(trainer, batch)
    with torch.no_grad():
        logps, entropies = forward(trainer, batch)
    mask = batch["completion_mask"].bool()
    result = control(
        per_token_logps=logps,
        entropies=entropies,
        mask=mask,
        **{k: batch[k] for k in ("old_per_token_logps", "advantages", "is_hard", "is_correct")},
    )
    metrics = trainer._metrics["train"]
    n = mask.sum().item()
    for i, group in enumerate(GROUPS):
        members = result.groups == i
        assert metrics[f"htpo/share/{group}"] == [pytest.approx(members.sum().item() / n)]
        if members.any():
            assert metrics[f"htpo/entropy/{group}"] == [pytest.approx(entropies[members].mean().item(), rel=1e-5)]
        else:
            assert f"htpo/entropy/{group}" not in metrics
    assert {name for name in metrics if name.startswith("htpo/special/")} == {f"htpo/special/{e}" for e in OWN_EFFECTS}
    for i, effect in enumerate(OWN_EFFECTS, 1):
        assert metrics[f"htpo/special/{effect}"] == [pytest.approx((result.effects == i).sum().item() / n)]
    assert metrics["htpo/special/keep_above"][0] > 0
    # TRL's clip ratio does not see the tokens whose gradient is kept, ours does.
    ratio, advantages = torch.exp(logps - batch["old_per_token_logps"]), batch["advantages"].unsqueeze(1)
    low = (mask & (ratio < 0.8) & (advantages < 0)).sum().item() / n
    high = (mask & (ratio > 1.28) & (advantages > 0)).sum().item() / n
    assert metrics["htpo/clip_ratio/low"] == [pytest.approx(low)]
    assert metrics["htpo/clip_ratio/high"] == [pytest.approx(high)]
    assert metrics["clip_ratio/low_mean"][0] < low


def test_a_trainer_without_init_is_grpos(make_trainer, tokenizer):
    """TRL's own tests build trainers by `__new__` and set what a method reads."""
    whole = make_trainer()
    bare = HTPOTrainer.__new__(HTPOTrainer)
    names = ("accelerator", "state", "reward_funcs", "reward_processing_classes", "reward_func_names", "environments")
    for name in (*names, "reward_weights", "_pending_extra_logs", "_pending_metrics", "args", "async_loop"):
        if hasattr(whole, name):
            setattr(bare, name, getattr(whole, name))
    texts = ["0248", "1357"]
    rewards = bare._calculate_rewards([{"prompt": "1"}] * 2, ["1", "1"], texts, [[3], [4]])
    assert rewards.tolist() == [[1.0], [0.0]]
    assert list(bare.loss_observers) == []


def test_non_finite_logits_stop_the_run(make_trainer, batch):
    trainer = make_trainer()
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="no finite log-probability"):
        loss_and_grads(trainer, batch)


@pytest.mark.parametrize("name", ["per_token_logps", "old_per_token_logps", "entropies"])
def test_each_value_that_is_not_finite_stops_the_run(make_trainer, batch, name):
    trainer = make_trainer()
    trainer.state.global_step = 3

    def control_with_nan_at(row, column):
        values = {n: torch.zeros(6, 30) for n in ("per_token_logps", "old_per_token_logps", "entropies")}
        values[name][row, column] = math.nan
        inputs = batch | {"old_per_token_logps": values.pop("old_per_token_logps")}
        trainer._control_objective(inputs, **values)
        trainer._log_sums()

    control_with_nan_at(3, 1)  # masked
    message = (
        "1 of 76 tokens have no finite log-probability or entropy after step 3: the model's logits are NaN or "
        "infinite, and no token was trained on them. Resume from the last checkpoint with a lower learning_rate or "
        "max_grad_norm, or bf16 instead of fp16."
    )
    with pytest.raises(FloatingPointError, match=f"^{re.escape(message)}$"):
        control_with_nan_at(3, 0)


def test_tool_mask_takes_tokens_out(make_trainer, batch):
    trainer = make_trainer()
    tool_mask = torch.ones_like(batch["completion_mask"])
    tool_mask[0, 10:20] = 0
    loss_and_grads(trainer, batch | {"tool_mask": tool_mask})
    shares = [trainer._metrics["train"][f"htpo/share/{group}"][0] for group in GROUPS]
    assert sum(shares) == pytest.approx(1)
    assert trainer._metrics["train"]["htpo/share/hard_correct_high"] == [pytest.approx((4 + 1) / (76 - 10))]


def test_off_policy_mask_sees_the_true_old_log_probs(make_trainer, batch):
    """Row 5 (wrong) is far from the policy that sampled it; kept gradients must not make it look near."""
    # A distance of 3 over all tokens; where the fifth that is kept counted as 0, it would be 2.4.
    trainer = make_trainer(off_policy_mask_threshold=2.7)
    with torch.no_grad():
        far, _ = forward(trainer, batch)
    far[5] += 3.0
    inputs = batch | {"old_per_token_logps": far}
    masked, _ = loss_and_grads(trainer, inputs)
    without = {k: v.clone() for k, v in inputs.items()}
    without["advantages"][5] = 0.0
    expected, _ = loss_and_grads(make_trainer(), without)
    torch.testing.assert_close(masked, expected)
    unmasked, _ = loss_and_grads(make_trainer(), inputs)
    assert abs(unmasked - expected) > 1e-3


def test_on_policy_warns_once_with_the_mend(make_trainer):
    with pytest.warns(UserWarning, match="steps_per_generation=4 ") as caught:
        make_trainer(steps_per_generation=1)
    assert len([w for w in caught if "importance ratio" in str(w.message)]) == 1
    for options in ({"steps_per_generation": 4}, {"num_iterations": 2}, {"objective": "dapo"}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make_trainer(**({"steps_per_generation": 1} | options))
        assert not [w for w in caught if "importance ratio" in str(w.message)]


def test_drop_in(make_model, tokenizer, dataset, reward, tmp_path, monkeypatch):
    """Without arguments, and with TRL's config instead of ours."""
    monkeypatch.chdir(tmp_path)
    # The defaults want a GPU that does bf16, as TRL's do.
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    model = make_model()
    model.config._name_or_path = "someone/Tiny"
    with pytest.raises(TypeError, match="`HTPOConfig`, got `GRPOConfig`"):
        HTPOTrainer(model, reward, GRPOConfig("out", use_cpu=True, bf16=False), dataset, processing_class=tokenizer)
    trainer = HTPOTrainer(model=model, reward_funcs=reward, train_dataset=dataset, processing_class=tokenizer)
    assert isinstance(trainer.args, HTPOConfig)
    assert trainer.args.output_dir.endswith("Tiny-HTPO")


def test_peft_checkpoint_and_card(make_trainer, make_config, tokenizer, tmp_path):
    config = make_config(save_strategy="steps", save_steps=4)
    trainer = make_trainer(config=config, peft_config=LoraConfig(r=4, target_modules="all-linear"))
    base = {n: p.clone() for n, p in trainer.model.named_parameters() if "lora" not in n}
    trainer.train()
    trained = dict(trainer.model.named_parameters())
    assert all(torch.equal(p, trained[n]) for n, p in base.items())
    checkpoint = tmp_path / "run" / "checkpoint-4"
    assert (checkpoint / "adapter_model.safetensors").exists()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "2605.08283" in card
    assert "yao2026htpo" in card
    assert "- htpo" in card


def test_resume_on_a_generation_boundary(make_trainer, make_config, make_model, tmp_path):
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "num_iterations": 1}
    whole = make_trainer(config=make_config(**options))
    whole.train()
    resumed = make_trainer(config=make_config(**options), model=make_model(1))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert all(map(torch.equal, whole.model.parameters(), resumed.model.parameters()))


def test_training_raises_the_reward(make_trainer):
    trainer = make_trainer(max_steps=80, learning_rate=3e-3, num_generations=8, per_device_train_batch_size=16)
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.2


class _Logs(TrainerCallback):
    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append(json.loads(json.dumps(logs)))


def test_logs_are_json_and_named_as_promised(make_trainer):
    logs = _Logs()
    make_trainer(max_steps=1, callbacks=[logs]).train()
    names = {"htpo/frac_hard", "htpo/frac_unjudged", "htpo/accuracy", "htpo/clip_ratio/low", "htpo/clip_ratio/high"}
    names |= {f"htpo/{kind}/{group}" for kind in ("share", "entropy") for group in GROUPS}
    names |= {f"htpo/special/{effect}" for effect in OWN_EFFECTS}
    assert {name for name in logs.rows[0] if name.startswith("htpo/")} == names
