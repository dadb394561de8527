"""The reward functions: rewards and logs, DAPO's rules, the golds of real benchmarks, and runs."""

import asyncio
import json
import pickle
from collections import Counter

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from trl import rewards as trl_rewards

from benchmarks.verifier import tables
from htpo_trl import HTPOConfig, HTPOTrainer, rewards
from htpo_trl.rewards import dapo_math_reward, get_soft_overlong_punishment, math_reward, signed_math_reward
from htpo_trl.verifier import Verdict, VerifierConfig, algebra, configure
from htpo_trl.verifier.forms import bare_gold

from ..distributed_run import ROOT
from ..golds import DATA, FILES, WRAPPINGS, golds_of, perturbed
from ..hostile import hanging_answers
from ..tiny import CPU_ARGUMENTS
from ..wrappings import wrappings


class Log:
    """What the trainer hands to reward functions."""

    def __init__(self):
        self.columns, self.metrics = {}, {}

    def keywords(self):
        return {"log_extra": self.columns.__setitem__, "log_metric": self.metrics.__setitem__}


# --- Verdicts as rewards


def test_rewards_by_verdict_and_what_is_logged():
    hostile = hanging_answers(1)[0]
    completions = [r"\boxed{\frac{2}{4}}", "Answer: 3", "I give up", r"\boxed{7}", hostile]
    solution = ["0.5", 4, "4", "", 5]
    log = Log()
    try:
        configure(VerifierConfig(deadline=1.0))
        assert math_reward(completions, solution, **log.keywords()) == [1.0, 0.0, 0.0, None, 0.0]
        assert signed_math_reward(completions[:4], solution[:4]) == [1.0, -1.0, -1.0, None]
    finally:
        configure(VerifierConfig())
    verdicts = ["correct", "wrong", "unparsable_answer", "unparsable_gold", "timed_out"]
    assert log.columns["math_reward/verdict"] == verdicts
    assert log.columns["math_reward/answer"][:4] == [r"\frac{2}{4}", "3", "", "7"]
    assert log.metrics == {f"math_reward/{v}": 0.2 for v in verdicts} | {"math_reward/crashed": 0.0}


@pytest.mark.parametrize("reward", [math_reward, dapo_math_reward])
def test_conversations_are_read_at_their_last_message(reward):
    conversations = [
        [{"role": "assistant", "content": "Answer: 12"}],
        [{"role": "assistant", "content": "Answer: 12"}, {"role": "assistant", "content": "Answer: 13"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "Answer: "}, {"type": "text", "text": "12"}]}],
        [{"role": "assistant", "content": None}],
        [],
    ]
    right = [reward == 1.0 for reward in reward(conversations, ["12"] * 5)]
    assert right == [True, False, True, False, False]
    assert right == [
        reward == 1.0 for reward in reward(["Answer: 12", "Answer: 13", "Answer: 12", "", ""], ["12"] * 5)
    ]


def test_parts_of_a_message_that_are_no_text_are_passed_over():
    parts = [{"type": "image"}, {"type": "text", "text": "Answer: 12"}, {"type": "text", "text": None}]
    assert math_reward([[{"role": "assistant", "content": parts}]], ["12"]) == [1.0]


def test_the_signed_reward_logs_as_the_other():
    log = Log()
    assert signed_math_reward(["Answer: 2", "Answer: 3"], ["2", "2"], **log.keywords()) == [1.0, -1.0]
    assert log.columns == {"math_reward/answer": ["2", "3"], "math_reward/verdict": ["correct", "wrong"]}
    assert log.metrics["math_reward/wrong"] == 0.5


@pytest.mark.parametrize("reward", [math_reward, signed_math_reward, dapo_math_reward])
def test_reward_functions_can_be_sent_to_other_processes(reward):
    assert pickle.loads(pickle.dumps(reward))(["Answer: 2"], ["2"], prompts=[""], completion_ids=[[1]]) == [1.0]


def test_reward_functions_run_beside_an_event_loop():
    async def rewards(i):
        return await asyncio.to_thread(math_reward, [f"\\boxed{{{i}+x}}", r"\boxed{y}"], [f"x+{i}"] * 2)

    async def all_rewards():
        return await asyncio.gather(*(rewards(i) for i in range(8)))

    assert asyncio.run(all_rewards()) == [[1.0, 0.0]] * 8


def test_missing_golds_carry_no_signal():
    assert math_reward(["Answer: 2"], [None]) == dapo_math_reward(["Answer: 2"], [None]) == [None]


def test_the_length_penalty_is_trls():
    assert rewards.get_soft_overlong_punishment is trl_rewards.get_soft_overlong_punishment
    assert get_soft_overlong_punishment(20480, 4096)(completion_ids=[[0] * n for n in (16384, 18432, 20481)]) == [
        0,
        -0.5,
        -1,
    ]


# --- DAPO's rules


