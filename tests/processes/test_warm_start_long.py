"""The script that found the warm start of `laptop-long`: it goes on where it was killed, and follows the record."""

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

from htpo_trl.scripts.arguments import WARM_STARTS


PATH = Path(__file__).parents[2] / "scripts" / "warm_start_long.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("warm_start_long", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "warm_start_long", module)  # which dataclasses look up
    spec.loader.exec_module(module)
    return module


def test_goes_on_and_follows_the_record(script, tmp_path, monkeypatch):
    record = json.loads((WARM_STARTS / "laptop-long-warm-start" / "warm_start.json").read_text())
    recipe = script.RECIPES["aim-then-search"]
    short = script.Recipe((script.Phase(script.AIMER, 12),), recipe.learning_rate)  # within the warm-up of the rate
    monkeypatch.setitem(script.RECIPES, "short", short)
    monkeypatch.setattr(script, "EVERY", 5)
    monkeypatch.setattr(script, "first_attempts", lambda model, tokenizer: 0.5)
    packed, seen = script.packed, []

    def killed_once(*arguments):
        seen.append(arguments)
        if len(seen) == 9:
            raise KeyboardInterrupt
        return packed(*arguments)

    monkeypatch.setattr(script, "packed", killed_once)
    with pytest.raises(KeyboardInterrupt):
        script.run("short", record["seed"], tmp_path)
    script.collect(tmp_path, tmp_path / "halfway.json")
    (half,) = json.loads((tmp_path / "halfway.json").read_text())["runs"]
    assert half["steps"] == 5
    found = script.run("short", record["seed"], tmp_path)
    assert len(seen) == 9 + 7  # from step 6 on
    assert found["steps"] == 12
    assert half["losses"] == found["losses"][:5]
    assert found["losses"] == pytest.approx(record["losses"][:12], abs=0.02)  # in bfloat16; another seed: 0.1
    assert script.run("short", record["seed"], tmp_path) == found
    assert len(seen) == 9 + 7


def test_rows_hold_whole_searches(script):
    """Told apart by their positions; prompts are not learned."""
    tokenizer = script.build_tokenizer()
    phase = script.Phase(script.SLOPPY, 1, rows=4)
    batch = script.packed(tokenizer, script.problems("train", 4), phase, random.Random(0))
    assert {tensor.shape for tensor in batch.values()} == {(4, script.ROW_LENGTH)}
    for ids, labels, positions in zip(*batch.values(), strict=True):
        text = [token.replace("<eos>", "$") for token in tokenizer.convert_ids_to_tokens(ids.tolist())]
        starts = [i for i, position in enumerate(positions.tolist()) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            search = "".join(text[start:end])
            if search.startswith("<pad>"):
                assert (labels[start:] == -100).all()
                continue
            prompt, completion = search.split(":")
            assert completion.endswith("!$")
            assert labels[start : start + len(prompt) + 1].tolist() == [-100] * (len(prompt) + 1)
            assert labels[start + len(prompt) + 1 : end].equal(ids[start + len(prompt) + 1 : end])
            assert positions[start:end].tolist() == list(range(end - start))
