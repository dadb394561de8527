"""`HTPOConfig.advantage`: another estimator's advantages in the place of TRL's, and all that must follow."""

import json
import logging

import pytest
import torch

from htpo_trl.advantages import ESTIMATORS, estimate
from htpo_trl.training import checkpoint, settings
from htpo_trl.training.advantages import teaching_groups
from htpo_trl.training.collect import informative_groups
from htpo_trl.training.console import PATIENCE
from htpo_trl.utils import UsageError

from ..tiny import even_digits, same_parameters


OTHERS = [name for name in ESTIMATORS if name != "grpo"]
BRIEF = {"per_device_train_batch_size": 4, "steps_per_generation": 2, "max_completion_length": 6}


def length_penalty(completions, **kwargs):
    """None for every third row, so that some responses have one reward, and some two."""
    return [None if i % 3 == 0 else -len(text) / 10 for i, text in enumerate(completions)]


def often_silent(completions, **kwargs):
    return [None if i % 4 == 0 else float(i % 2) for i in range(len(completions))]


def scored(trainer):
    """What is made of every generation batch, before TRL shuffles its rows."""
    outputs = []
    score = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: outputs.append(score(inputs)) or outputs[-1]
    return outputs


@pytest.mark.parametrize("name", OTHERS)
def test_every_estimator_trains_resumes_and_is_heeded(make_trainer, make_model, tmp_path, name):
    options = BRIEF | {"advantage": name, "max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(**options)
    begun = [parameter.clone() for parameter in trainer.model.parameters()]
    outputs = scored(trainer)
    trainer.train()
    assert not all(map(torch.equal, begun, trainer.model.parameters()))
    for output in outputs:
        groups = torch.arange(8) // 4
        lengths = output["completion_mask"].sum(dim=1)
        expected = estimate(name, output["rewards_per_func"].squeeze(1), groups, lengths)
        assert output["advantages"].dtype == torch.float32
        torch.testing.assert_close(output["advantages"], expected)
    assert list(trainer._logs["advantages"]) == pytest.approx(outputs[-1]["advantages"].tolist())
    shares = [row["htpo/frac_zero_advantage"] for row in trainer.state.log_history if "reward" in row]
    assert shares == pytest.approx([(output["advantages"] == 0).float().mean().item() for output in outputs])

    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))  # in the middle of a batch
    assert same_parameters(trainer, resumed)


def test_grpo_is_left_to_trl(make_trainer):
    """Nothing is computed, logged or replaced; with `scale_rewards` as TRL has it."""
    for scale in ("group", "batch", "none"):
        trainer = make_trainer(**BRIEF, max_steps=1, scale_rewards=scale)
        seen = scored(trainer)
        trainer.train()
        rewards = seen[0]["rewards_per_func"].squeeze(1)
        assert "htpo/frac_zero_advantage" not in trainer.state.log_history[0]
        assert seen[0]["advantages"].shape == rewards.shape
    # `dr_grpo` is TRL's without scale, `rloo` n / (n - 1) times that.
    ends = {}
    for options in ({"scale_rewards": "none"}, {"advantage": "dr_grpo"}, {"advantage": "rloo"}):
        trainer = make_trainer(**BRIEF, max_steps=1, **options)
        seen = scored(trainer)
        trainer.train()
        ends[options.get("advantage", "trl")] = seen[0]["advantages"]
    torch.testing.assert_close(ends["dr_grpo"], ends["trl"])
    torch.testing.assert_close(ends["rloo"], ends["trl"] * 4 / 3)
    assert ends["trl"].any()


def test_rewards_are_summed_as_trl_sums_them(make_trainer):
    """Weights, and `None` of one function or of both; the logged rewards are TRL's."""
    given = {"reward_funcs": [often_silent, length_penalty], "reward_weights": [2.0, 0.5]}
    ours = make_trainer(**BRIEF, max_steps=2, advantage="dr_grpo", **given)
    got = scored(ours)
    ours.train()
    theirs = make_trainer(**BRIEF, max_steps=2, scale_rewards="none", **given)
    expected = scored(theirs)
    theirs.train()
    rewards = torch.cat([batch["rewards_per_func"] for batch in got])
    assert rewards.isnan().all(dim=1).any(), "no response is without a reward"
    assert (rewards.isnan().sum(dim=1) == 1).any(), "no response has one of two rewards"
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine["advantages"], other["advantages"])
        assert not mine["advantages"][mine["rewards_per_func"].isnan().all(dim=1)].any()
    for mine, other in zip(ours.state.log_history[:2], theirs.state.log_history[:2], strict=True):
        for name in ("reward", "reward_std", "frac_reward_zero_std", "rewards/often_silent/mean"):
            assert mine.get(name) == pytest.approx(other.get(name), nan_ok=True)


