"""The verifier against plain math-verify and TRL's `accuracy_reward`: cases, throughput, hostile answers, golds.

    python -m benchmarks.verifier DATA [--parts golds cases wrong throughput hostile] [--output FILE]

DATA is a folder with the benchmarks' files (aime24.jsonl, aime25.jsonl, math500.jsonl, minerva_math.jsonl,
olympiadbench.jsonl, gsm8k_test.jsonl, with the columns of the Hub). About 20 minutes on two cores. Each part that is
run replaces its entry in the results; `docs/verifier.md` says what they mean.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import math_verify
import psutil

from htpo_trl.verifier import Verdict, Verifier, VerifierConfig
from htpo_trl.verifier.exact import compare_plainly
from htpo_trl.verifier.forms import bare_answer, bare_gold
from htpo_trl.verifier.reading import read_gold
from tests.golds import FILES, WRAPPINGS, golds_of, perturbed
from tests.hostile import FOR_WORKERS, hanging_answers, hostile_answers

from .verifier_cases import cases, table_rows


RESULTS = Path(__file__).parent / "results" / "verifier.json"


def golds(data: dict[str, list[str]]) -> dict:
    """Is every gold accepted as its own answer, in the usual wrappings, and refused with another first digit?"""
    result = {}
    with Verifier(VerifierConfig(workers=2, deadline=30.0)) as verifier:
        for name, solutions in data.items():
            refused = set()
            for wrapping in WRAPPINGS:
                judgements = verifier.judge([wrapping % gold for gold in solutions], solutions)
                refused |= {g for g, (v, _) in zip(solutions, judgements, strict=True) if v is not Verdict.CORRECT}
            verdicts = verifier.judge_answers([perturbed(gold) for gold in solutions], solutions)
            result[name] = {
                "golds": len(solutions),
                "accepted": sum(gold not in refused for gold in solutions),
                "refused": sorted(refused),
                "perturbed": Counter(verdicts),
            }
            print(name, {k: v for k, v in result[name].items() if k != "refused"}, flush=True)
    return result


def kinds(n: int) -> dict[str, list[tuple[str, str]]]:
    """Answer kind → n pairs of gold and answer; no two answers are the same."""
    surds = [i for i in range(2, 20 * n) if round(i**0.5) ** 2 != i][:n]
    return {
        "integers, right": [(str(i), str(i)) for i in range(n)],
        "integers, wrong": [(str(i), str(i + 1)) for i in range(n)],
        "decimals, right": [(f"{i}.25", f"{i}.250") for i in range(n)],
        "fractions, right": [(f"\\frac{{{i}}}{{7}}", f"{2 * i}/14") for i in range(1, n + 1)],
        "fractions, wrong": [(f"\\frac{{{i}}}{{7}}", f"\\frac{{{i}}}{{8}}") for i in range(1, n + 1)],
        "surds, same text": [(f"\\sqrt{{{i}}}", f"\\sqrt{{{i}}}") for i in surds],
        "surds, right": [(f"2\\sqrt{{{i}}}", f"\\sqrt{{{4 * i}}}") for i in surds],
        "surds, wrong": [(f"2\\sqrt{{{i}}}", f"\\sqrt{{{4 * i + 1}}}") for i in surds],
        "polynomials, right": [(f"x^2+{i}x", f"x(x+{i})") for i in range(2, n + 2)],
        "pairs, right": [(f"({i},{i + 1})", f"\\left({i}, {i + 1}\\right)") for i in range(n)],
        "no answer": [(str(i), "") for i in range(n)],
    }


def throughput(_) -> dict:
    """Answers a second in batches of 64: ours, math-verify's in this process, and TRL's `accuracy_reward`'s."""
    from trl.rewards import accuracy_reward

    def ours(golds: list[str], completions: list[str]) -> None:
        verifier.judge(completions, golds)

    def math_verify_here(golds: list[str], completions: list[str]) -> None:
        for gold, completion in zip(golds, completions, strict=True):
            math_verify.verify(math_verify.parse(f"${gold}$"), math_verify.parse(completion))

    def trl(golds: list[str], completions: list[str]) -> None:
        accuracy_reward([[{"content": text}] for text in completions], [f"${gold}$" for gold in golds])

    methods: dict[str, Callable] = {"htpo_trl": ours, "math_verify": math_verify_here, "trl": trl}
    result = {}
    repeats, n = 5, 128
    with Verifier(VerifierConfig(workers=2)) as verifier:
        for kind, pairs in kinds(repeats * n).items():
            seconds: dict[str, list[float]] = {name: [] for name in methods}
            for repeat in range(repeats):
                part = pairs[repeat * n : (repeat + 1) * n]
                completions = [f"The answer is $\\boxed{{{a}}}$." if a else "I do not know." for _, a in part]
                for name, method in methods.items():
                    start = time.perf_counter()
                    for i in range(0, n, 64):
                        method([gold for gold, _ in part[i : i + 64]], completions[i : i + 64])
                    seconds[name].append(time.perf_counter() - start)
            rates = {name: n / statistics.median(values) for name, values in seconds.items()}
            ratios = {
                f"htpo_trl / {name}": [b / a for a, b in zip(seconds["htpo_trl"], seconds[name], strict=True)]
                for name in ("math_verify", "trl")
            }
            result[kind] = {"per_second": rates, "ratios": ratios}
            medians = {name: round(statistics.median(values), 1) for name, values in ratios.items()}
            print(kind, {name: round(rate) for name, rate in rates.items()}, medians, flush=True)
    return result


