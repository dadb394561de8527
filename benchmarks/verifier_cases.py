"""The part `cases` of `benchmarks.verifier`: who judges rightly, by case and by the way in which a model ends."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import math_verify

from htpo_trl.verifier import Verdict, Verifier, VerifierConfig
from htpo_trl.verifier.golds import gold_text
from tests.golds import WRAPPINGS, perturbed
from tests.wrappings import wrappings


VERDICTS = Path(__file__).parents[1] / "tests" / "data" / "verdicts"
_EXAMPLES = 3  # of each wrapping, on which the two differ


def cases(data: dict[str, list[str]]) -> dict[str, Any]:
    """
    Ours and math-verify's verdicts on the cases of `tests/data/verdicts`; on every gold in every wrapping, which is
    right; and on every gold with its first digit changed, in the wrappings by turns, which is wrong.
    """
    result: dict[str, Any] = {"files": {}, "golds": {}, "changed golds": {}, "differences": []}
    with Verifier(VerifierConfig(workers=2, deadline=30.0)) as verifier:
        for path in sorted(VERDICTS.glob("*.jsonl")):
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            triples = [(gold_text(row["gold"]), row["completion"], row["right"]) for row in rows]
            result["files"][path.stem], differences = _judged(verifier, triples)
            result["differences"] += [{"file": path.stem, **each} for each in differences]
            print(path.stem, result["files"][path.stem], flush=True)
        for name, golds in data.items():
            wrapped = {gold: [wrapping % gold for wrapping in WRAPPINGS] + wrappings(gold) for gold in golds}
            changed = [wrappings(perturbed(gold)) for gold in golds]
            for kind, triples in (
                ("golds", [(gold, text, True) for gold in golds for text in wrapped[gold]]),
                (
                    "changed golds",
                    [(gold, t[i % len(t)], False) for i, (gold, t) in enumerate(zip(golds, changed, strict=True))],
                ),
            ):
                result[kind][name], differences = _judged(verifier, triples)
                seen: Counter[str] = Counter()
                for each in differences:
                    wrapping = each["completion"].replace(each["gold"], "%s")
                    seen[wrapping] += 1
                    if seen[wrapping] <= _EXAMPLES:
                        result["differences"].append({"benchmark": name, "kind": kind, **each})
                print(name, kind, result[kind][name], flush=True)
    return result


def _judged(verifier: Verifier, triples: list[tuple[str, str, bool]]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Of golds, completions and whether these are right: counts, and where the two differ."""
    ours = []
    for start in range(0, len(triples), 1000):
        part = triples[start : start + 1000]
        judgements = verifier.judge([text for _, text, _ in part], [gold for gold, _, _ in part])
        ours += [verdict is Verdict.CORRECT for verdict, _ in judgements]
    theirs = [_theirs(gold, text) for gold, text, _ in triples]
    found = [*zip(triples, ours, theirs, strict=True)]
    differences = [
        {"gold": gold, "completion": text, "right": right, "ours": us, "theirs": them}
        for (gold, text, right), us, them in found
        if us != them
    ]
    counts = {
        "answers": len(found),
        "ours": sum(us == right for (_, _, right), us, _ in found),
        "math-verify": sum(them == right for (_, _, right), _, them in found),
    }
    return counts, differences


def _theirs(gold: str, completion: str) -> bool:
    """math-verify with its defaults; its own time limit makes an answer wrong."""
    if "$" not in gold and "\\boxed" not in gold:
        gold = f"${gold}$"
    return math_verify.verify(math_verify.parse(gold), math_verify.parse(completion))


def table_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Kind and set of answers, how many, and how many of them each judges rightly."""
    names = {"files": "cases: ", "golds": "golds in all wrappings: ", "changed golds": "changed golds: "}
    return [
        [f"{label}{name}", counts["answers"], counts["ours"], counts["math-verify"]]
        for kind, label in names.items()
        for name, counts in result[kind].items()
    ]