@pytest.mark.parametrize(
    ("completion", "gold", "is_correct"),
    [
        ("Answer: 34", "34", True),
        ("answer :34", "34", True),
        ("Answer: 1\nAnswer: 34", "34", True),
        ("Answer: 34\nAnswer: 1", "34", False),
        ("Answer:\n34", "34", True),
        ("Answer: $34$", "34", True),
        ("Answer: x = 34", "34", True),
        ("Answer: 1,034", "1034", True),
        (r"Answer: \frac12", r"\frac{1}{2}", True),
        (r"Answer: \sqrt2", r"\sqrt{2}", True),
        (r"Answer: $\boxed{34}$", "34", True),
        (r"Answer: 34 \text{ cm}", "34", True),
        (r"Answer: 30^\circ", "30", True),
        ("Answer: an integer 34", "integer34", True),
        ("Answer: 0.5", "1/2", False),
        (r"Answer: \dfrac{1}{2}", r"\frac{1}{2}", False),
        (r"\boxed{34}", "34", False),
        ("Answer: 34 " + "." * 300, "34", False),  # beyond the last 300 characters
        ("." * 5000 + "Answer: 34", "34", True),
    ],
)
def test_dapo_rules(completion, gold, is_correct):
    assert dapo_math_reward([completion], [gold]) == [1.0 if is_correct else -1.0]


def test_dapo_logs_what_it_read():
    log = Log()
    dapo_math_reward(["Answer: 34", "Answer: 35", "34"], ["34"] * 3, **log.keywords())
    assert log.columns == {
        "dapo_math_reward/answer": ["34", "35", ""],
        "dapo_math_reward/verdict": ["correct", "wrong", "unparsable_answer"],
    }
    assert log.metrics["dapo_math_reward/correct"] == 1 / 3


@given(st.text("0123456789.,-+/\\fracsqt{}$= anxmtboxed^", max_size=30).filter(str.strip))
def test_dapo_accepts_a_gold_as_its_own_answer(gold):
    assert dapo_math_reward([f"Answer: {gold}"], [gold]) == [1.0] or "\n" in gold or gold.strip() != gold


# --- The golds of real benchmarks

needs_data = pytest.mark.skipif(not DATA.exists(), reason="the benchmarks' files are not part of the project")


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_every_gold_is_accepted_as_its_own_answer(name, patient_verifier):
    golds = golds_of(name)
    for wrapping in WRAPPINGS:
        judgements = patient_verifier.judge([wrapping % gold for gold in golds], golds)
        assert Counter(judgement.verdict for judgement in judgements) == {Verdict.CORRECT: len(golds)}, wrapping


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_golds_are_accepted_however_a_model_ends(name, patient_verifier):
    pairs = [(gold, text) for gold in golds_of(name)[::10] for text in wrappings(gold)]  # all: benchmarks/verifier.py
    judgements = patient_verifier.judge([text for _, text in pairs], [gold for gold, _ in pairs])
    refused = [pair for pair, (verdict, _) in zip(pairs, judgements, strict=True) if verdict is not Verdict.CORRECT]
    assert not refused


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_perturbed_golds_are_refused(name, patient_verifier):
    golds = golds_of(name)[::10]  # all of them: benchmarks/verifier.py
    verdicts = patient_verifier.judge_answers([perturbed(gold) for gold in golds], golds)
    assert Counter(verdicts) == {Verdict.WRONG: len(golds)}


# Golds that math-verify reads as text only: the same text is accepted, other forms of the same answer are not.
READ_AS_TEXT = {"olympiadbench": 2}


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_golds_that_are_read_as_text_are_known(name):
    texts = [
        gold for gold in golds_of(name) if all(isinstance(part, str) for part in algebra._parse_gold(bare_gold(gold)))
    ]
    assert len(texts) == READ_AS_TEXT.get(name, 0), texts


# --- Runs


@pytest.mark.parametrize("judge", ["math_reward", "dapo_math_reward"])
def test_a_run_logs_verdicts_and_takes_correctness_from_the_named_reward(tiny_chat_model, tmp_path, judge):
    """The reward that judges need not be the first one."""
    dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": "1+1"}], "solution": "2"}] * 8)
    trainer = HTPOTrainer(
        model=str(tiny_chat_model),
        reward_funcs=[get_soft_overlong_punishment(12, 4), math_reward, dapo_math_reward],
        args=HTPOConfig(**CPU_ARGUMENTS | {"output_dir": str(tmp_path), "correctness_reward": judge, "max_steps": 2}),
        train_dataset=dataset,
    )
    assert trainer.correctness_names == [judge]
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert logs
    for entry in logs:
        assert sum(entry[f"{judge}/{verdict}"] for verdict in Verdict) == 1
        assert entry[f"{judge}/unparsable_answer"] == 1  # a random model finds no box
        assert entry["htpo/accuracy"] == 0


def test_the_documentation_says_what_was_measured():
    page = (ROOT / "docs" / "verifier.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "verifier.json").read_text())
    for table in tables(results):
        assert table in page
    hostile = results["hostile"]
    for files in results["cases"]["files"].values():
        assert files["ours"] == files["answers"]
    assert hostile["canaries"] == 0
    assert hostile["overrun"] < 0.5
    assert max(batch["seconds"] for batch in hostile["batches"]) < 3 * hostile["config"]["deadline"]
    assert all(batch["right after"] for batch in hostile["batches"])
