"""Equivalence classes of runs, told by the largest and the mean difference of loss, gradient and parameters.

`benchmarks/invariance.py` runs this file and keeps every difference that `compare` has measured.
"""

import json
import math

import pytest
import torch
from torch.nn.functional import pad
from transformers import Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from benchmarks.invariance import RESULTS, ROOT, table
from htpo_trl.config import PPO_LOSS_TYPES
from htpo_trl.objective import GROUPS, PRESETS

from ..distributed_run import ARGUMENTS, ROUND_OFF, Recorder, build, launch, launched, records, trained
from ..losses import loss_and_grads
from ..tiny import even_digits


# Those that divide by rows, or by tokens of the whole optimizer step.
INVARIANT = [loss_type for loss_type in PPO_LOSS_TYPES if loss_type != "bnpo"]


@pytest.mark.parametrize("loss_type", PPO_LOSS_TYPES)
def test_dapo_preset_is_grpo_trainer(directory, compare, loss_type):
    """Whole runs, with TRL's own sampling; `test_trainer.py` has the single loss and more options."""
    ours = {"loss_type": loss_type, "steps_per_generation": 4, "num_iterations": 2}
    ours["gradient_accumulation_steps"] = 1 if loss_type == "bnpo" else 2
    theirs = ours | {"epsilon_high": 0.28, "delta": 10.0, "use_bias_correction_kl": False}
    expected = trained(directory, theirs, cls=GRPOTrainer, config=GRPOConfig)
    actual = trained(directory, ours | {"objective": "dapo"})
    assert compare("all-J_PPO table = GRPOTrainer", loss_type, expected, actual) == 0


def micro_batches(directory, size, loss_type, **arguments):
    steps = 16 // size
    arguments = ARGUMENTS | arguments
    # Two optimizer steps, of 16 rows each, from each generation batch.
    arguments |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
    # The trainer is told the loss type, so that it can be one that the configuration refuses.
    return trained(directory, arguments | {"steps_per_generation": 2 * steps}, forced=True, loss_type=loss_type)


@pytest.mark.parametrize("loss_type", PPO_LOSS_TYPES)
def test_micro_batches(directory, compare, loss_type):
    """For "bnpo" this is the negative control, and why the configuration refuses it."""
    holds = loss_type in INVARIANT
    whole = micro_batches(directory, 16, loss_type)
    for size in (8, 4):
        difference = compare(
            "16x1 = 8x2 = 4x4 micro-batches", loss_type, whole, micro_batches(directory, size, loss_type), holds
        )
        assert difference < ROUND_OFF if holds else difference > 1e-2


def test_the_entropy_bonus_is_of_a_micro_batch(directory, compare):
    """TRL's bonus, whatever the loss type, is the mean over the tokens of each micro-batch."""
    whole, parts = (micro_batches(directory, size, "dapo", entropy_coef=0.1) for size in (16, 4))
    assert compare("16x1 = 4x4 micro-batches", "entropy_coef=0.1", whole, parts, holds=False) > 1e-3


def distributed(loss_type="dapo", processes=1, **options):
    """24 rows for each optimizer step: three groups of 8, of which the middle one straddles two processes."""
    steps = processes  # micro-batches of 24 rows in one process, twice 6 rows in each of two
    arguments = {
        "num_generations": 8,
        "per_device_train_batch_size": 24 // processes // steps,
        "gradient_accumulation_steps": steps,
        # TRL shuffles each process's rows on its own: only whole generation batches hold the same rows everywhere.
        "steps_per_generation": steps,
    }
    return {"arguments": ARGUMENTS | arguments, "forced": True, "loss_type": loss_type} | options


@pytest.fixture(scope="module")
def ddp(directory):
    jobs = {loss_type: distributed(loss_type, 2) for loss_type in PPO_LOSS_TYPES}
    launch(directory, jobs | {"local labels": distributed("dapo", 2, local_labels=True)})


@pytest.mark.parametrize("loss_type", PPO_LOSS_TYPES)
def test_two_processes(ddp, directory, compare, loss_type):
    one, two = trained(directory, **distributed(loss_type)), launched(directory, loss_type)
    holds = loss_type in INVARIANT
    difference = compare("1 process = 2 processes, DDP", loss_type, one, two, holds)
    assert difference < ROUND_OFF if holds else difference > 1e-2
    first, second = records(directory, loss_type)
    assert first["parameters"] == second["parameters"]
    # The test is about something: every rule but one that the table lacks has acted.
    effects = {name for row in first["log"] for name, value in row.items() if "/special/" in name and value}
    assert effects == {f"htpo/special/{effect}" for effect in PRESETS["htpo"].effects if effect != "keep_inside"}


def test_labels_of_one_process_would_show(ddp, directory, compare):
    """Negative control: difficulty judged by each process's own rows gives another run."""
    one, local = trained(directory, **distributed()), launched(directory, "local labels")
    assert compare("1 process = 2 processes, DDP", "labels not gathered", one, local, holds=False) > 1e-3


