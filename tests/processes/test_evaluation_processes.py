"""Several processes share an evaluation: the files are those of one, whoever draws, is killed or goes on."""

import json
import os
import re
import signal

import pytest

from htpo_trl.evaluation import evaluate
from htpo_trl.scripts import evaluate as script

from ..evaluation_run import PROBLEMS, SAMPLING, last_digit, main, rows_of, summary_of
from ..forks import Forks
from ..other_process import holder
from ..tiny import tiny_model


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    """What one process writes, beside the model."""
    path = tmp_path_factory.mktemp("whole")
    model = tiny_model()
    model.save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    evaluate(str(path / "model"), {"digits": PROBLEMS}, path / "digits", SAMPLING, last_digit, disable_tqdm=True)
    return path


def samples(directory):
    return (directory / "digits.jsonl").read_bytes()


def drawn(directory, rank):
    return (directory / f"drawn-{rank}.txt").read_text().split()


def test_two_processes_write_what_one_does(whole, tmp_path):
    output = tmp_path / "two"
    forks = Forks(main, whole, output, output=tmp_path / "two.txt", n_processes=2)
    forks.finish()
    assert samples(output) == samples(whole / "digits")
    assert summary_of(output) == summary_of(whole / "digits")
    # 60 samples are 8 batches of 8, the last of 4: four of each process, and each judges its own.
    parts = [drawn(output, rank) for rank in (0, 1)]
    assert list(map(len, parts)) == [32, 28]
    assert len({*parts[0], *parts[1]}) == 60
    for rank, part in enumerate(parts):
        n, found = json.loads((output / f"judged-{rank}.json").read_text())
        assert n == len(part)
        assert found["digits"] == summary_of(output)
    text = forks.output.read_text()
    assert text.count("| benchmark |") == 1  # of the first process alone, as is the progress
    assert len(re.findall(r"60/60", text)) >= 1
    assert [path.name for path in output.glob("*.lock")] == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_costs_a_round_and_another_number_goes_on(whole, tmp_path, rank):
    output = tmp_path / "killed"
    forks = Forks(main, whole, output, 30, rank, output=tmp_path / "killed.txt", n_processes=2)
    assert forks.join()[rank] == -signal.SIGKILL
    kept = samples(output)
    n = len(rows_of(kept))
    assert 0 < n < 60
    assert n % 16 == 0  # whole rounds of two batches of 8
    assert samples(whole / "digits").startswith(kept)
    before = len(drawn(output, 0)) + len(drawn(output, 1))

    # One process goes on where two were, or three, of which two have nothing to do in the last round.
    number = 3 if rank else 1
    Forks(main, whole, output, output=tmp_path / "resumed.txt", n_processes=number).finish()
    assert samples(output) == samples(whole / "digits")
    assert summary_of(output) == summary_of(whole / "digits")
    files = [f"drawn-{i}.txt" for i in range(3)] if rank else ["drawn-0.txt", "drawn-1.txt", "drawn.txt"]
    assert sum(len((output / file).read_text().split()) for file in files) == before + 60 - n


def run(place, benchmarks, n_samples=2):
    os.chdir(place)
    rank = int(os.environ["RANK"])
    options = ["--model", "model", "--no_chat", "--judge", "judge.even_digits", "--output_dir", "evaluated"]
    lengths = ["--num_samples", str(n_samples), "--max_new_tokens", "4"]
    script.main([*options, *lengths, "--benchmarks", benchmarks[rank]])


@pytest.fixture
def sets(place):
    """Files of the same name and number of problems, in folders, as two machines have them."""
    for folder, first in (("here", 0), ("there", 1)):
        (place / folder).mkdir(exist_ok=True)
        rows = [{"problem": str(first + i), "solution": "1"} for i in range(4)]
        (place / folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


@pytest.mark.parametrize(
    ("benchmarks", "words"),
    [
        (["here/sums.jsonl", "absent.jsonl"], r"^htpo eval, rank 1: There is no file 'absent\.jsonl'"),
        (
            ["here/sums.jsonl", "there/sums.jsonl"],
            r"htpo eval, rank 1: sums: this process would evaluate something else than rank 0: problems='\w+' there",
        ),
    ],
)
def test_an_error_of_the_second_alone_is_told_with_its_rank(sets, tmp_path, benchmarks, words):
    forks = Forks(run, sets, benchmarks, output=tmp_path / "output.txt", n_processes=2)
    assert forks.join()[1] == 2
    output = forks.output.read_text()
    assert re.search(words, output, re.MULTILINE), output
    assert "Traceback" not in output
    assert output.count("htpo eval, rank") == 1
    assert "evaluated/_in_use.lock" not in map(str, sets.rglob("*.lock"))


def test_the_run_holds_the_directory(sets, tmp_path):
    other = holder(sets / "evaluated", "another evaluation")
    try:
        forks = Forks(run, sets, ["here/sums.jsonl"] * 2, output=tmp_path / "output.txt", n_processes=2)
        assert forks.join()[0] == 2
    finally:
        other.end()
    output = forks.output.read_text()
    assert output.count("is in use by another evaluation") == output.count("htpo eval, rank 0:") == 1
    Forks(run, sets, ["here/sums.jsonl"] * 2, output=tmp_path / "output.txt", n_processes=2).finish()
    assert len(rows_of((sets / "evaluated" / "sums.jsonl").read_bytes())) == 8