def wrong(data: dict[str, list[str]]) -> dict:
    """Wrong answers: another problem's of the set, and near misses, the gold with its first digit changed."""
    result: dict = {}
    rng = random.Random(0)
    with Verifier(VerifierConfig(workers=2)) as verifier:
        verifier.judge_answers(["x"], [FOR_WORKERS])
        for name in ("math500", "minerva", "olympiadbench"):
            solutions = data[name]
            for kind, make in (("of another problem", lambda _, __: rng.choice(solutions)), ("near misses", _near)):  # noqa: B023
                pairs = dict.fromkeys((gold, make(gold, i)) for gold in solutions for i in range(7))
                bare = [(bare_gold(gold), bare_answer(answer)) for gold, answer in pairs if gold != answer]
                decided = {pair: compare_plainly(*pair) for pair in bare}
                here = [pair for pair, verdict in decided.items() if verdict is not None]
                differences = []
                for start in range(0, len(here), 1000):
                    chunk = here[start : start + 1000]
                    for pair, verdict in zip(chunk, verifier._ask(chunk), strict=True):
                        if decided[pair] != (verdict is Verdict.CORRECT):
                            differences.append([*pair, decided[pair], verdict])
                sample = rng.sample([pair for pair in pairs if pair[0] != pair[1]], min(200, len(bare)))
                result[f"{name}, {kind}"] = {
                    "pairs": len(bare),
                    "decided": len(here) / len(bare),
                    "differences": differences,
                    **_against_math_verify(verifier, sample),
                }
                print(f"{name}, {kind}", result[f"{name}, {kind}"], flush=True)
            batch = []
            for gold in rng.sample(solutions, min(32, len(solutions))):  # 16 completions a problem, one of five right
                group = [gold] * 3 + [_near(gold, i) for i in range(6)] + rng.sample(solutions, 7)
                batch += [(gold, answer) for answer in rng.sample(group, 16)]
            result[f"{name}, a batch as in training"] = {"pairs": len(batch), **_against_math_verify(verifier, batch)}
            print(f"{name}, a batch as in training", result[f"{name}, a batch as in training"], flush=True)
    return result


def _near(gold: str, step: int) -> str:
    for _ in range(1 + step):
        gold = perturbed(gold)
    return gold


