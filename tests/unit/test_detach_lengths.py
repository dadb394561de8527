"""From which length on a table's rules detach tokens: what the plan says, against what `control` does."""

import pytest
import torch

from htpo_trl.cli.launch import Parallelism
from htpo_trl.cli.plan import plan_run
from htpo_trl.objective import GROUPS, PRESETS
from htpo_trl.objective.selections import Detach
from htpo_trl.objective.transform import control
from htpo_trl.scripts.arguments import read
from htpo_trl.scripts.htpo import TITLES


TABLES = [
    *(PRESETS[name] for name in ("htpo", "htpo-released", "high-entropy-only")),
    PRESETS["dapo"].replace({"hard_wrong_low": {"rule": "detach", "share": 0.29}}),
    PRESETS["dapo"].replace({"easy_wrong_high": Detach(1.0), "hard_correct_high": Detach(0.5, "highest")}),
]


def detached(table, group, length, top):
    """How many tokens of a response of this length lose their gradient in `control`."""
    difficulty, correctness, _ = group.split("_")
    logps = torch.full((1, length), -1.0)
    result = control(
        per_token_logps=logps,
        old_per_token_logps=logps,
        entropies=torch.rand(1, length, generator=torch.Generator().manual_seed(length)),
        advantages=torch.ones(1),
        is_hard=torch.tensor([difficulty == "hard"]),
        is_correct=torch.tensor([correctness == "correct"]),
        mask=torch.ones(1, length, dtype=torch.bool),
        table=table,
        top_entropy_share=top,
    )
    return int(((result.advantages == 0) & (result.groups == GROUPS.index(group))).sum())


@pytest.mark.parametrize("top", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_shortest_response_with_a_detached_token(table, top):
    lengths = table.detaches_from(top)
    for group, rule in zip(GROUPS, table.rows, strict=True):
        if not isinstance(rule, Detach):
            assert group not in lengths
        elif group in lengths:
            assert detached(table, group, lengths[group], top) > 0
            assert lengths[group] == 1 or detached(table, group, lengths[group] - 1, top) == 0
        else:  # no token is low where all are high
            assert detached(table, group, 500, top) == 0


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["--max_completion_length", "24"],
            "No group detaches tokens: that takes 208 tokens, max_completion_length is",
        ),
        (["--max_completion_length", "208"], "1 groups detach tokens, in every step: of responses of 208 tokens and"),
        (["--max_completion_length", "250"], "2 groups detach tokens, in every step: of responses of 208 tokens and"),
        (["--objective", "dapo"], ""),
    ],
)
def test_the_plan_says_what_this_length_can_do(place, monkeypatch, argv, line):
    monkeypatch.chdir(place)
    options = ["--config", "recipe.yaml", "--objective_overrides", "{}", "--top_entropy_share", "0.2", *argv]
    text = plan_run(read(options, TITLES), Parallelism())
    assert line in text
    assert ("detach" in text.split("Objective:")[0]) == bool(line)
