"""What is recorded of tokens, against numbers known by hand, a plain forward pass, and the objective's second text."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.check.reference import reference
from htpo_trl.objective import GROUPS
from htpo_trl.tokens import read_record
from htpo_trl.tokens.callback import TokenRecorder

from ..rollouts import scripted_rollout
from ..tiny import CPU_ARGUMENTS, tiny_model


# Prompt -> text, verdict, and what another reward function says. The last of each is cut at 12 tokens.
ROLLOUTS = {
    "12": [
        ("09182736450<eos>", 1.0, 0.25),
        ("31<eos>", 0.0, None),
        ("<eos>", 0.0, -3.0),
        ("864209753108", 0.0, 8.0),
    ],
    "34": [
        ("7<eos>", 1.0, 16.0),
        ("90817263<eos>", 1.0, None),
        ("4820<eos>", 0.0, 0.5),
        ("135790246813", 1.0, 2.0),
    ],
}
# The verdicts have mean 1/4 or 3/4, and standard deviation 1/2.
ADVANTAGES = {("12", 1.0): 1.5, ("12", 0.0): -0.5, ("34", 1.0): 0.5, ("34", 0.0): -1.5}
OTHERS = "90817263<eos>"  # of this one, the third to the fifth token are the environment's
OPTIONS = {
    "max_steps": 2,
    "num_iterations": 2,
    "gradient_accumulation_steps": 2,  # two micro-batches, of lengths of their own
    "steps_per_generation": 2,
    "per_device_train_batch_size": 4,
    "reward_weights": [1.0, 0.0],
    "top_entropy_share": 0.3,
    "learning_rate": 5e-2,
    "objective_overrides": {
        "hard_correct_low": {"rule": "detach", "share": 0.25, "which": "lowest"},
        "easy_correct_high": {"rule": "detach", "share": 0.5, "which": "highest"},
    },
}
CELLS = {(prompt, text.removesuffix("<eos>")): rewards for prompt, rows in ROLLOUTS.items() for text, *rewards in rows}


def verdict(prompts, completions, **kwargs):
    return [CELLS[key][0] for key in zip(prompts, completions, strict=True)]


def other(prompts, completions, **kwargs):
    return [CELLS[key][1] for key in zip(prompts, completions, strict=True)]


def is_trained(text):
    n_tokens = len(text.removesuffix("<eos>")) + text.endswith("<eos>")
    return [not (text == OTHERS and 2 <= t < 5) for t in range(n_tokens)]


class Models(TrainerCallback):
    """Keeps the model as it is before each step."""

    def __init__(self):
        self.before = {}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.before[state.global_step + 1] = before = tiny_model()
        before.load_state_dict(model.state_dict())


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    """The records of both steps, and the models that took the steps."""
    directory = tmp_path_factory.mktemp("run")
    texts = {prompt: [text for text, *_ in rows] for prompt, rows in ROLLOUTS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        trainer = HTPOTrainer(
            tiny_model(),
            [verdict, other],
            HTPOConfig(str(directory), **CPU_ARGUMENTS | OPTIONS),
            Dataset.from_dict({"prompt": list(ROLLOUTS)}),
            processing_class=tokenizer,
            rollout_func=scripted_rollout(texts, is_trained=is_trained),
            callbacks=[models := Models()],
        )
    trainer.add_callback(TokenRecorder(trainer, steps=1, completions=100))
    trainer.train()
    return [read_record(directory, step) for step in (1, 2)], [models.before[step] for step in (1, 2)]


def forward(model, tokenizer, completion):
    """log π and H of the tokens, of this completion alone."""
    prompt, ids = (tokenizer(text).input_ids for text in (completion.prompt, "".join(completion.tokens)))
    with torch.no_grad():
        logps = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
    return logps[range(len(ids)), ids].numpy(), -(logps.exp() * logps).sum(dim=-1).numpy()


def test_texts_labels_and_advantages(run, tokenizer):
    records, _ = run
    for record in records:
        rows = {(c.prompt, "".join(c.tokens)): c for c in record.completions}
        assert len(record.completions) == len(rows) == 8
        for prompt, group in ROLLOUTS.items():
            for text, right, reward in group:
                completion = rows[prompt, text]
                mask = is_trained(text)
                assert completion.rewards == [right, reward]
                assert (completion.is_correct, completion.is_judged) == (right == 1, True)
                assert completion.is_hard == (prompt == "12")
                assert completion.values["token_ids"].tolist() == tokenizer(text).input_ids
                assert completion.values["mask"].tolist() == mask
                expected = [ADVANTAGES[prompt, right]] * len(mask)
                assert completion.values["advantages"].tolist() == pytest.approx(expected, abs=1e-3)
    assert not all(is_trained(OTHERS))


def test_probabilities_and_entropies(run, tokenizer):
    records, models = run
    for record, model in zip(records, models, strict=True):
        for completion in record.completions:
            logps, entropies = forward(model, tokenizer, completion)
            old, _ = forward(models[0], tokenizer, completion)
            for name, value in (("per_token_logps", logps), ("old_per_token_logps", old), ("entropies", entropies)):
                np.testing.assert_allclose(completion.values[name], value, atol=2e-5, err_msg=name)
    largest = [max(abs(c.ratio - 1).max() for c in record.completions) for record in records]
    assert largest[0] < 1e-4 < 0.3 < largest[1], "the second step is off-policy"


def place_of(group):
    if group is None:
        return -1
    hard, correct, high = group
    names = ("hard" if hard else "easy", "correct" if correct else "wrong", "high" if high else "low")
    return GROUPS.index("_".join(names))


def test_groups_and_weights(run, tokenizer):
    """Weights are what the two effective columns amount to: the derivative of a token's objective by log π."""
    records, models = run
    changed = set()
    for record, model in zip(records, models, strict=True):
        for completion in record.completions:
            mask = completion.values["mask"]
            logps, entropies = forward(model, tokenizer, completion)
            case = {
                "mask": [mask.tolist()],
                "per_token_logps": [logps.tolist()],
                "old_per_token_logps": [forward(models[0], tokenizer, completion)[0].tolist()],
                "entropies": [entropies.tolist()],
                "advantages": [ADVANTAGES[completion.prompt, float(completion.is_correct)]],
                "is_hard": [completion.is_hard],
                "is_correct": [completion.is_correct],
            }
            _, (slopes,), (groups,) = reference(case, top=(3, 10), lowest=(1, 4), highest=(1, 2))
            _, (plain,), _ = reference(case, "dapo")
            outcome = record.outcome(completion)
            assert outcome.groups.tolist() == [place_of(group) for group in groups]
            weights = np.where(mask, -np.array(slopes) * mask.sum(), np.nan)
            np.testing.assert_allclose(outcome.weights, weights, rtol=1e-3, atol=1e-5)
            has_effect, differs = outcome.effects > 0, np.array(slopes) != np.array(plain)
            assert has_effect[differs].all()
            # What detaches a token that PPO has clipped already changes the value alone.
            assert not np.array(plain)[has_effect & ~differs].any()
            changed |= set(outcome.effects[differs])
    assert len(changed) >= 4, "the run is too tame to tell"
