"""
A run on two machines, where a process's rank and its rank within its machine differ. What it trained on, taken from
the recorded tokens, is compared with what prompt and text of each completion say.
"""

import random
from collections import defaultdict

import pytest

from htpo_trl.tokens import read_record

from ..distributed_run import launch, records


GROUP_SIZE = 4
LENGTH = 12
ROWS = 60  # of a generation batch: 15 groups, the middle one on both machines


@pytest.fixture(scope="module")
def directory(directory):
    arguments = {
        "max_steps": 6,  # two generation batches
        "per_device_train_batch_size": 10,
        "steps_per_generation": 3,
        "num_generations": GROUP_SIZE,
        "max_completion_length": LENGTH,
        "dynamic_sampling": True,
    }
    job = {"arguments": arguments, "forced": True, "record_tokens": {"steps": 1, "completions": 1000}}
    launch(directory, {"run": job}, n_machines=2)
    return directory


def batches(directory):
    """What the two generation batches were: of each the recorded completions, all of them."""
    steps = [read_record(directory / "run", step) for step in range(1, 7)]
    assert [record.settings.completions_in_step for record in steps] == [20] * 6
    return [[completion for record in part for completion in record.completions] for part in (steps[:3], steps[3:])]


def scripted(tokenizer, prompt):
    """The texts that `distributed_run` gives to a prompt, one for each place in its group."""
    texts = []
    for place in range(GROUP_SIZE):
        generator = random.Random(f"{tokenizer(prompt).input_ids} {place}")
        digits = generator.choices("0123456789", k=generator.randrange(LENGTH + 1))
        texts.append(("".join(digits) + "<eos>") if len(digits) < LENGTH else "".join(digits))
    return texts


def is_right(text):
    digits = text.removesuffix("<eos>")
    return sum(digit in "02468" for digit in digits) > len(digits) / 2


def test_every_row_is_trained_on_once_with_its_own_reward(directory, tokenizer):
    for completions in batches(directory):
        assert len(completions) == ROWS
        groups = defaultdict(list)
        for completion in completions:
            text = "".join(completion.tokens)
            groups[completion.prompt].append(text)
            assert completion.is_correct == is_right(text)
            assert completion.rewards == [float(is_right(text))]
        assert len(groups) == ROWS // GROUP_SIZE
        for prompt, texts in groups.items():
            assert sorted(texts) == sorted(scripted(tokenizer, prompt))
            n_right = sum(map(is_right, texts))
            assert 0 < n_right < GROUP_SIZE
            hard = {completion.is_hard for completion in completions if completion.prompt == prompt}
            assert hard == {n_right / GROUP_SIZE < 0.6}
    # Rows of a later round were taken, which is where the rank decides.
    assert records(directory, "run")[0]["log"][0]["htpo/sampling/rounds"] > 1


def test_accuracy_is_of_both_machines(directory):
    first, second = records(directory, "run")
    logged = [row["htpo/accuracy"] for row in first["log"] if "htpo/accuracy" in row]
    expected = [sum(is_right("".join(c.tokens)) for c in batch) / ROWS for batch in batches(directory)]
    assert logged == pytest.approx(expected)
    for rank in (first, second):
        own = [sum(labels["is_correct"]) / len(labels["is_correct"]) for labels in rank["labels"]]
        assert own != pytest.approx(expected), "the data cannot tell the accuracy of one machine from that of both"
