"""Golds are tried before a run: what is accepted, what is refused and how it is said, what is kept."""

import os
import re
from functools import partial

import pytest
from datasets import Dataset

from htpo_trl.data import load, trial
from htpo_trl.data.names import golds_of_file
from htpo_trl.data.prompts import PromptArguments
from htpo_trl.data.trial import try_golds
from htpo_trl.utils import UsageError
from htpo_trl.verifier import Verdict, Verifier, VerifierConfig

from ..hub_files import write_jsonl


CONFIG = VerifierConfig(workers=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_server(monkeypatch):
    """No process may start: what is tried here is decided without one."""
    monkeypatch.setattr("htpo_trl.verifier.client.ServerProcess", lambda *_: pytest.fail("a process was started"))


def tried(tmp_path, *golds, suffix=".jsonl", **options):
    path = tmp_path / f"own{suffix}"
    rows = [{"problem": f"P{i}", "solution": gold} for i, gold in enumerate(golds)]
    if suffix == ".jsonl":
        write_jsonl(path, *rows)
    else:
        Dataset.from_list(rows).to_csv(path) if suffix == ".csv" else Dataset.from_list(rows).to_parquet(path)
    places = partial(golds_of_file, str(path), PromptArguments())
    return try_golds(path.name, load(path), CONFIG, places=places, **options)


def test_what_needs_no_algebra_is_tried_without_a_process(tmp_path, no_server):
    told = tried(tmp_path, *map(str, range(500)), "\\frac{1}{2}", "#### 18", "so \\boxed{7}", [4, 5], 3.25)
    assert told == "golds of own.jsonl: 505 of 505 tried without algebra: all accepted as answers to themselves."


def test_a_value_that_is_no_answer_is_named_by_its_own_line(tmp_path, no_server):
    """Of another task are the rows before it: they are not what is refused."""
    path = tmp_path / "own.jsonl"
    write_jsonl(path, *({"prompt": f"P{i}", "solution": gold} for i, gold in enumerate((None, None, {"a": 1}))))
    with pytest.raises(UsageError, match=r"own\.jsonl, line 3, a value that is no answer"):
        try_golds(path.name, load(path), CONFIG, places=partial(golds_of_file, str(path), PromptArguments()))


@pytest.mark.parametrize(
    "gold",
    ["We add and get 18.", "Natalia sold 48/2 = 24 clips.\nIn May she sold 24.", "He runs 18", "9" * 3000],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_tenth_of_golds_that_nothing_matches_is_refused_with_their_places(tmp_path, no_server, gold, suffix):
    place = {".jsonl": "line 5", ".csv": "line 6", ".parquet": "row 5"}[suffix]
    if suffix == ".csv" and "\n" in gold:
        place = "line 6"
    with pytest.raises(UsageError) as error:
        tried(tmp_path, *"1234", gold, *"6789", suffix=suffix)
    text = str(error.value)
    assert text.startswith(
        "own" + suffix + ": 11% of 9 golds are not accepted as answers to themselves, so that no answer"
    )
    assert f"own{suffix}, {place}, {gold.rstrip('.')[:20]!r}"[:-1] in text
    assert "go on with --allow_unmatched_golds true." in text


def test_with_the_flag_or_where_they_are_few_it_is_a_warning(tmp_path, no_server, caplog):
    assert tried(tmp_path, "1", "The sum is 3 x", allow_unmatched=True).endswith(": 50% not accepted.")
    assert "own.jsonl, line 2, 'The sum is 3 x'" in caplog.text
    caplog.clear()
    assert tried(tmp_path, *map(str, range(99)), "The sum is 3 x").endswith(": 1% not accepted.")
    assert re.search(
        r"own\.jsonl: 1% of 100 golds are .*own\.jsonl, line 100, 'The sum is 3 x'\. Write bare", caplog.text
    )


def test_no_more_than_three_examples(tmp_path, no_server):
    with pytest.raises(UsageError) as error:
        tried(tmp_path, *(f"He then got {i}" for i in range(1, 200)))
    assert re.findall(r"line (\d+)", str(error.value)) == ["1", "2", "3"]


@pytest.mark.parametrize("value", [None, "", " ", float("nan")])
def test_rows_of_other_tasks_have_no_gold(no_server, value):
    mixed = Dataset.from_dict(
        {"prompt": ["a", "b", "c"], "solution": [value, *([3.5] * 2 if value != value else "12")]}
    )
    assert "2 of 2 tried" in try_golds("mixed", mixed, CONFIG)
    with pytest.raises(UsageError, match=r"mixed: 'solution' is empty in every row\. The"):
        try_golds("mixed", mixed.select([0]), CONFIG)


def test_what_has_no_golds_is_not_tried(no_server):
    assert try_golds("games", Dataset.from_dict({"prompt": ["a"]}), CONFIG) == ""
    assert try_golds("stream", iter([{"solution": "We two get 3"}]), CONFIG) == ""


def surds(n):
    return [f"{i}\\sqrt{{{i + 1}}}+\\sin({i})x^y" for i in range(10, 10 + n)]


class TestAlgebra:
    """With golds that are not decided without algebra, whatever the comparison decides in other versions."""

    @pytest.fixture(autouse=True)
    def undecided(self, monkeypatch):
        monkeypatch.setattr(Verifier, "decide", lambda self, answer, gold: None)
        self.asked = []
        monkeypatch.setattr(Verifier, "judge_answers", lambda _, answers, golds: self.judge(answers, golds))

    def judge(self, answers, golds):
        self.asked.append([*golds])
        assert answers == golds
        return [Verdict.WRONG if "?" in gold else Verdict.CORRECT for gold in golds]

    def test_a_sample_is_tried_and_kept(self, cache):
        many = Dataset.from_dict({"solution": surds(3000)})
        told = (
            "golds of m: 0 of 3,000 tried without algebra, a sample of 500 of the other 3,000 by algebra: all accepted"
        )
        assert try_golds("m", many, CONFIG).startswith(told)
        assert len({*self.asked[0]}) == len(self.asked[0]) == 500
        assert {*self.asked[0]} <= {*many["solution"]}
        (file,) = (cache / "htpo_trl" / "golds").iterdir()
        assert try_golds("m", many, CONFIG).startswith(told)
        assert len(self.asked) == 1
        for damage in (b"", b"{}", b"[1]", b"[" * 100_000, b'["correct"]', b"\xff"):
            file.write_bytes(damage)
            assert try_golds("m", many, CONFIG).startswith(told)
        assert len(self.asked) == 7
        assert self.asked[1:] == self.asked[:1] * 6

    def test_a_cache_that_is_too_large_or_no_file_is_not_read(self, cache, monkeypatch):
        surd = Dataset.from_dict({"solution": surds(3)})
        try_golds("m", surd, CONFIG)
        (file,) = (cache / "htpo_trl" / "golds").iterdir()
        whole = file.read_bytes()
        file.write_bytes(whole + b" " * 100_000)
        try_golds("m", surd, CONFIG)
        assert len(self.asked) == 2
        file.unlink()
        os.mkfifo(file)  # nobody writes: to open it would wait for ever
        try_golds("m", surd, CONFIG)
        assert len(self.asked) == 3

    def test_the_share_is_that_of_the_sample(self):
        golds = surds(2000) + [f"{gold}?" for gold in surds(2000)]
        with pytest.raises(UsageError) as error:
            try_golds("m", Dataset.from_dict({"solution": golds}), CONFIG)
        assert 40 < int(re.match(r"m: (\d+)% of 4,000", str(error.value))[1]) < 60

    def test_a_cache_that_cannot_be_written(self, cache):
        cache.write_text("no folder")
        assert try_golds("m", Dataset.from_dict({"solution": surds(3)}), CONFIG).endswith("to themselves.")

    def test_another_version_of_the_verifier_tries_again(self, monkeypatch):
        for versions in ("1", "2", "2"):
            monkeypatch.setattr(trial, "version", lambda name, now=versions: now)
            try_golds("m", Dataset.from_dict({"solution": surds(3)}), CONFIG)
        assert len(self.asked) == 2
