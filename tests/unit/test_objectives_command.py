"""`htpo objectives`: what it prints is the tables, formulas and estimators that there are."""

import json

import pytest

from htpo_trl import cli
from htpo_trl.advantages import ESTIMATORS
from htpo_trl.objective import GROUPS, PRESETS, Table, parse_rule
from htpo_trl.objective.description import needs
from htpo_trl.objective.gates import FUNCTIONS


def printed(capsys, *argv):
    cli.main(["objectives", *argv])
    return capsys.readouterr().out


def test_list_names_them_all(capsys):
    objectives, advantages = printed(capsys, "list").split("\n\n")
    assert [line.split()[0] for line in objectives.splitlines()] == ["Objectives", *PRESETS]
    assert [line.split()[0] for line in advantages.splitlines()] == ["Advantages", *ESTIMATORS]
    assert "cispo               arXiv 2506.13585" in objectives
    assert "maxrl               arXiv 2602.02710" in advantages
    assert "(reward - μ) / (μ + epsilon)" in advantages


def test_show_tells_what_an_objective_is(capsys):
    text = printed(capsys, "show", "gspo")
    assert text.startswith(str(PRESETS["gspo"]))
    for line in (
        "gspo       w = s in the clip range, s = exp(mean log r) of the response; options: none; arXiv 2507.18071",
        "source     arXiv 2507.18071",
        "settings   epsilon=0.0003, epsilon_high=0.0004, loss_type=grpo",
        "needs      a sum over the response",
    ):
        assert f"\n{line}\n" in text
    assert "\nnote       TRL's epsilon_high is the cap itself" in printed(capsys, "show", "cispo")
    assert "; options: tau_pos=1.0, tau_neg=1.05; " in printed(capsys, "show", "sapo")
    assert "settings" not in printed(capsys, "show", "cispo")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("dapo", []),
        ("cispo", []),
        ("htpo", ["entropies", "verdicts", "difficulty", "a ranking by entropy over the response"]),
        ("psr", ["verdicts"]),
        ("dppo-tv", ["probabilities of the tokens"]),
        ("fipo", ["a sum over the rest of the response", "a sum over the response"]),
        ("kl-cov", ["a ranking by covariance over the batch"]),
        ("stare", ["a ranking by surprisal over the batch", "the mean entropy of the loss call"]),
        ("hapo-released", ["statistics of the loss call", "entropies"]),
    ],
)
def test_what_an_objective_needs(preset, expected):
    assert sorted(needs(PRESETS[preset])) == sorted(expected)


@pytest.mark.parametrize("name", PRESETS)
def test_json_gives_the_table_back(capsys, name):
    told = json.loads(printed(capsys, "show", name, "--json"))
    (objective,), table = told["objectives"], PRESETS[name]
    rows = tuple(parse_rule(objective["rows"][group]) for group in GROUPS)
    assert Table(objective["name"], rows, objective["selection"], tuple(objective["settings"].items())) == table
    assert (objective["source"], objective["note"]) == (table.source, table.note)
    for rule, each in objective["formulas"].items():
        assert each["options"] == FUNCTIONS[rule].options
    assert [each["name"] for each in told["advantages"]] == [name] * (name in ESTIMATORS)


def test_json_of_all(capsys):
    told = json.loads(printed(capsys, "list", "--json"))
    assert [each["name"] for each in told["objectives"]] == [*PRESETS]
    assert {each["name"]: each["parameters"] for each in told["advantages"]} == {
        name: each.parameters for name, each in ESTIMATORS.items()
    }
    assert all(each["formula"] and each["source"].startswith("arXiv 2") for each in told["advantages"])


def test_show_finds_advantages(capsys):
    text = printed(capsys, "show", "a-grae")
    assert "Advantages\na-grae " in text
    assert "; rewards between 0 and 1; alpha=1; epsilon=1e-06\n" in text
    both = printed(capsys, "show", "wapo")
    assert both.startswith(str(PRESETS["wapo"]))
    assert "max(reward - μ, 0)" in both


def test_own_table(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from htpo_trl.objective import PRESETS\nMINE = PRESETS['dapo'].replace({'high': 'cispo'})\n"
    )
    text = printed(capsys, "show", f"{tmp_path}/mine.py:MINE")
    assert text.startswith(
        "dapo*\n 1  hard · correct · low   J_PPO\n 2  hard · correct · high  cispo: w = min(r, 1+ε_hi)"
    )
    assert "\nneeds      entropies\n" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [("cispp", "Unknown objective 'cispp'. Did you mean 'cispo'?"), ("absent.py:MINE", "absent.py")],
)
def test_what_there_is_not_is_one_line(capsys, name, message):
    with pytest.raises(SystemExit) as ended:
        cli.main(["objectives", "show", name])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("htpo objectives: ")
    assert (said.err.count("\n"), said.out) == (1, "")
