"""What is shown of a loss: to observers all of it, as it was before the objective replaced anything; its metrics."""

import math

import pytest
import torch

from htpo_trl.objective import GROUPS, control

from ..losses import forward, loss_and_grads


def test_observers_see_the_loss_as_it_was_and_what_the_table_made_of_it(make_trainer, batch):
    trainer, seen = make_trainer(), []
    expected_logps, expected_entropies = forward(trainer, batch)
    trainer.loss_observers = [lambda **kwargs: seen.append((kwargs, dict(kwargs["inputs"])))]
    loss_and_grads(trainer, batch)
    ((given, inputs),) = seen
    assert set(given) == {"inputs", "mask", "per_token_logps", "old_per_token_logps", "entropies", "result"}
    assert all(torch.equal(inputs[name], batch[name]) for name in batch)
    mask = batch["completion_mask"].bool()
    assert torch.equal(given["mask"], mask)
    torch.testing.assert_close(given["per_token_logps"][mask], expected_logps.detach()[mask])
    torch.testing.assert_close(given["entropies"][mask], expected_entropies.detach()[mask])
    assert torch.equal(given["old_per_token_logps"], batch["old_per_token_logps"])
    expected = control(
        **{name: given[name] for name in ("mask", "per_token_logps", "old_per_token_logps", "entropies")},
        **{name: batch[name] for name in ("advantages", "is_hard", "is_correct")},
        table=trainer.table,
        top_entropy_share=trainer.args.top_entropy_share,
        epsilon_low=trainer.epsilon_low,
        epsilon_high=trainer.epsilon_high,
    )
    for field in expected._fields:
        assert torch.equal(getattr(given["result"], field), getattr(expected, field)), field


def test_each_row_has_its_rewards(make_trainer):
    def by_length(completions, **kwargs):
        return [len(text) / 8 for text in completions]

    def by_first(completions, **kwargs):
        return [float(text[:1] < "5") for text in completions]

    trainer = make_trainer(reward_funcs=[by_length, by_first])
    seen = []
    trainer.loss_observers = [lambda inputs, **_: seen.append((inputs["completion_ids"], inputs["rewards_per_func"]))]
    trainer.train()
    for ids, rewards in seen:
        texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
        assert rewards.tolist() == [pytest.approx([len(text) / 8, float(text[:1] < "5")]) for text in texts]
    assert seen
    # Negative control: rows differ, so that a mix-up would show.
    assert any(len({tuple(row) for row in rewards.tolist()}) > 2 for _, rewards in seen)


@pytest.mark.parametrize("trained", ["all", "none"])
def test_a_group_without_tokens_has_no_entropy_and_no_tokens_have_no_shares(make_trainer, batch, trained):
    trainer = make_trainer()
    mask = batch["completion_mask"] * (trained == "all")
    loss_and_grads(trainer, {**batch, "completion_mask": mask, "is_hard": torch.ones_like(batch["is_hard"])})
    metrics = {name: value for name, (value,) in trainer._metrics["train"].items() if name.startswith("htpo/")}
    shares = {group: metrics[f"htpo/share/{group}"] for group in GROUPS}
    entropies = {name.rpartition("/")[2] for name in metrics if name.startswith("htpo/entropy/")}
    if trained == "none":
        assert all(map(math.isnan, shares.values()))
        assert not entropies
    else:
        assert entropies == {group for group in GROUPS if group.startswith("hard")}
        assert sum(shares.values()) == pytest.approx(1)
        assert [shares[group] for group in GROUPS if group.startswith("easy")] == [0] * 4
