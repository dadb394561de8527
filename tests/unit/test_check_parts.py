"""The parts of `htpo check` in this process, red with each bug planted; test_check.py shows that all is well."""

from itertools import islice

import pytest
import torch
from transformers import Trainer

from htpo_trl import HTPOTrainer, trainer
from htpo_trl.check import parity, peft, policy, resume, sampling, step_time, transform, verdicts, versions
from htpo_trl.check.parts import Finding, Machine
from htpo_trl.objective import PRESETS, Control
from htpo_trl.training.resume import ResumableGRPOTrainer
from htpo_trl.utils import UsageError
from htpo_trl.verifier import Verdict, Verifier


@pytest.fixture
def machine(tmp_path):
    return Machine("cpu", tmp_path)


@pytest.fixture
def red(machine):
    """What a part, or as much of it as is gone through, finds wrong."""

    def find(part, n=None):
        found = list(islice(part.find(machine), n))
        assert all(isinstance(finding, Finding) and all(map(str, finding[:3])) for finding in found)
        return [finding.what for finding in found if finding.ok is False]

    return find


def changed(function, change):
    """The function with what it returns changed."""
    return lambda *args, **kwargs: change(function(*args, **kwargs))


class TestTransform:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        monkeypatch.setattr(transform, "_cost", lambda machine: Finding("cost", "any", "none", True))

    @pytest.mark.parametrize(
        ("plant", "first", "n"),
        [
            (lambda r: r._replace(old_per_token_logps=r.old_per_token_logps.roll(1, 0)), "gradients of htpo", 5),
            (lambda r: r._replace(advantages=r.advantages.float().double()), "gradients of htpo", 5),
            (lambda r: (r.groups.amax().item(), r)[1], "waits for the device", 1),
        ],
        ids=["rows", "rounding", "read"],
    )
    def test_planted(self, red, monkeypatch, plant, first, n):
        monkeypatch.setattr(transform, "control", changed(transform.control, plant))
        found = red(transform)
        assert found[0].startswith(first)
        assert len(found) == n

    def test_float32_that_is_not_that_of_float64(self, red, monkeypatch):
        control = transform.control

        def plant(**inputs):
            result = control(**inputs)
            if inputs["entropies"].dtype == torch.float64:
                return result
            return Control(
                result.advantages * (1 + 1e-5), result.old_per_token_logps, result.groups.roll(1), -result.effects
            )

        monkeypatch.setattr(transform, "control", plant)
        assert [what.split(": ")[1][:7] for what in red(transform)] == ["groups ", "effects", "effecti"]

    def test_every_effect_is_in_the_case(self):
        result = transform.control(**transform.make_inputs())
        assert {1, 2, 3, 5} <= {*result.effects.flatten().tolist()}


def test_cost(machine, monkeypatch):
    times = iter([1e-3, 5e-3])
    monkeypatch.setattr(transform, "in_turns", lambda functions, clock: [next(times) for _ in functions])
    assert not transform._cost(machine).ok


def flipped(self, *args, **kwargs):
    """A trainer whose effective advantages have the other sign."""
    result = HTPOTrainer.transformed(self, *args, **kwargs)
    inputs = args[0]
    inputs["advantages"] = -inputs["advantages"]
    return result


@pytest.fixture
def flip(monkeypatch):
    monkeypatch.setattr(HTPOTrainer, "transformed", HTPOTrainer._control_objective, raising=False)
    return lambda: monkeypatch.setattr(HTPOTrainer, "_control_objective", flipped)


def test_parity(red, flip):
    flip()
    assert red(parity, 2) == ["float32: dapo and GRPOTrainer, weights"]


def test_parity_sees_a_trainer_that_is_the_same_for_every_objective(red, monkeypatch):
    plain = PRESETS["dapo"]
    monkeypatch.setattr(trainer, "control", lambda table, **inputs: transform.control(**inputs, table=plain))
    assert "float32: htpo and GRPOTrainer, weights" in red(parity, 4)


STATE = {
    "random numbers": (Trainer, "_load_rng_state", lambda self, *args: None),
    "optimizer": (
        ResumableGRPOTrainer,
        "_load_optimizer_and_scheduler",
        lambda self, directory: None,
    ),
}


@pytest.mark.parametrize("what", STATE)
def test_state_that_is_not_restored(red, monkeypatch, what):
    monkeypatch.setattr(*STATE[what])
    assert red(resume, 1) == ["float32: weights, resumed at step 6 of 12"]