def test_verdicts_alone_are_heeded(make_trainer):
    """Of rewards -1 and 1 too; other functions are logged, if they weigh nothing."""

    def signed(completions, **kwargs):
        verdicts = often_silent(completions)
        return [None if verdict is None else 2 * verdict - 1 for verdict in verdicts]

    functions = [length_penalty, signed]
    options = BRIEF | {"max_steps": 1, "advantage": "w-reinforce", "reward_funcs": functions}
    options |= {"correctness_reward": ["signed"], "advantage_kwargs": {"positive": 0.25}}
    trainer = make_trainer(**options, reward_weights=[0.0, 1.0])
    seen = scored(trainer)
    trainer.train()
    judged = seen[0]["rewards_per_func"][:, 1]
    expected = torch.where(judged.isnan(), 0.0, torch.where(judged > 0, 0.25, -1.0))
    assert seen[0]["advantages"].tolist() == expected.tolist()
    assert {*expected.tolist()} == {0.25, -1.0, 0.0}
    assert "rewards/length_penalty/mean" in trainer.state.log_history[0]
    with pytest.raises(UsageError, match=r"length_penalty has weight 1 .* no effect. Set it to 0, so that"):
        make_trainer(**options)
    with pytest.raises(UsageError, match=r"signed has weight 3 .* no effect. Set it to 1"):
        make_trainer(**options, reward_weights=[0.0, 3.0])


def test_lengths_are_those_before_truncated_completions_are_masked(make_trainer):
    trainer = make_trainer(**BRIEF, max_steps=1, advantage="hapo", mask_truncated_completions=True)
    outputs = scored(trainer)
    trainer.train()
    (output,) = outputs
    masked = output["completion_mask"].sum(dim=1)
    assert (masked == 0).any()
    lengths = torch.where(masked == 0, 6, masked)
    expected = estimate("hapo", output["rewards_per_func"].squeeze(1), torch.arange(8) // 4, lengths)
    torch.testing.assert_close(output["advantages"], expected)
    assert expected.any()


def test_evaluation_has_groups_of_its_own_size(make_trainer, dataset):
    trainer = make_trainer(
        **BRIEF, advantage="rloo", num_generations_eval=2, per_device_eval_batch_size=8, eval_dataset=dataset
    )
    outputs = scored(trainer)
    metrics = trainer.evaluate()
    for output in outputs:
        expected = estimate("rloo", output["rewards_per_func"].squeeze(1), torch.arange(8) // 2)
        torch.testing.assert_close(output["advantages"], expected)
    assert 0 < metrics["eval_htpo/frac_zero_advantage"] < 1


class TestDynamicSampling:
    # all wrong, all right, mixed, nobody judged with rewards that differ, and that do not, half judged
    CORRECT = [0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    JUDGED = [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    REWARDS = [0, 0.1, 0, 1, 0.9, 1, 0, 1, 0, 0, 1, 1, 0.1, 0.1, 0.1, 1, 0, 1]
    TAUGHT = dict.fromkeys(ESTIMATORS, (False, False, True, True, False, False)) | {
        "w-reinforce": (True, True, True, False, False, True),
        "psr": (False, True, True, False, False, True),
        "nsr": (True, False, True, False, False, False),
    }

    @pytest.mark.parametrize("name", OTHERS)
    def test_which_groups_teach(self, name):
        correct, judged = torch.tensor(self.CORRECT).bool(), torch.tensor(self.JUDGED).bool()
        rewards, weights = torch.tensor(self.REWARDS).unsqueeze(1), torch.ones(1)
        assert tuple(teaching_groups(ESTIMATORS[name], rewards, weights, correct, judged, 3)) == self.TAUGHT[name]

    def test_trls_estimator_would_be_judged_alike(self):
        correct, judged = torch.tensor(self.CORRECT).bool(), torch.tensor(self.JUDGED).bool()
        rewards, weights = torch.tensor(self.REWARDS).unsqueeze(1), torch.ones(1)
        accuracy = correct.view(-1, 3).sum(dim=1) / judged.view(-1, 3).sum(dim=1)
        expected = informative_groups(accuracy.tolist(), rewards, weights)
        assert teaching_groups(ESTIMATORS["grpo"], rewards, weights, correct, judged, 3) == expected

    @pytest.mark.parametrize("name", ["psr", "maxrl"])
    def test_every_group_that_is_trained_on_teaches(self, make_trainer, name):
        def seldom(prompts, completions, **kwargs):
            """Right for every third prompt, half of the time for another third."""
            kinds = [int(prompt) % 3 for prompt in prompts]
            even = even_digits(completions)
            return [[1.0, 0.0, right][kind] for kind, right in zip(kinds, even, strict=True)]

        options = BRIEF | {"max_steps": 4, "advantage": name, "dynamic_sampling": True, "reward_funcs": seldom}
        trainer = make_trainer(**options, max_sampling_rounds=20)
        outputs = scored(trainer)
        trainer.train()
        assert all((output["advantages"] != 0).view(-1, 4).any(dim=1).all() for output in outputs)
        right = torch.cat([output["is_correct"].view(-1, 4).all(dim=1) for output in outputs])
        assert right.any() == (name == "psr")  # which learns from them


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"advantage": "r-loo"}, "advantage='r-loo' is none of .*Did you mean 'rloo'"),
        ({"advantage": "rloo", "scale_rewards": "batch"}, "scale_rewards='batch' contradicts .*scale_rewards='none'"),
        ({"advantage": "hapo", "scale_rewards": "none"}, "scale_rewards='none' contradicts .*scale_rewards='group'"),
        ({"advantage": "a-grae", "scale_rewards": False}, "scale_rewards='none' contradicts advantage='a-grae'"),
        (
            {"advantage": "rloo", "multi_objective_aggregation": "normalize_then_sum"},
            "multi_objective_aggregation='normalize_then_sum' .*Use 'sum_then_normalize'",
        ),
        ({"advantage": "maxrl", "num_generations_eval": 1}, "num_generations_eval=1: .*Set it to 2 or more"),
        ({"advantage_kwargs": {"epsilon": 1e-6}}, r"advantage_kwargs=\{'epsilon': 1e-06\} has no effect"),
        ({"advantage": "a-grae", "advantage_kwargs": '{"alpha": 0}'}, "alpha=0 must be a number above 0"),
        ({"advantage": "a-grae", "advantage_kwargs": "[1]"}, r"advantage_kwargs='\[1\]' must be a mapping"),
    ],
)
def test_what_contradicts_is_refused(make_config, options, said):
    with pytest.raises(UsageError, match=said):
        make_config(**options)


