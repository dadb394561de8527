import json

import numpy as np
import pytest

from htpo_trl.evaluation.results import ResultsError, compare, comparison_table
from htpo_trl.evaluation.statistics import majority_at_k, mean_with_interval, pass_at_k, sign_flip_test


N = 4


def write(path, problems, n=N):
    """A result file: problem -> answers of its samples; "right" is correct, "no gold" unparsable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"benchmark": path.stem, "n_problems": len(problems), "sampling": {"num_samples": n}}
    path.with_suffix(".json").write_text(json.dumps({"settings": settings}))
    verdicts = {"right": "correct", "no gold": "unparsable_gold", None: "unparsable_answer"}
    with path.open("w") as file:
        for problem, answers in problems.items():
            for sample, answer in enumerate(answers):
                row = {"problem": problem, "sample": sample, "completion": "", "tokens": 1, "truncated": False}
                row |= {"verdict": verdicts.get(answer, "wrong"), "answer": answer}
                file.write(json.dumps(row) + "\n")
    return path


def random_answers(rng, accuracy, problems=20, n=N):
    wrong = (1 - accuracy) / 3
    return {
        f"p{i}": rng.choice(["right", "a", "b", None], size=n, p=[accuracy, wrong, wrong, wrong]).tolist()
        for i in range(problems)
    }


def counts(answers):
    return answers.count("right"), [answers.count(a) for a in ("a", "b") if a in answers]


def test_differences_are_paired_by_problem(tmp_path):
    rng = np.random.default_rng(0)
    before, after = random_answers(rng, 0.2), random_answers(rng, 0.6)
    before["gold"] = after["gold"] = ["no gold"] * N
    first = write(tmp_path / "first" / "sums.jsonl", before)
    # The order of the problems is no part of the comparison.
    second = write(tmp_path / "second" / "sums.jsonl", dict(reversed(after.items())))
    records = {record["metric"]: record for record in compare(first, second)}
    assert list(records) == ["mean@4", "pass@2", "pass@4", "maj@2", "maj@4"]

    del before["gold"], after["gold"]
    values = {"mean@4": lambda c, rivals: c / N}
    for k in (2, 4):
        values[f"pass@{k}"] = lambda c, rivals, k=k: pass_at_k(N, [c], k)[0]
        values[f"maj@{k}"] = lambda c, rivals, k=k: majority_at_k(N, c, rivals, k)
    table = [
        [[value(*counts(answers[problem])) for problem in before] for value in values.values()]
        for answers in (before, after)
    ]
    p = dict(zip(values, sign_flip_test(np.subtract(table[1], table[0]).T), strict=True))
    for metric, one, two in zip(values, *map(np.array, table), strict=True):
        record = records[metric]
        assert record["problems"] == 20
        assert (record["first"], record["second"]) == pytest.approx((one.mean(), two.mean()))
        interval = tuple(record[name] for name in ("difference", "low", "high"))
        assert interval == pytest.approx(mean_with_interval(two - one))
        assert record["p"] == p[metric]
    assert records["mean@4"]["difference"] > 0.2
    assert records["mean@4"]["p"] < 0.01
    # Both directories hold this one benchmark.
    assert compare(first.parent, second.parent) == list(records.values())
    swapped = compare(second, first)[0]
    assert swapped["difference"] == pytest.approx(-records["mean@4"]["difference"])


def test_pairing_finds_what_lies_between_problems_of_very_different_difficulty(tmp_path):
    rng = np.random.default_rng(0)
    before = {f"p{i}": ["right"] * (i % 8) + ["a"] * (8 - i % 8) for i in range(24)}
    after = {problem: ["right", *answers[:-1]] for problem, answers in before.items()}  # one more right in each
    record = compare(write(tmp_path / "a.jsonl", before, 8), write(tmp_path / "b.jsonl", after, 8))[0]
    assert (record["low"], record["high"]) == (0.125, 0.125)
    assert record["p"] == 1e-4
    # With the partners mixed up, the same two means say nothing.
    shuffled = dict(zip(after, rng.permutation(list(after.values())).tolist(), strict=True))
    mixed = compare(tmp_path / "a.jsonl", write(tmp_path / "c.jsonl", shuffled, 8))[0]
    assert mixed["difference"] == pytest.approx(0.125)
    assert mixed["low"] < 0 < mixed["high"]
    assert mixed["p"] > 0.05


def test_a_problem_that_one_of_them_could_not_judge_is_left_out(tmp_path):
    before = {"p1": ["no gold"] * N, "p2": ["a"] * N, "p3": ["right"] * N, "p4": ["a"] * N}
    after = {"p4": ["no gold"] * N, "p3": ["right"] * N, "p2": ["right", "a", "a", "a"], "p1": ["right"] * N}
    record = compare(write(tmp_path / "a.jsonl", before), write(tmp_path / "b.jsonl", after), ks=[1])[0]
    expected = {"metric": "mean@4", "problems": 2, "first": 0.5, "second": 0.625, "difference": 0.125}
    assert {name: record[name] for name in expected} == expected


def test_different_numbers_of_samples(tmp_path):
    rng = np.random.default_rng(0)
    first = write(tmp_path / "a.jsonl", random_answers(rng, 0.2))
    second = write(tmp_path / "b.jsonl", random_answers(rng, 0.2, n=16), n=16)
    assert [r["metric"] for r in compare(first, second)] == ["mean", "pass@2", "pass@4", "maj@2", "maj@4"]
    with pytest.raises(ValueError, match=r"ks=\[8\] must lie in 1..num_samples=4"):
        compare(first, second, ks=[8])


def test_what_cannot_be_paired_is_refused(tmp_path):
    answers = random_answers(np.random.default_rng(0), 0.5, problems=5)
    first = write(tmp_path / "first" / "sums.jsonl", answers)
    fewer = {problem: answers[problem] for problem in list(answers)[:3]} | {"new": ["right"] * N}
    second = write(tmp_path / "second" / "sums.jsonl", fewer)
    with pytest.raises(ResultsError, match="2 are in the first, 1 in the second, 3 in both"):
        compare(first, second)
    with pytest.raises(ResultsError, match="one is a directory"):
        compare(first, second.parent)
    write(tmp_path / "second" / "products.jsonl", fewer)
    with pytest.raises(ResultsError, match=r"\['sums'\].*\['products', 'sums'\]"):
        compare(first.parent, second.parent)
    first.write_text(first.read_text().rpartition('{"problem"')[0])
    with pytest.raises(ResultsError, match="holds 19 of 20 samples"):
        compare(first, first)


def test_table(tmp_path):
    rng = np.random.default_rng(0)
    first = write(tmp_path / "a.jsonl", random_answers(rng, 0.2))
    second = write(tmp_path / "b.jsonl", random_answers(rng, 0.6))
    records = compare(first, second)
    lines = comparison_table(records).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    r = records[0]
    assert cells[:3] == ["a", "mean@4", "20"]
    assert cells[5:] == [f"{r['difference']:+.3f}", f"{r['low']:+.3f} to {r['high']:+.3f}", f"{r['p']:.4f}"]