def test_seeds(directory, compare):
    """Sampling included."""
    first, again, other = (trained(directory, ARGUMENTS | {"seed": seed}) for seed in (1, 1, 2))
    assert compare("one run = the same again", "sampled completions", first, again) == 0
    assert compare("one seed = another", "sampled completions", first, other, holds=False) > 1e-2


def garbage(inputs, mask, value):
    """The tensor with other values where the mask is zero."""
    return torch.where(mask.bool(), inputs, value)


@pytest.mark.parametrize("loss_type", PPO_LOSS_TYPES)
def test_garbage_in_masked_cells(make_trainer, batch, compare, loss_type):
    trainer = make_trainer(loss_type=loss_type)
    prompt, mask = batch["prompt_mask"].clone(), batch["completion_mask"]
    prompt[::2, 0] = 0
    advantages = batch["advantages"].unsqueeze(1).expand(mask.shape)
    clean = batch | {"prompt_mask": prompt, "advantages": advantages}
    dirty = clean | {
        "prompt_ids": garbage(batch["prompt_ids"], prompt, 7),
        "completion_ids": garbage(batch["completion_ids"], mask, 7),
        # Within what TRL's loss multiplies by its mask without overflow.
        "old_per_token_logps": garbage(batch["old_per_token_logps"], mask, -50.0),
        "advantages": garbage(advantages, mask, 1e6),
    }
    expected = loss_and_grads(trainer, clean)
    assert compare("garbage in masked cells", loss_type, expected, loss_and_grads(trainer, dirty)) == 0
    # Negative control: one cell more, and not masked, in a wrong response, where only the dual clip bounds the ratio.
    dirty["old_per_token_logps"][5, 0] = -50.0
    assert not torch.equal(loss_and_grads(trainer, dirty)[0], expected[0])


@pytest.mark.parametrize("loss_type", PPO_LOSS_TYPES)
def test_padding(make_trainer, batch, compare, loss_type):
    trainer = make_trainer(loss_type=loss_type)
    left = {name: pad(batch[name], (9, 0)) for name in ("prompt_ids", "prompt_mask")}
    right = {name: pad(batch[name], (0, 40)) for name in ("completion_ids", "completion_mask", "old_per_token_logps")}
    expected = loss_and_grads(trainer, batch)
    assert compare("padding", loss_type, expected, loss_and_grads(trainer, batch | left | right)) < ROUND_OFF


@pytest.mark.parametrize("loss_type", PPO_LOSS_TYPES)
def test_order_of_rows(make_trainer, batch, compare, loss_type):
    trainer = make_trainer(loss_type=loss_type)
    order = torch.tensor([3, 5, 0, 4, 1, 2])
    permuted = {name: value[order] if value.dim() else value for name, value in batch.items()}
    expected = loss_and_grads(trainer, batch)
    assert compare("order of rows", loss_type, expected, loss_and_grads(trainer, permuted)) < ROUND_OFF
    # Negative control: the labels stay where they were.
    unlabelled = permuted | {name: batch[name] for name in ("is_hard", "is_correct")}
    _, grads = loss_and_grads(trainer, unlabelled)
    assert max((a - b).abs().max() for a, b in zip(grads, expected[1], strict=True)) > 1e-3


@pytest.mark.parametrize("loss_type", ["dapo", "bnpo"])
def test_a_masked_row_is_no_row(make_trainer, batch, compare, loss_type):
    """Where tokens are counted; the others divide by the number of rows."""
    trainer = make_trainer(loss_type=loss_type)
    kept = batch["completion_mask"].any(dim=1)
    assert not kept.all()
    without = {name: value[kept] if value.dim() else value for name, value in batch.items()}
    expected = loss_and_grads(trainer, without)
    assert compare("fully masked row = no row", loss_type, expected, loss_and_grads(trainer, batch)) < ROUND_OFF


def run_with(directory, rewards, arguments=None, **options):
    """A trainer after a run on forced completions, and the parameters before."""
    trainer = build(directory, ARGUMENTS | (arguments or {}), rewards=rewards, forced=True, **options)
    before = flat(trainer)
    trainer.train()
    # What does not exist is None in the log: no NaN, no infinity.
    values = [value for row in trainer.state.log_history for value in row.values() if value is not None]
    assert all(map(math.isfinite, values))
    return trainer, before


def flat(trainer):
    return torch.cat([p.detach().clone().flatten() for p in trainer.model.parameters()])


def in_turns(completions, **kwargs):
    """A reward that knows nothing of the completion."""
    return [float(i % 2) for i in range(len(completions))]


def constant(value):
    def verdict(completions, **kwargs):
        return [value] * len(completions)

    return verdict


