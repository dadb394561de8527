"""Number formats: updates that are rounded away, float16 and its gradient scaler, devices without a format."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from htpo_trl.cli.launch import Parallelism
from htpo_trl.cli.plan import plan_run
from htpo_trl.scripts import htpo
from htpo_trl.scripts.arguments import read
from htpo_trl.training import precision
from htpo_trl.utils import UsageError

from ..tiny import same_parameters


LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")


def warned(make, *args, **kwargs) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(*args, **kwargs)
    return [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


class TestLostUpdates:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("rate", [1e-6, 1e-4])
    def test_the_share_is_what_adamw_does(self, dtype, rate):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter((0.02 * torch.randn(4000)).to(dtype))
        before = parameter.detach().clone()
        share = precision.lost_share([parameter], rate)
        parameter.grad = torch.randn(4000).to(dtype)
        torch.optim.AdamW([parameter], lr=rate, weight_decay=0.0, eps=1e-30).step()
        assert (parameter == before).float().mean().item() == pytest.approx(share, abs=0.01)

    def test_what_is_counted(self):
        small = torch.full((100_000,), 0.02)
        trained, frozen = torch.nn.Parameter(small.bfloat16()), torch.nn.Parameter(small.bfloat16(), False)
        whole, sharded = torch.nn.Parameter(small), torch.nn.Parameter(torch.empty(0, dtype=torch.bfloat16))
        assert precision.lost_share([trained, frozen, sharded], 1e-6) == 1
        assert precision.lost_share([trained, whole], 1e-6) == pytest.approx(0.5)
        assert precision.lost_share([whole, frozen], 1e-6) == 0
        assert precision.lost_share([sharded], 1e-6) == 0

    @pytest.mark.parametrize(("dtype", "step"), [("bfloat16", 1e-6), ("bfloat16", 3e-4), ("float16", 1e-6)])
    def test_from_which_size_on(self, dtype, step):
        edge = torch.tensor(precision.smallest_lost(dtype, step)).to(getattr(torch, dtype))
        assert (edge.float() + step).to(edge.dtype) == edge
        below = torch.nextafter(edge, torch.zeros_like(edge))
        assert (below.float() + step).to(edge.dtype) != below

    @pytest.mark.parametrize(
        ("dtype", "options", "is_told"),
        [
            (torch.bfloat16, {"learning_rate": 1e-6}, True),
            (torch.bfloat16, {"learning_rate": 1e-6, "optim": "adamw_torch_fused"}, True),
            (torch.bfloat16, {"learning_rate": 1e-2}, False),
            (torch.bfloat16, {"learning_rate": 1e-6, "optim": "sgd"}, False),  # whose steps are not of this size
            (torch.bfloat16, {"learning_rate": 1e-6, "optim_args": "bf16_stochastic_round=True"}, False),
            (torch.bfloat16, {"learning_rate": 1e-6, "peft_config": LORA}, False),  # adapters are float32
            (torch.float32, {"learning_rate": 1e-6}, False),
        ],
    )
    def test_the_trainer_tells_it(self, make_trainer, make_model, dtype, options, is_told):
        lines = warned(make_trainer, model=make_model().to(dtype), **options)
        expected = r"Weights are trained in bfloat16: a step of learning_rate=1e-06 is rounded away in 9"
        assert [line.startswith(expected) for line in lines] == [True] * is_told
        assert all("Load them in float32" in line for line in lines)

    def test_deepspeed_keeps_float32_weights(self, make_trainer, make_model, monkeypatch):
        trainer = make_trainer(model=make_model().bfloat16(), learning_rate=1e-6)
        assert precision.told(trainer)
        monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
        assert precision.told(trainer) == ""

    @pytest.mark.parametrize(
        ("argv", "spread", "is_told"),
        [
            (["--dtype", "bfloat16", "--learning_rate", "1e-6"], Parallelism(), True),
            (["--dtype", "auto", "--learning_rate", "1e-6"], Parallelism(), False),  # the model's, which is float32
            (["--dtype", "bfloat16", "--learning_rate", "1e-2"], Parallelism(), False),
            (["--dtype", "bfloat16", "--learning_rate", "1e-6", "--use_peft"], Parallelism(), False),
            (["--dtype", "bfloat16", "--learning_rate", "1e-6"], Parallelism(2, 1, 2), False),
            (["--learning_rate", "1e-6"], Parallelism(), False),
        ],
    )
    def test_the_plan_tells_it(self, place, monkeypatch, argv, spread, is_told):
        monkeypatch.chdir(place)
        text = plan_run(read(["--config", "recipe.yaml", *argv], htpo.TITLES), spread)
        line = (
            "Warnings:\n  All weights are trained in bfloat16: a step of learning_rate=1e-06 is rounded away in every "
        )
        assert (line + "weight above 0.00049." in text) == is_told
        assert ("Warnings:" in text) == is_told

    def test_adapters_of_quantized_weights_are_float32(self, make_trainer, make_model):
        """TRL makes them bfloat16."""
        model = make_model()
        model.is_loaded_in_4bit = True
        trainer = make_trainer(model=model, peft_config=LORA, learning_rate=1e-6)
        trained = {parameter.dtype for parameter in trainer.model.parameters() if parameter.requires_grad}
        assert trained == {torch.float32}


class TestDevices:
    def device(self, monkeypatch, kind="cuda", has_bfloat16=False, **options):
        """A Tesla T4, of which torch says that it emulates bfloat16."""
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_bfloat16
        )
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
        return precision.told_of_device(
            SimpleNamespace(device=torch.device(kind), **{"bf16": False, "fp16": False} | options)
        )

    def test_without_bfloat16(self, monkeypatch):
        line = self.device(monkeypatch, bf16=True)
        assert line.startswith("bf16=True: Tesla T4 has no bfloat16; torch emulates it")
        assert "--bf16 false --fp16 true" in line
        assert self.device(monkeypatch, bf16=True, has_bfloat16=True) == ""
        assert self.device(monkeypatch, fp16=True) == ""
        assert self.device(monkeypatch, kind="cpu", bf16=True) == ""

    def test_float16_on_a_cpu(self, make_trainer):
        assert any(line.startswith("fp16=True does nothing on a CPU") for line in warned(make_trainer, fp16=True))
        assert warned(make_trainer) == []

    def test_it_is_told_before_trl_does_anything(self, make_trainer, monkeypatch):
        def begin(*args, **kwargs):
            raise AssertionError("begun")

        monkeypatch.setattr("trl.trainer.grpo_trainer.GRPOTrainer.__init__", begin)
        with pytest.warns(UserWarning, match="fp16=True does nothing"), pytest.raises(AssertionError, match="begun"):
            make_trainer(fp16=True)


class TestFloat16Weights:
    def test_are_refused_with_the_scaler(self, place, make_trainer, make_model, monkeypatch):
        with pytest.raises(UsageError, match=r"fp16=True with weights in float16: .* Load them in float32"):
            make_trainer(model=make_model().half(), fp16=True)
        monkeypatch.chdir(place)
        argv = ["--config", "recipe.yaml", "--dtype", "float16", "--fp16", "true"]
        with pytest.raises(UsageError, match="fp16=True with weights in float16"):
            plan_run(read(argv, htpo.TITLES), Parallelism())
        plan_run(read([*argv, "--use_peft"], htpo.TITLES), Parallelism())
        plan_run(read([*argv, "--dtype", "float32"], htpo.TITLES), Parallelism())

    def test_torch_refuses_them(self):
        parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
        optimizer, scaler = torch.optim.SGD([parameter], lr=1.0), torch.amp.GradScaler("cpu")
        scaler.scale(parameter.sum()).backward()
        with pytest.raises(ValueError, match="FP16 gradients"):
            scaler.unscale_(optimizer)


class Weights(TrainerCallback):
    """The weights after each step."""

    def __init__(self):
        self.after, self.steps = [], []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.after.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
        self.steps.append(state.global_step)


class TestScaler:
    """Float16 on a GPU, as far as a CPU has it: autocast, and a scaler whose first scale overflows."""

    def trainer(self, make_trainer, tmp_path, **options):
        trainer = make_trainer(
            output_dir=str(tmp_path), fp16=True, learning_rate=1e-3, logging_steps=1, save_strategy="steps", **options
        )
        accelerator = trainer.accelerator
        accelerator.scaler = torch.amp.GradScaler(
            "cpu", init_scale=2.0**100, backoff_factor=2.0**-90, growth_interval=2
        )
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        trainer.weights = Weights()
        trainer.add_callback(trainer.weights)
        return trainer

    @pytest.mark.filterwarnings("ignore:fp16=True does nothing")
    def test_a_step_that_overflows_is_skipped_and_the_run_goes_on(self, make_trainer, tmp_path):
        trainer = self.trainer(make_trainer, tmp_path / "whole", save_steps=2)
        start = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
        trainer.train()
        after = trainer.weights.after
        assert torch.equal(after[0], start)  # skipped: gradients of 2^100 times the loss are infinite in float16
        assert not torch.equal(after[1], after[0])
        assert trainer.weights.steps == [1, 2, 3, 4]
        assert sum("htpo/clip_ratio/low" in row for row in trainer.state.log_history) == 4

        # The scale is part of a checkpoint: resumed, it is the same run.
        scale = trainer.accelerator.scaler.get_scale()
        resumed = self.trainer(make_trainer, tmp_path / "whole", save_steps=2)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
        assert resumed.weights.steps == [3, 4]
        assert resumed.accelerator.scaler.get_scale() == scale != 2.0**100
        assert same_parameters(trainer, resumed)

    @pytest.mark.filterwarnings("ignore:fp16=True does nothing")
    def test_logits_that_are_no_numbers_end_it(self, make_trainer, tmp_path):
        trainer = self.trainer(make_trainer, tmp_path, save_steps=10)
        trainer.model.model.norm.register_forward_hook(
            lambda module, args, output: (
                output * float("nan") if trainer.state.global_step == 2 and torch.is_grad_enabled() else None
            )
        )
        with pytest.raises(FloatingPointError, match="after step 2: the model's logits are NaN"):
            trainer.train()
        assert trainer.weights.steps == [1, 2]