def test_sampling(red, monkeypatch):
    monkeypatch.setattr(
        "htpo_trl.training.sampling.informative_groups", lambda accuracy, *args: [True] * len(accuracy)
    )
    assert {"groups of one verdict among 16", "frac_reward_zero_std, as logged"} <= {*red(sampling)}


def test_policy(red, flip):
    flip()
    assert red(policy, 3) == ["reward of htpo, 6 generation batches"]


def test_peft(red, monkeypatch):
    train, save = HTPOTrainer.train, HTPOTrainer.save_model

    def spoil(self):
        train(self)
        with torch.no_grad():
            next(self.model.parameters()).mul_(2)

    with monkeypatch.context() as patch:
        patch.setattr(HTPOTrainer, "train", spoil)
        assert red(peft, 2) == ["weights of the model that have changed"]

    def save_another(self, directory):
        save(self, directory)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.mul_(2 if "lora_B" in name else 1)

    monkeypatch.setattr(HTPOTrainer, "save_model", save_another)
    assert red(peft) == ["logits of the saved adapter, loaded again"]


def test_verifier(red, monkeypatch):
    judge = Verifier.judge_answers
    turn = {Verdict.WRONG: Verdict.CORRECT, Verdict.TIMED_OUT: Verdict.CORRECT}
    monkeypatch.setattr(Verifier, "judge_answers", changed(judge, lambda found: [turn.get(v, v) for v in found]))
    assert len(red(verdicts)) == 6  # five families, and the answers that hang


class TestStepTime:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setitem(step_time._OPTIONS, "per_device_train_batch_size", 16)
        monkeypatch.setitem(step_time._ON_CPU, "num_hidden_layers", 2)

    def test_slower(self, machine, monkeypatch):
        """A second loss in each step, though the metrics are TRL's."""
        loss = HTPOTrainer._compute_loss
        monkeypatch.setattr(
            HTPOTrainer,
            "_compute_loss",
            lambda self, model, inputs: (loss(self, model, inputs), loss(self, model, inputs))[1],
        )
        ratio, *phases = step_time.find(machine, n_pairs=3)
        assert ratio.ok is False
        assert len(ratio.figures["ratios"]) == 3
        assert {phase.ok for phase in phases} == {None}
        by_phase = {phase.what.split(",")[0]: phase.figures for phase in phases}
        assert by_phase["loss"]["HTPO"] > 1.3 * by_phase["loss"]["GRPO"]

    def test_interval(self):
        values = [5, 3, 9, 1, 7, 2, 8, 4, 10, 6]
        assert step_time.interval_of_median(values) == (2, 9)  # as tables of the sign test have it
        assert step_time.interval_of_median(range(20)) == (5, 14)
        assert step_time.interval_of_median([1, 2, 3]) == (1, 3)


class TestVersions:
    def test_outside_what_is_asked_for(self, red, monkeypatch):
        asked = ["torch>=99", "frobnicate>=1", 'absent>=1; extra == "report"', 'pytest>=99; extra == "test"']
        monkeypatch.setattr(versions, "requires", lambda package: asked)
        assert red(versions) == ["torch", "frobnicate"]

    def test_what_an_extra_of_another_package_asks_for(self, monkeypatch):
        asked = {"htpo_trl": ['trl[vllm]; extra == "vllm"'], "trl": ["torch", 'vllm<2; extra == "vllm"']}
        monkeypatch.setattr(versions, "requires", asked.get)
        assert [(each.name, str(each.specifier), extra) for each, extra in versions._requirements("htpo_trl")] == [
            ("vllm", "<2", True)
        ]

    def test_a_gpu_that_torch_does_not_see(self, tmp_path, monkeypatch):
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\necho 'NVIDIA T4, 15360 MiB, 550.54'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        found = {finding.what: finding for finding in versions.find(Machine(None, tmp_path))}
        assert found["GPUs"].ok is False
        assert "T4" in found["GPUs"].expected
        assert "none (torch is built" in found["GPUs"].found
        assert "GPUs" not in {finding.what for finding in versions.find(Machine("cpu", tmp_path))}


def test_a_gpu_that_is_asked_for_and_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = []
    machine = Machine("cuda", tmp_path, lambda **record: told.append(record))
    with pytest.raises(UsageError, match=r"--device cuda: torch .* sees no GPU"):
        machine.device  # noqa: B018
    assert told[0]["devices"]["GPUs"] == []