def even_prompts_get(value):
    def verdict(prompts, completions, **kwargs):
        scores = zip(prompts, even_digits(completions), strict=True)
        return [score if int(prompt) % 2 else value for prompt, score in scores]

    return verdict


@pytest.mark.parametrize("value", [1.0, 0.0, None], ids=["all right", "all wrong", "all unscorable"])
def test_no_advantage_no_change(directory, value):
    trainer, before = run_with(directory, constant(value))
    assert torch.equal(flat(trainer), before)


class Truncated(Recorder):
    """Every completion is cut."""

    def _completion(self, prompt_ids, place):
        return (prompt_ids * self.max_completion_length)[: self.max_completion_length]


@pytest.mark.parametrize("masked", [True, False])
def test_no_token_no_change(directory, masked):
    trainer, before = run_with(directory, in_turns, {"mask_truncated_completions": masked}, cls=Truncated)
    assert torch.equal(flat(trainer), before) == masked


def test_an_unscorable_group_counts_as_one_without_advantage(directory, compare):
    """None for every response of a prompt: as if all had been given the same reward."""
    runs = [trained(directory, ARGUMENTS, rewards=even_prompts_get(x), forced=True) for x in (None, 0.0, 1.0)]
    assert compare("group without rewards = group of equal rewards", "None or 0", runs[0], runs[1]) == 0
    assert compare("group without rewards = group of equal rewards", "None or 1", runs[0], runs[2]) == 0
    plain = trained(directory, ARGUMENTS, forced=True)
    assert (plain.parameters - runs[0].parameters).abs().max() > 1e-3
    trainer, _ = run_with(directory, even_prompts_get(None))
    assert {judged for seen in trainer.labels for judged in seen["is_judged"]} == {True, False}


def test_no_verdict_is_plain_ppo(directory, compare):
    """Responses that only another reward function has scored belong to no group."""
    rewards = [constant(None), even_digits]
    unjudged = trained(directory, ARGUMENTS, rewards=rewards, forced=True)
    arguments = ARGUMENTS | {"objective": "dapo", "objective_overrides": None}
    assert compare("no verdict = J_PPO", "htpo", trained(directory, arguments, forced=True), unjudged) == 0
    judged = trained(directory, ARGUMENTS, forced=True)
    assert (judged.parameters - unjudged.parameters).abs().max() > 1e-3


class OtherTail(Recorder):
    """Completions that were cut, of which there are some in every run, go another way."""

    def _completion(self, prompt_ids, place):
        ids = super()._completion(prompt_ids, place)
        return ids if ids[-1] == self.processing_class.eos_token_id else ids[::-1]


def test_masked_rows_have_no_content(directory, compare):
    arguments = ARGUMENTS | {"mask_truncated_completions": True}
    one, other = (trained(directory, arguments, rewards=in_turns, forced=True, cls=c) for c in (Recorder, OtherTail))
    assert compare("content of fully masked rows", "mask_truncated_completions", one, other) == 0
    one, other = (trained(directory, ARGUMENTS, rewards=in_turns, forced=True, cls=c) for c in (Recorder, OtherTail))
    assert (one.parameters - other.parameters).abs().max() > 1e-3


class EndAlone(Recorder):
    def _completion(self, prompt_ids, place):
        return [self.processing_class.eos_token_id]


def test_one_token_completions(directory):
    """The empty text: its end-of-sequence token is the one high token."""
    trainer, before = run_with(directory, in_turns, cls=EndAlone)
    assert not torch.equal(flat(trainer), before)
    for row in trainer.state.log_history[:-1]:
        high = [row[f"htpo/share/{group}"] for group in GROUPS if group.endswith("high")]
        assert sum(high) == pytest.approx(1)


class Grouped(Recorder):
    def _control_objective(self, inputs, **kwargs):
        result = super()._control_objective(inputs, **kwargs)
        self.groups, self.entropies = result.groups, kwargs["entropies"]
        return result


def test_all_equal_entropies(directory):
    """A model whose every distribution is uniform: as many high tokens as ever, the earliest, and a gradient."""
    model = Qwen3ForCausalLM.from_pretrained(directory / "model", tie_word_embeddings=False)
    model.lm_head.weight.data.zero_()
    model.save_pretrained(directory / "uniform")
    arguments = {"max_steps": 1, "num_iterations": 1}
    trainer, before = run_with(directory, in_turns, arguments, cls=Grouped, model="uniform")
    assert not torch.equal(flat(trainer), before)
    tokens = trainer.groups >= 0
    assert trainer.entropies[tokens].unique().numel() == 1
    n_high = (tokens.sum(dim=1, keepdim=True) * 3 // 10).clamp(min=1)
    assert torch.equal(tokens & (trainer.groups % 2 == 1), tokens & (torch.arange(tokens.shape[1]) < n_high))


def test_docs_have_the_measured_table():
    assert table(json.loads(RESULTS.read_text())["rows"]) in (ROOT / "docs" / "invariance.md").read_text()
