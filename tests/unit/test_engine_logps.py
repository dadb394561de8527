import pytest
from datasets import Dataset

from htpo_trl import HTPOTrainer

from ..rollouts import scripted_rollout


# Of a group of four, two are right; each has five tokens. The trained model gives a token some -2.5.
TEXTS = ["1000<eos>", "1234<eos>", "0987<eos>", "0555<eos>"]


def engine_logprob(text):
    """The engine that samples is certain of two, and has doubts about the others."""
    return 0.0 if text in ("1000<eos>", "0987<eos>") else -10.0


def verdict(completions, **kwargs):
    return [float(text.startswith("1")) for text in completions]


@pytest.mark.parametrize(
    ("threshold", "sum_of_signs"),
    [
        # The third, wrong, is far from what the engine says, and dropped. The first is as far, but right.
        (1.0, 1 + 1 - 1),
        (9.0, 1 + 1 - 1 - 1),  # nothing is that far
    ],
)
def test_off_policy_mask_sees_the_log_probs_of_the_engine(
    make_model, tokenizer, make_config, monkeypatch, threshold, sum_of_signs
):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is one of TRL's experiments
    config = make_config(
        max_steps=1,
        num_iterations=2,
        steps_per_generation=1,
        per_device_train_batch_size=4,
        off_policy_mask_threshold=threshold,
    )
    trainer = HTPOTrainer(
        make_model(),
        verdict,
        config,
        Dataset.from_dict({"prompt": ["12"]}),
        processing_class=tokenizer,
        rollout_func=scripted_rollout({"12": TEXTS}, engine_logprob),
    )
    trainer.train()
    # In the first step each ratio is 1, so that the loss is minus the mean of the advantages, ±0.5 / std.
    advantage = 0.5 / (1 / 3) ** 0.5
    assert trainer.state.log_history[0]["loss"] == pytest.approx(-advantage * sum_of_signs / 4, abs=2e-4)
