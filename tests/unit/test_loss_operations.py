"""What HTPO adds to TRL's loss on a device: operations on (B, T), and reads by the host."""

import math
import re

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from htpo_trl.check.operations import watched
from htpo_trl.objective import PRESETS, control, token_sums


N_TOKENS = 300  # long enough for every detach rule to rank


@pytest.fixture
def long_batch(batch):
    random = torch.Generator().manual_seed(0)
    lengths = torch.tensor([300, 170, 50, 1, 0, 230])
    shape = len(lengths), N_TOKENS
    return batch | {
        "completion_ids": torch.randint(3, 13, shape, generator=random),
        "completion_mask": (torch.arange(N_TOKENS) < lengths.unsqueeze(1)).long(),
        "old_per_token_logps": -2.5 + 0.6 * torch.randn(shape, generator=random),
        "num_items_in_batch": lengths.sum(),
    }


@pytest.fixture
def make_grpo(make_trainer, cpu_arguments):
    options = {"epsilon_high": 0.28, "delta": 10.0, "loss_type": "dapo", "use_bias_correction_kl": False}
    return lambda: make_trainer(GRPOTrainer, config=GRPOConfig(**cpu_arguments, **options))


def asked_by_loss(trainer, inputs, last=True):
    """What a loss asks of the device, in the last micro-batch of an optimizer step or an earlier one."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2
    trainer.accelerator.gradient_state._set_sync_gradients(last)
    with watched(inputs["completion_ids"].numel()) as asked:
        trainer._compute_loss(trainer.model, dict(inputs))
    return asked


def test_operations_beyond_those_of_trls_loss(make_trainer, make_grpo, long_batch):
    """Metrics included. On a GPU each is a launch, whatever its size."""
    theirs = asked_by_loss(make_grpo(), long_batch).operations.total()
    more = {
        name: asked_by_loss(make_trainer(objective=name), long_batch).operations.total() - theirs for name in PRESETS
    }
    assert theirs > 100
    assert 40 < more["htpo"] <= 80, more
    # Two gates, a draw, a suffix sum, a ranking over the batch; no more than twice what HTPO takes.
    dear = {"archer", "clip-cov", "fipo", "hapo-released", "kl-cov"}
    assert max(n for name, n in more.items() if name not in dear) <= 95, more
    assert max(more.values()) <= 120, more


@pytest.mark.parametrize("preset", PRESETS)
def test_operations_do_not_grow_with_the_batch(preset):
    """But for the doubling of a discounted sum, which ends where a token is round-off."""

    def asked(n_rows, n_tokens):
        values = {n: torch.zeros(n_rows, n_tokens) for n in ("per_token_logps", "old_per_token_logps", "entropies")}
        values |= {"advantages": torch.ones(n_rows), "mask": torch.ones(n_rows, n_tokens, dtype=torch.bool)}
        labels = dict.fromkeys(("is_hard", "is_correct"), torch.arange(n_rows) % 2 == 0)
        with watched(1) as asked:
            control(**values, **labels, table=preset)
        assert not asked.reads
        return asked.operations.total()

    base = asked(4, 1000)
    assert asked(16, 1000) == base
    assert asked(4, 20_000) == base
    assert asked(4, 700) == base  # long enough for each detach rule
    assert (asked(4, 300) < base) == (preset == "fipo")


@pytest.mark.parametrize("objective", ["htpo", "htpo-released", "dapo", "clip-cov", "hapo-released", "gspo", "fipo"])
def test_the_host_reads_once_per_optimizer_step(make_trainer, make_grpo, long_batch, objective):
    theirs = asked_by_loss(make_grpo(), long_batch).reads
    assert theirs.total() >= 6  # TRL's metrics
    trainer = make_trainer(objective=objective)
    assert asked_by_loss(trainer, long_batch, last=False).reads == theirs
    assert not any(name.startswith("htpo/") for name in trainer._metrics["train"])
    assert (asked_by_loss(trainer, long_batch, last=True).reads - theirs).total() == 1
    assert len(trainer._metrics["train"]["htpo/clip_ratio/low"]) == 2  # of both micro-batches
    assert trainer._sums == ()


@pytest.mark.parametrize("preset", PRESETS)
def test_sums_need_no_values_on_the_host(preset):
    """Meta tensors have none."""
    values = {n: torch.zeros(4, 300, device="meta") for n in ("per_token_logps", "old_per_token_logps", "entropies")}
    values |= {
        "advantages": torch.zeros(4, device="meta"),
        "mask": torch.ones(4, 300, dtype=torch.bool, device="meta"),
    }
    labels = {n: torch.ones(4, dtype=torch.bool, device="meta") for n in ("is_hard", "is_correct", "is_judged")}
    result = control(**values, **labels, table=preset)
    sums = token_sums(result, **values, epsilon_low=0.2, epsilon_high=0.28)
    assert {each.device.type for each in sums.values()} == {"meta"}
    assert {each.shape for each in sums.values()} == {()}


def test_each_micro_batch_counts_once_in_what_is_logged(make_trainer, long_batch):
    """As many values per optimizer step as TRL's own metrics have, one for each micro-batch, in order."""
    trainer, alone = make_trainer(), make_trainer()
    other = long_batch | {"is_hard": ~long_batch["is_hard"], "advantages": -long_batch["advantages"]}
    for last, inputs in ((False, long_batch), (True, other)):
        asked_by_loss(trainer, inputs, last)
        asked_by_loss(alone, inputs)
    ours = {name: values for name, values in trainer._metrics["train"].items() if name.startswith("htpo/")}
    assert ours == {name: alone._metrics["train"][name] for name in ours}
    assert len(ours["htpo/share/hard_correct_low"]) == len(trainer._metrics["train"]["entropy"]) == 2
    assert ours["htpo/share/hard_correct_low"][0] != ours["htpo/share/hard_correct_low"][1]


def test_values_that_are_not_finite_stop_the_step_they_are_in(make_trainer, long_batch):
    """Those of an earlier micro-batch too, before the optimizer steps; nothing is left for another training."""
    trainer = make_trainer()
    trainer.state.global_step = 3
    bad = long_batch | {"old_per_token_logps": long_batch["old_per_token_logps"].clone()}
    bad["old_per_token_logps"][0, 7] = math.inf
    asked_by_loss(trainer, bad, last=False)
    with pytest.raises(FloatingPointError, match=re.escape("1 of 751 tokens have no finite")) as raised:
        asked_by_loss(trainer, long_batch, last=True)
    assert "after step 3" in str(raised.value)
    asked_by_loss(trainer, long_batch, last=True)


def test_what_a_stopped_step_has_counted_is_forgotten(make_trainer, long_batch):
    trainer = make_trainer(max_steps=1)
    bad = long_batch | {"old_per_token_logps": torch.full_like(long_batch["old_per_token_logps"], math.nan)}
    asked_by_loss(trainer, bad, last=False)  # and then, say, Ctrl-C
    trainer.accelerator.gradient_state._set_sync_gradients(True)
    trainer.model.eval()
    with torch.no_grad():
        trainer._compute_loss(trainer.model, dict(long_batch))
    assert math.isfinite(trainer._metrics["eval"]["htpo/clip_ratio/low"][0])
    asked_by_loss(trainer, bad, last=False)
    trainer.train()
    assert trainer.state.global_step == 1
