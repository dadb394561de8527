"""Advantage estimators: known answers of their authors' code, a slow second implementation, and closed forms."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htpo_trl.advantages import ESTIMATORS, estimate, get_estimator, register
from htpo_trl.utils import UsageError

from ..advantage_reference import estimated


VECTORS = json.loads((Path(__file__).parents[1] / "data" / "advantage_vectors.json").read_text())["cases"]
NAN = math.nan
# Steps that floats hold exactly, so that equal rewards are equal.
STEPS = {
    "finite": st.integers(-8, 8).map(lambda i: i / 8),
    "at least 0": st.integers(0, 16).map(lambda i: i / 8),
    "between 0 and 1": st.integers(0, 8).map(lambda i: i / 8),
    "verdicts, 0 or 1": st.integers(0, 1).map(float),
}


def of(name, rewards, groups=None, lengths=None, dtype=torch.float64, **parameters):
    groups = groups or [0] * len(rewards)
    lengths = lengths or [1] * len(rewards)
    tensors = torch.tensor(rewards, dtype=dtype), torch.tensor(groups), torch.tensor(lengths)
    advantages = estimate(name, *tensors, **parameters)
    assert advantages.dtype == dtype
    return advantages.tolist()


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_authors_answers(case):
    inputs = case["rewards"], case["group"], case["lengths"]
    assert of(case["estimator"], *inputs) == pytest.approx(case["advantages"], abs=1e-9)
    single = of(case["estimator"], *inputs, dtype=torch.float32)
    assert single == pytest.approx(case["advantages"], rel=1e-4, abs=1e-5)


def test_every_estimator_has_an_authors_answer():
    assert {case["estimator"] for case in VECTORS} == set(ESTIMATORS)


@pytest.mark.parametrize("name", ESTIMATORS)
@settings(max_examples=60)
@given(data=st.data())
def test_the_slow_loop(name, data):
    """Groups of any size in any order, some responses without a reward, some without a token."""
    n = data.draw(st.integers(1, 14))
    rewards = data.draw(st.lists(STEPS[ESTIMATORS[name].takes] | st.just(NAN), min_size=n, max_size=n))
    groups = data.draw(st.lists(st.sampled_from([-3, 0, 1, 40]), min_size=n, max_size=n))
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    groups += [7, 7] if ESTIMATORS[name].needs_two else []
    if ESTIMATORS[name].needs_two:  # no group of one
        rewards, lengths, groups = (
            [*rewards, 0.5, 1.0],
            [*lengths, 1, 1],
            [7 if groups.count(g) < 2 else g for g in groups],
        )
    got = of(name, rewards, groups, lengths)
    expected = estimated(name, rewards, groups, lengths)
    # A response without a token is in no cell of HAPO's: its advantage reaches none.
    seen = [i for i in range(len(rewards)) if name != "hapo" or lengths[i]]
    assert [got[i] for i in seen] == pytest.approx([expected[i] for i in seen], rel=1e-9, abs=1e-9)
    assert all(map(math.isfinite, got))


CENTRED = ["grpo", "dr_grpo", "rloo", "maxrl", "a-grae", "hapo", "wapo"]


@pytest.mark.parametrize("name", CENTRED)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_rewards_that_agree_teach_nothing(name, reward):
    """Exactly nothing, also where a mean of float32 would be rounded, and whatever the lengths."""
    assert of(name, [reward] * 7, lengths=[*range(1, 8)], dtype=torch.float32) == [0.0] * 7


ONE_RIGHT = {  # of four, in closed form; an epsilon moves it by less than the tolerance
    "grpo": (1.5, -0.5),  # σ = 1/2
    "dr_grpo": (3 / 4, -1 / 4),
    "rloo": (1, -1 / 3),
    "maxrl": (3, -1),
    "a-grae": ((3 / 4 + 1 / 4) * 1.5 * 1 / 4, -0.5 * (3 / 4 + 1 / 4)),  # M = μ = 1/4, √μ = 1/2
    "hapo": (math.sqrt(3), -1 / math.sqrt(3)),
    "wapo": (3 / 4, 0),
    "w-reinforce": (0.1, -1),
    "psr": (1, 0),
    "nsr": (0, -1),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_one_right_of_four(name):
    right, wrong = ONE_RIGHT[name]
    assert of(name, [0.0, 1.0, 0.0, 0.0]) == pytest.approx([wrong, right, wrong, wrong], rel=3e-4)


@pytest.mark.parametrize(
    ("name", "two", "one"),
    [
        ("grpo", (math.sqrt(0.5), -math.sqrt(0.5)), 0.0),
        ("dr_grpo", (0.5, -0.5), 0.0),
        ("rloo", (1, -1), 1.0),
        ("maxrl", (1, -1), None),
        ("hapo", (1, -1), 0.0),
        ("wapo", (0.5, 0), 0.0),
        ("psr", (1, 0), 1.0),
    ],
)
def test_groups_of_two_and_of_one(name, two, one):
    assert of(name, [1.0, 0.0]) == pytest.approx(two, rel=3e-4)
    if one is not None:
        assert of(name, [1.0]) == [one]
    # One reward of two is a group of one, and not refused: it comes by chance.
    assert of(name, [NAN, 1.0]) == [0.0, one or 0.0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_reward_no_advantage(name):
    rewards, groups, lengths = [1.0, NAN, 0.0, NAN, NAN, 1.0, 1.0], [0, 0, 0, 1, 1, 2, 2], [3, 9, 4, 1, 2, 5, 6]
    without = [i for i, reward in enumerate(rewards) if not math.isnan(reward)]
    got = of(name, rewards, groups, lengths)
    assert [got[1], *got[3:5]] == [0.0] * 3
    rest = of(name, *([values[i] for i in without] for values in (rewards, groups, lengths)))
    assert [got[i] for i in without] == rest  # those of the others are as if it were not there
    assert of(name, [NAN, NAN]) == [0.0, 0.0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_order_and_names_of_groups_do_not_matter(name):
    rewards, groups = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], [0, 0, 0, 0, 1, 1, 1, 1]
    lengths, shuffled = [1, 2, 3, 4, 5, 6, 7, 8], [6, 0, 3, 5, 1, 7, 4, 2]
    got = of(name, rewards, groups, lengths)
    moved = of(name, *([values[i] for i in shuffled] for values in (rewards, [9 - 7 * g for g in groups], lengths)))
    assert moved == pytest.approx([got[i] for i in shuffled], rel=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_host_reads_nothing(name):
    """On the meta device there is nothing to read, and whoever asks gets an error."""
    rewards, groups, lengths = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 5]), torch.tensor([1, 2, 3])
    advantages = ESTIMATORS[name](*(tensor.to("meta") for tensor in (rewards, groups, lengths)))
    assert advantages.shape == (3,)
    with pytest.raises((RuntimeError, NotImplementedError)):  # negative control
        estimate(name, *(tensor.to("meta") for tensor in (rewards, groups, lengths)))


def test_parameters():
    rewards, groups = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0], [0, 0, 0, 0, 1, 1]
    # M = 5/8: with alpha 1 positive advantages are 5/8 of what they are with an alpha that M reaches.
    plain, reached = of("a-grae", rewards, groups), of("a-grae", rewards, groups, alpha=0.5)
    assert plain[0] == pytest.approx(5 / 8 * reached[0])
    assert plain[1:] == reached[1:]
    assert of("w-reinforce", [1.0, 0.0], positive=0.5) == [0.5, -1.0]
    assert of("grpo", [1.0, 0.0], epsilon=math.sqrt(0.5)) == pytest.approx([math.sqrt(0.5) / 2, -math.sqrt(0.5) / 2])
    # 1/26 of the tokens is right: |A| is 5, the bound, and the group has GRPO's advantages.
    assert of("hapo", [1.0, 0.0], lengths=[1, 26]) == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-5)
    assert of("hapo", [1.0, 0.0], lengths=[1, 26], bound=6)[0] == pytest.approx(math.sqrt(26), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "rewards", "said"),
    [
        ("maxrl", [1.0, -1.0], "'maxrl' is made for rewards that are at least 0. Give it such"),
        ("a-grae", [1.0, 1.5], "'a-grae' is made for rewards that are between 0 and 1. "),
        ("psr", [1.0, -1.0], "'psr' is made for rewards that are verdicts, 0 or 1"),
        ("w-reinforce", [1.0, 0.5], "'w-reinforce' is made for rewards that are verdicts"),
        ("maxrl", [1.0, math.inf], "'maxrl' is made for rewards that are at least 0. Give it such"),
        ("rloo", [1.0, math.inf], "'rloo' is made for rewards that are finite"),
        ("maxrl", [1.0], "'maxrl' compares responses of a group, and there is a group of one"),
        ("hapi", [1.0, 0.0], "advantage='hapi' is none of grpo, dr_grpo, .*Did you mean 'hapo'"),
    ],
)
def test_what_an_estimator_is_not_made_for(name, rewards, said):
    with pytest.raises(UsageError, match=said):
        of(name, rewards)


def test_what_is_asked_wrongly():
    rewards, groups = torch.tensor([1.0, 0.0]), torch.tensor([0, 0])
    with pytest.raises(UsageError, match="'hapo' weighs responses by their lengths: pass lengths"):
        estimate("hapo", rewards, groups)
    with pytest.raises(UsageError, match=r"rewards must be floats of shape \(B,\)"):
        estimate("rloo", rewards, groups[:1])
    with pytest.raises(UsageError, match=r"rewards must be floats of shape \(B,\)"):
        estimate("rloo", groups, groups)
    with pytest.raises(
        UsageError, match=r"Did you mean 'alpha'.*'alfa' is no parameter of 'a-grae', which has alpha, eps"
    ):
        get_estimator("a-grae", {"alfa": 1})
    with pytest.raises(UsageError, match="'alpha' is no parameter of 'rloo', which has none"):
        get_estimator("rloo", {"alpha": 1})
    for value in (0, -1, math.nan, math.inf, "1", True, None):
        with pytest.raises(UsageError, match=f"alpha={value!r} must be a number above 0"):
            get_estimator("a-grae", {"alpha": value})


def test_a_function_of_ones_own(tmp_path):
    file = tmp_path / "mine_of_test_advantages.py"
    file.write_text(
        "from htpo_trl.advantages import register\n"
        "def halved(rewards, group, *, part=0.5):\n    return part * (rewards - group.mean(rewards))\n"
        "@register('cautious', takes='verdicts, 0 or 1')\n"
        "def cautious(rewards, group):\n    return rewards - 0.5\n"
        "constant = 3\n"
        "def shifted(rewards, group, *, by=0.0):\n    return rewards - by\n"
        "def nan(rewards, group):\n    return rewards / 0\n"
        "def single(rewards, group):\n    return rewards[:1]\n"
        "def named(rewards, group, *, kind):\n    return rewards\n"
    )
    assert of(f"{file}:halved", [1.0, 0.0]) == [0.25, -0.25]
    assert of(f"{file}:halved", [1.0, 0.0], part=2.0) == [1.0, -1.0]
    try:
        assert of("cautious", [1.0, 0.0]) == [0.5, -0.5]  # by its name, once its file is imported
        with pytest.raises(UsageError, match="verdicts"):
            of(f"{file}:cautious", [1.0, 2.0])
    finally:
        del ESTIMATORS["cautious"]
    assert of(f"{file}:shifted", [1.0, 0.0], by=-1.0) == [2.0, 1.0]
    with pytest.raises(UsageError, match="nan' gives NaN or infinity"):
        of(f"{file}:nan", [1.0, 0.0, 0.0])
    with pytest.raises(UsageError, match=r"single' gives \(1,\) for 3 responses"):
        of(f"{file}:single", [1.0, 0.0, 0.0])
    with pytest.raises(UsageError, match="kind of named must have a number as its default"):
        get_estimator(f"{file}:named")
    with pytest.raises(UsageError, match="must be a name: one of grpo, "):
        get_estimator(3)
    with pytest.raises(UsageError, match="takes='verdict' is none of 'finite', "):
        register("careless", takes="verdict")(lambda rewards, group: rewards)
    with pytest.raises(UsageError, match="3 is no function of rewards and grouping"):
        get_estimator(f"{file}:constant")
    with pytest.raises(UsageError, match=r"advantage: .* there is no 'halve' in it. Did you mean 'halved'"):
        get_estimator(f"{file}:halve")


def test_the_docs_list_them():
    """Name, parameters, what it takes, and its source, as the page has them."""
    page = (Path(__file__).parents[2] / "docs" / "advantages.md").read_text()
    table = page.split("| --- | --- | --- | --- | --- |\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert [row[0] for row in rows] == [f"`{name}`" for name in ESTIMATORS]
    for (_, _, parameters, takes, source), estimator in zip(rows, ESTIMATORS.values(), strict=True):
        written = ", ".join(f"`{key}={value:g}`" for key, value in estimator.parameters.items())
        assert parameters == (written if estimator.name != "grpo" else "none: it is TRL's")
        assert estimator.takes.startswith({"any": "finite"}.get(takes, takes))
        assert f"arXiv {source[1:11]}" in estimator.function.__doc__