def test_what_goes_together(make_config):
    for name in ("dr_grpo", "rloo", "maxrl", "wapo", "psr"):
        assert make_config(advantage=name, scale_rewards="none").estimator.name == name
    assert make_config(advantage="rloo", num_generations_eval=1).num_generations_eval == 1
    config = make_config(advantage="a-grae", advantage_kwargs='{"alpha": 0.5}')
    assert config.estimator.parameters["alpha"] == 0.5
    assert json.loads(config.to_json_string())["advantage_kwargs"] == {"alpha": 0.5}


def test_rewards_that_do_not_fit_end_the_run_with_the_mend(make_trainer):
    trainer = make_trainer(**BRIEF, advantage="maxrl", reward_funcs=lambda completions, **kwargs: [-1.0] * 8)
    with pytest.raises(UsageError, match=r"'maxrl' is made for rewards that are at least 0.*nothing is saved"):
        trainer.train()


def test_it_is_part_of_what_makes_a_run(make_trainer, make_config, tmp_path):
    make_trainer(**BRIEF, max_steps=2, save_strategy="steps", save_steps=1, advantage="rloo").train()
    path = str(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(UsageError, match=r"advantage 'rloo' -> 'maxrl'.*Resume with the settings of that run"):
        make_trainer(**BRIEF, max_steps=2, advantage="maxrl").train(resume_from_checkpoint=path)
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["HTPOConfig"]["advantage"] == "rloo"
    own = tmp_path / "own_of_test_advantages.py"
    own.write_text("def twice(rewards, group):\n    return 2 * (rewards - group.mean(rewards))\n")
    known = settings.describe(make_trainer(**BRIEF, advantage=f"{own}:twice"))
    assert len(known["source of advantage"]) == 16
    # A checkpoint from before it was an option is of a run by GRPO's.
    now = settings.of_options(make_config(), ["x"], None)
    before = {name: value for name, value in now.items() if not name.startswith("advantage")}
    assert settings.changes(before, now) == {}
    now = settings.of_options(make_config(advantage="rloo"), ["x"], None)
    assert settings.changes(before, now) == {"advantage": ["grpo", "rloo"]}


def test_a_checkpoint_from_before_it_was_an_option(make_trainer, tmp_path):
    options = BRIEF | {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    whole = make_trainer(**options)
    whole.train()
    directory = tmp_path / "run" / "checkpoint-1"
    file = checkpoint.state_file(directory, 0)
    batches, counters = checkpoint.load_state(file, "HTPOTrainer")
    for name in ("advantage", "advantage_kwargs"):
        del counters["settings"][name]
    checkpoint.save_state(file, "HTPOTrainer", batches, counters)
    checkpoint.seal(directory)
    resumed = make_trainer(**options, resume_from_checkpoint=str(directory))
    resumed.train(resume_from_checkpoint=str(directory))
    assert same_parameters(whole, resumed)


@pytest.mark.parametrize(("name", "is_told"), [("psr", False), ("nsr", True), ("rloo", True)])
def test_nothing_learnt_goes_by_the_advantages(make_trainer, caplog, name, is_told):
    """All is right: nothing for those who learn from differences, or from errors."""
    always = {"reward_funcs": lambda completions, **kwargs: [1.0] * len(completions)}
    options = BRIEF | {"steps_per_generation": 1, "per_device_train_batch_size": 8, "max_steps": PATIENCE + 2}
    with caplog.at_level(logging.WARNING):
        make_trainer(**options, advantage=name, **always).train()
    assert ("nothing was learnt" in caplog.text) == is_told
