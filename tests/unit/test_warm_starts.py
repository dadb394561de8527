"""The warm starts that the package brings: what is in them, and how their names are found."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from htpo_trl.data.countdown import SYMBOLS
from htpo_trl.evaluation import pass_at_k
from htpo_trl.scripts.arguments import RECIPES, WARM_STARTS, find_model, load_recipe, names
from htpo_trl.utils import UsageError

from ..markdown import ROOT


PACKAGED = sorted(path.name for path in WARM_STARTS.iterdir())


def told(name):
    return json.loads((WARM_STARTS / name / "warm_start.json").read_text())


@pytest.mark.parametrize("name", PACKAGED)
def test_is_what_its_record_says(name):
    directory = WARM_STARTS / name
    files = {path.name for path in directory.iterdir()}
    assert files == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        "warm_start.json",
    }
    record = told(name)
    (digest,) = record["sha256"].values()
    assert hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest() == digest
    weights = load_file(directory / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert all(tensor.float().isfinite().all() for tensor in weights.values())
    # The uniform guess among 22 tokens has ln 22 = 3.09; one that knows three numbers has less on four.
    assert record["losses"][0] > (2 if record.get("begins with") in PACKAGED else 3)
    assert record["losses"][-1] < record["losses"][0] - 1
    assert record["validation"]["metrics"]["mean@16"]["mean"] >= 0.1


@pytest.mark.parametrize("name", PACKAGED)
def test_loads_in_float32_with_a_tokenizer_of_its_own(name):
    model = AutoModelForCausalLM.from_pretrained(WARM_STARTS / name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(WARM_STARTS / name)
    assert tokenizer.decode(tokenizer(SYMBOLS).input_ids) == SYMBOLS
    assert len(tokenizer) == model.config.vocab_size == 22
    assert tokenizer.pad_token_id == model.config.pad_token_id


def test_recipes_begin_with_what_is_there():
    named = {load_recipe(recipe)[1]["model_name_or_path"] for recipe in names(RECIPES)}
    assert {*PACKAGED} <= named
    assert load_recipe("laptop")[1]["model_name_or_path"] == "laptop-warm-start"


class TestNames:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_a_name_is_the_packages_directory(self):
        assert Path(find_model("laptop-warm-start")) == WARM_STARTS / "laptop-warm-start"

    def test_a_local_directory_comes_first(self, tmp_path):
        (tmp_path / "laptop-warm-start").mkdir()
        assert find_model("laptop-warm-start") == "laptop-warm-start"

    def test_a_local_file_does_not(self, tmp_path):
        (tmp_path / "laptop-warm-start").touch()
        assert Path(find_model("laptop-warm-start")) == WARM_STARTS / "laptop-warm-start"

    @pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-0.6B", "me/laptop-warm-start", "./laptop-warm-start", ""])
    def test_other_names_are_left_alone(self, name):
        assert find_model(name) == name

    @pytest.mark.parametrize("name", ["laptop-warmstart", "laptop_warm_start", "warm-start"])
    def test_a_slip_is_told(self, name):
        with pytest.raises(UsageError, match=f"^Did you mean 'laptop-warm-start'.*model='{name}' is neither a direc"):
            find_model(name, "model")


def test_docs_show_what_the_demo_gave():
    kept = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    assert kept["config"]["seed"] == 0
    text = (ROOT / "docs" / "getting_started.md").read_text()
    shown = re.findall(
        r"^\| countdown \| (mean@16|pass@\d+) *\| +142 \| (\S+) \| +(\S+) \| +(\S+) \|", text, re.MULTILINE
    )
    assert [metric for metric, *_ in shown] == ["mean@16", "pass@2", "pass@4", "pass@8", "pass@16"]
    for metric, *values in shown:
        k = 1 if metric == "mean@16" else int(metric[5:])
        first, second = (np.mean(pass_at_k(16, kept[f"correct_{when}"], k)) for when in ("before", "after"))
        assert [*map(float, values)] == pytest.approx([first, second, second - first], abs=6e-4)