def _against_math_verify(verifier: Verifier, pairs: list[tuple[str, str]]) -> dict:
    golds, completions = [gold for gold, _ in pairs], [f"The answer is $\\boxed{{{answer}}}$." for _, answer in pairs]
    read_gold.cache_clear()
    start = time.perf_counter()
    verifier.judge(completions, golds)
    middle = time.perf_counter()
    for gold, completion in zip(golds, completions, strict=True):
        math_verify.verify(math_verify.parse(f"${gold}$"), math_verify.parse(completion))
    end = time.perf_counter()
    return {"per second": len(pairs) / (middle - start), "math-verify's": len(pairs) / (end - middle)}


def _memory(root: int) -> dict[str, float]:
    """MiB: of the verifier's processes, each page counted once (PSS), and of this process (RSS)."""
    here = psutil.Process(root)
    total = 0
    for process in here.children(recursive=True):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # just replaced
            continue
    return {"verifier": total / 2**20, "trainer": here.memory_info().rss / 2**20}


def _trl_in_child(completions: list[str], golds: list[str], connection) -> None:
    from trl.rewards import accuracy_reward

    logging.disable(logging.CRITICAL)
    for completion, gold in zip(completions, golds, strict=True):
        start = time.monotonic()
        accuracy_reward([[{"content": completion}]], [f"${gold}$"])
        connection.send(time.monotonic() - start)
    connection.close()


