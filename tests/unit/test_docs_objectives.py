"""docs/objectives.md and README: tables, figures and examples of the published objectives are those of the code."""

import math
import re
from pathlib import Path

import pytest
import yaml

from docs import tables
from docs.figure_data import FAMILIES, PROBE, family_data, family_of
from htpo_trl import HTPOConfig
from htpo_trl.advantages import ESTIMATORS
from htpo_trl.objective import GROUPS, PRESETS, Detach, Named


ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "objectives.md"


@pytest.mark.parametrize("path", tables.PAGES, ids=lambda path: path.name)
def test_tables_are_those_of_the_code(path):
    page = path.read_text()
    assert "<!-- objectives: " in page
    assert tables.filled(page) == page, "run `python -m docs.tables`"


def test_every_preset_is_listed():
    listed = re.findall(r"^\| `([\w-]+)` \| (?:\S.*) \| \[?\S", PAGE.read_text().split("## Which one when")[0], re.M)
    assert sorted(listed) == sorted(PRESETS)
    assert re.findall(r"<!-- objectives: (\w+) -->", PAGE.read_text()) == [*FAMILIES[1:], FAMILIES[0]]
    rows = (ROOT / "README.md").read_text().split("<!-- objectives: all -->")[1].split("<!-- end -->")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", rows, re.M) == [*PRESETS]
    assert r"| `kl-cov` | unclipped: w = r; -1·\|log r\| for" in rows


@pytest.mark.parametrize(
    ("preset", "family"),
    [
        *(("htpo", "own"), ("aspo", "own"), ("none", "own"), ("cispo", "tokens"), ("archer", "tokens")),
        *(("clip-cov", "selections"), ("kl-cov", "selections"), ("stare", "scales"), ("psr", "scales")),
        *(("gspo", "responses"), ("vespo", "responses")),
    ],
)
def test_families(preset, family):
    assert family_of(PRESETS[preset]) == family


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# Weights of a token that is its response, with π_old = 0.04, a clip range of 0.8 to 1.28, and dual clip 10.
WEIGHTS = {
    "cispo": lambda r, up: min(r, 1.28),
    "sapo": lambda r, up: 4 * r * sigmoid(x := (1.0 if up else 1.05) * (r - 1)) * sigmoid(-x),
    "dppo-tv": lambda r, up: 0.0 if up and PROBE * (r - 1) > 0.15 else r,
    "wapo": lambda r, up: r if up and r <= 10 else 0.0,
    "archer, low": lambda r, up: r if (r <= 1.2 if up else 0.8 <= r <= 10) else 0.0,
    "archer, high": lambda r, up: r if (r <= 1.5 if up else 0.5 <= r <= 10) else 0.0,
    "kl-cov": lambda r, up: r - (1 if up else -1) * ((r > 1) - (r < 1)),
    "psr": lambda r, up: r if up and r <= 1.28 else 0.0,
    "nsr": lambda r, up: 0.0 if up or r < 0.8 else r,
    "w-reinforce": lambda r, up: (0.1 * r if r <= 1.28 else 0.0) if up else (r if r >= 0.8 else 0.0),
    "stare": lambda r, up: (1.1 * r if r <= 1.28 else 0.0) if up else (r if 0.8 <= r <= 10 else 0.0),
    "ar": lambda r, up: (0.2 * PROBE + 0.8) * (r if (r <= 1.28 if up else 0.8 <= r <= 10) else 0.0),
    "gspo": lambda r, up: r if (r <= 1.28 if up else r >= 0.8) else 0.0,
    "gmpo": lambda r, up: r if (math.log(r) <= 0.4 if up else math.log(r) >= -0.4) else 0.0,
    "vespo": lambda r, up: r**2 * math.exp(3 * (1 - r)) if up else r**3 * math.exp(2 * (1 - r)),
}


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_drawn_weights_are_closed_forms(family):
    curves = family_data(family)
    drawn = {name.partition(", ")[0] for name in curves} - {"ratio"}
    assert drawn == {name for name, table in PRESETS.items() if family_of(table) == family}
    ratios = curves["ratio"]
    assert (ratios[0], ratios[60], ratios[-1]) == (0.05, 1, 20)
    for name in curves.keys() & WEIGHTS.keys():
        for sign, up in (("Â > 0", True), ("Â < 0", False)):
            expected = [WEIGHTS[name](r, up) for r in ratios]
            assert curves[name][sign] == pytest.approx(expected, rel=1e-4, abs=1e-6), (name, sign)


def test_selected_tokens_have_no_gradient():
    """clip-cov draws the token where J_PPO would move it and its covariance lies in (1, 5)."""
    curves = family_data("selections")
    for r, up, down in zip(curves["ratio"], curves["clip-cov"]["Â > 0"], curves["clip-cov"]["Â < 0"], strict=True):
        if 0.8 <= r <= 1.28:
            assert up == down == 0
    assert max(curves["clip-cov"]["Â > 0"]) > 0  # where its covariance is below 1


def test_what_is_mixed_on_the_page_is_that_table():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    config = HTPOConfig(output_dir="unused", use_cpu=True, bf16=False, **yaml.safe_load(text))
    expected = {"high": Named("cispo"), "low": Detach(1.0)}
    assert config.table.rows == tuple(expected[group.rpartition("_")[2]] for group in GROUPS)
    assert config.advantage == "w-reinforce"
    assert config.advantage in ESTIMATORS