def hostile(_) -> dict:
    """Every hostile answer alone, with a second each; then ten batches of 64 with 16 of them, default limits."""
    config, second = VerifierConfig(), VerifierConfig(deadline=1.0)
    result: dict = {"config": asdict(config)}
    with tempfile.TemporaryDirectory() as folder, Verifier(second) as verifier:
        corpus = hostile_answers(f"{folder}/canary")
        verifier.judge_answers(["x"], [FOR_WORKERS])
        families, latest = {}, 0.0
        for family, answers in corpus.items():
            verdicts: Counter[str] = Counter()
            times = []
            for answer in answers:
                start = time.monotonic()
                verdicts[verifier.judge([answer], ["x+7"])[0].verdict] += 1
                times.append(time.monotonic() - start)
            latest = max(latest, *times)
            families[family] = {"answers": len(answers), "verdicts": verdicts, "slowest": max(times)}
            print(family, families[family], flush=True)
        result |= {"families": families, "overrun": latest - second.deadline, "canaries": len(os.listdir(folder))}
    hanging = hanging_answers(16)
    batch = [hanging[i // 4] if i % 4 == 0 else f"\\boxed{{x+{i}}}" for i in range(64)]
    batches = []
    with Verifier(config) as verifier:
        verifier.judge_answers(["x"], [FOR_WORKERS])
        result["memory at rest"] = _memory(os.getpid())
        for _ in range(10):
            start = time.monotonic()
            verdicts = Counter(judgement.verdict for judgement in verifier.judge(batch, ["x+7"] * 64))
            seconds = time.monotonic() - start
            after = verifier.judge_answers(["7+x", "8+x"], ["x+7"] * 2) == [Verdict.CORRECT, Verdict.WRONG]
            batches.append({"seconds": seconds, "verdicts": verdicts, "right after": after, **_memory(os.getpid())})
            print(batches[-1], flush=True)
        start = time.monotonic()
        verdicts = Counter(judgement.verdict for judgement in verifier.judge(hanging_answers(256), ["x+7"] * 256))
        result["256 that hang"] = {"seconds": time.monotonic() - start, "verdicts": verdicts}
        print(result["256 that hang"], flush=True)
    result["batches"] = batches
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_trl_in_child, args=(batch, ["x+7"] * 64, there))
    child.start()
    there.close()
    limit, done = 120.0, []
    end = time.monotonic() + limit
    try:
        while here.poll(max(end - time.monotonic(), 0)):
            done.append(here.recv())
    except EOFError:
        pass
    child.kill()
    result["trl"] = {
        "finished": len(done),
        "seconds": sum(done),
        "slowest": max(done, default=0.0),
        "given up after": limit,
    }
    print(result["trl"], "overrun", result["overrun"], "canaries", result["canaries"])
    return result


def tables(results: dict) -> list[str]:
    """The tables of docs/verifier.md, of the parts that have been measured."""
    makers = {
        "golds": _golds_table,
        "cases": _cases_table,
        "wrong": _wrong_table,
        "throughput": _throughput_table,
        "hostile": _hostile_table,
    }
    return [make(results[part]) for part, make in makers.items() if part in results]


def _golds_table(benchmarks: dict) -> str:
    lines = {
        "golds": [row["golds"] for row in benchmarks.values()],
        "accepted in every wrapping": [row["accepted"] for row in benchmarks.values()],
        "changed, and refused": [row["perturbed"]["wrong"] for row in benchmarks.values()],
    }
    return _table(["", *benchmarks], [[name, *values] for name, values in lines.items()])


def _cases_table(result: dict) -> str:
    return _table(["", "answers", "judged rightly here", "by math-verify"], table_rows(result))


def _wrong_table(rows: dict) -> str:
    lines = []
    for name, row in rows.items():
        rates = row["per second"], row["math-verify's"]
        share = f"{row['decided']:.1%}" if "decided" in row else ""
        lines.append(
            [
                name,
                row["pairs"],
                share,
                len(row.get("differences", [])),
                *map(round, rates),
                f"{rates[0] / rates[1]:.3g}",
            ]
        )
    header = [
        "answers",
        "pairs",
        "decided without algebra",
        "decided otherwise by algebra",
        "a second",
        "math-verify",
        "ratio",
    ]
    return _table(header, lines)


def _throughput_table(answers: dict) -> str:
    lines = []
    for kind, row in answers.items():
        rates = [round(row["per_second"][name]) for name in ("htpo_trl", "math_verify", "trl")]
        ratios = [f"{statistics.median(row['ratios'][f'htpo_trl / {name}']):.3g}" for name in ("math_verify", "trl")]
        lines.append([kind, *rates, *ratios])
    return _table(["answers", "htpo_trl", "math-verify", "TRL's `accuracy_reward`", "/ math-verify", "/ TRL"], lines)


def _hostile_table(result: dict) -> str:
    verdicts = ("wrong", "unparsable_answer", "timed_out", "crashed")
    lines = [
        [family, row["answers"], *(row["verdicts"].get(verdict, 0) for verdict in verdicts), f"{row['slowest']:.2f}"]
        for family, row in result["families"].items()
    ]
    return _table(["answers of the kind", "number", *verdicts, "slowest (s)"], lines)


def _table(header: list, rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {
        "golds": golds,
        "cases": cases,
        "wrong": wrong,
        "throughput": throughput,
        "hostile": hostile,
    }
    parser.add_argument("data", type=Path)
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--golds", type=int, help="of each file at most so many, evenly spread: to try a part")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    if not arguments.output.parent.is_dir():
        parser.error(f"--output {arguments.output}: there is no such folder.")
    for name in ("math_verify", "trl"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    read = {"golds", "cases", "wrong"} & {*arguments.parts}  # the others have answers of their own
    data = {name: golds_of(name, arguments.data) for name in FILES} if read else {}
    if arguments.golds:
        data = {name: each[:: max(1, len(each) // arguments.golds)] for name, each in data.items()}
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    results["versions"] = {name: version(name) for name in ("math-verify", "latex2sympy2_extended", "sympy", "trl")}
    for part in arguments.parts:
        results[part] = parts[part](data)
        arguments.output.write_text(json.dumps(results, indent=1))
    print("\n\n".join(tables(results)))


if __name__ == "__main__":
    main()
