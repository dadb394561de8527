"""
Fuzzing of what reads strangers' bytes: documents that are valid by the schemas are mutated, written and read. Whatever
comes of it is a right result or a `UsageError`, within a second of CPU time and 200 MB.

`python -m tests.fuzz 20000` reads so many inputs in all and prints the counts; the tests read a few.
"""

import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from htpo_trl.cli.launch import launch_arguments, parallelism
from htpo_trl.data import load
from htpo_trl.evaluation.results import read as read_results
from htpo_trl.evaluation.results import summarize
from htpo_trl.output.terminal import printable
from htpo_trl.report import estimates
from htpo_trl.report.runs import differing_options, read_sets
from htpo_trl.scripts import htpo
from htpo_trl.scripts.arguments import load_recipe, read
from htpo_trl.scripts.flags import flags_of
from htpo_trl.tokens.record import SCHEMA
from htpo_trl.tokens.view import View
from htpo_trl.training import checkpoint, remembered
from htpo_trl.utils import UsageError
from htpo_trl.verifier import Verdict

from .bounds import bounds
from .token_records import completion_row, write


def deep(n: int) -> Any:
    """Lists in each other."""
    value: Any = []
    for _ in range(n):
        value = [value]
    return value


# What stands in the place of a value.
NUMBERS = [0, -1, 1.5, 10**15, 10**18, 10**400, -(10**400), 1e308, -0.0, float("nan"), float("inf"), True, False]
TEXTS = ["", " ", "0", "true", "1e999", "x" * 20_000, "\x1b[2J", "\x00", "\ud800", "\u202e", "\u0663", "</script>"]
TEXTS += ["{}", "*a", "#"]
LISTS = [None, [], {}, [[]], [None], {"": None}, {"a": {"b": []}}, list(range(3000)), deep(40), deep(200)]
ODD = st.one_of(
    st.sampled_from([*NUMBERS, *TEXTS, *LISTS]),
    *(st.text(max_size=20), st.integers(), st.floats()),
    st.lists(st.integers() | st.text(max_size=5), max_size=4),
)
# Bytes that mean something in JSON, YAML, CSV or UTF-8.
SPLICES = [*rb"""{ } [ ] " , : \ \ud800 - ? &a *a <<:*a !!binary 1e999 NaN # '""".split(b" ")]
SPLICES += [b"- ", b"? ", b"&a ", b"<<: *a", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\t", b"---\n"]
SPLICES += [b"[" * 3000, b'{"a":' * 3000, b"9" * 5000]


@st.composite
def mutated(draw: Any, document: Any, most: int = 3) -> Any:
    """A copy of a document of which some parts are dropped, of another type, nested, doubled or unknown."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.sampled_from((0, 0, *range(1, most + 1))))):
        parent: Any = document
        while True:  # down to some place
            places = (
                [*parent] if isinstance(parent, dict) else [*range(len(parent))] if isinstance(parent, list) else []
            )
            if not places:
                break
            place = draw(st.sampled_from(places))
            child = parent[place]
            if not isinstance(child, (dict, list)) or not child or draw(st.integers(0, 2)) == 0:
                how = draw(st.sampled_from(("drop", "replace", "replace", "replace", "nest", "double", "add")))
                if how == "drop":
                    del parent[place]
                elif how == "replace":
                    parent[place] = deepcopy(draw(ODD))
                elif how == "nest":
                    parent[place] = draw(st.sampled_from(([child], {"a": child}, str(child))))
                elif how == "double" and isinstance(parent, list):
                    parent.insert(place, deepcopy(child))
                elif isinstance(parent, dict):
                    parent[draw(st.text(max_size=10) | st.sampled_from(places))] = deepcopy(draw(ODD))
                break
            parent = child
    return draw(ODD) if draw(st.integers(0, 60)) == 60 else document


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Bytes of which some are cut off, changed, doubled or put in; most of the time none."""
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        start = draw(st.integers(0, len(content)))
        end = min(start + draw(st.sampled_from((0, 1, 2, 8, 100))), len(content))
        put = draw(st.sampled_from(SPLICES) | st.binary(max_size=8) | st.just(content[start:end] * 2))
        content = content[:start] if draw(st.integers(0, 5)) == 0 else content[:start] + put + content[end:]
    return content


def as_json(document: Any) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")


VALUES = {"bool": True, "int": 3, "float": 0.5, "dict": {"a": 1}, "str": "x", "": "x"}


@cache
def options() -> dict[str, Any]:
    """Every option of the training script, with a value of its type."""
    return {
        name: next(VALUES[kind] for kind in VALUES if kind in flag.type)
        for name, flag in flags_of(htpo.TITLES).items()
    }


@st.composite
def recipe(draw: Any) -> Callable:
    names = draw(st.lists(st.sampled_from([*options()]), max_size=6, unique=True))
    document = {name: options()[name] for name in names} | {"env": {"HTPO_FUZZ": "1"}}
    document = draw(mutated(document))
    text = as_json(document)
    if draw(st.booleans()):
        text = yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")
    content, parse = draw(damaged(text)), draw(st.integers(0, 19)) == 19

    def use(directory: Path) -> None:
        (directory / "r.yaml").write_bytes(content)
        load_recipe(str(directory / "r.yaml"))
        if parse:  # which takes longer
            htpo.make_parser().parse_args(read(["--config", str(directory / "r.yaml")], htpo.TITLES).script)

    return use


@st.composite
def launcher(draw: Any) -> Callable:
    document: dict[str, Any] = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "DEEPSPEED"}
    document |= {"num_machines": 1, "num_processes": 2, "machine_rank": 0, "mixed_precision": "bf16"}
    document |= {
        "deepspeed_config": {"zero_stage": 3, "offload_param_device": "cpu"},
        "fsdp_config": {"fsdp_version": 2},
    }
    content = draw(damaged(as_json(draw(mutated(document)))))

    def use(directory: Path) -> None:
        (directory / "a.yaml").write_bytes(content)
        parallelism(launch_arguments(["--accelerate_config", str(directory / "a.yaml")]))

    return use


# Of some rows Arrow makes no table.
NO_TABLE = (pa.ArrowException, AttributeError, TypeError, ValueError, OverflowError)


@st.composite
def data(draw: Any) -> Callable:
    """Data lines, as files of each kind."""
    columns = draw(
        st.sampled_from((("problem", "solution"), ("prompt", "solution"), ("problem", "solution", "level")))
    )
    rows = [{name: f"{name} {i}" if name != "solution" else str(i) for name in columns} for i in range(3)]
    rows = [draw(mutated(row, 2)) for row in rows]
    kind = draw(st.sampled_from(("jsonl", "jsonl", "csv", "parquet")))
    if kind == "jsonl":
        content = draw(damaged(b"\n".join(map(as_json, rows))))
    elif kind == "csv":
        fields = [columns, *(row.values() if isinstance(row, dict) else [row] for row in rows)]
        lines = [",".join(map(str, each)) for each in fields]
        content = draw(damaged("\n".join(lines).encode("utf-8", "surrogatepass")))
    else:
        buffer = io.BytesIO()
        with suppress(*NO_TABLE):
            parquet.write_table(pa.Table.from_pylist(rows), buffer)
        content = draw(damaged(buffer.getvalue()))

    def use(directory: Path) -> None:
        (directory / f"d.{kind}").write_bytes(content)
        load(str(directory / f"d.{kind}"))

    return use


@st.composite
def results(draw: Any) -> Callable:
    sampling = {"num_samples": 2, "temperature": 1.0, "top_p": 0.7, "max_new_tokens": 8, "seed": 0}
    told = {"settings": {"benchmark": "b", "model": "m", "judge": "verifier", "n_problems": 2, "sampling": sampling}}
    rows = [
        {"benchmark": "b", "problem": problem, "sample": sample, "completion": "x", "tokens": 1, "truncated": False}
        | {"verdict": verdict.value, "answer": "1"}
        for problem in "pq"
        for sample, verdict in enumerate(draw(st.lists(st.sampled_from(Verdict), min_size=2, max_size=2)))
    ]
    record = draw(damaged(as_json(draw(mutated(told, 2)))))
    lines = draw(damaged(b"\n".join(as_json(draw(mutated(row, 1))) for row in rows) + b"\n"))

    def use(directory: Path) -> None:
        (directory / "b.json").write_bytes(record)
        (directory / "b.jsonl").write_bytes(lines)
        summarize(read_results(directory / "b.jsonl"))

    return use


@st.composite
def runs(draw: Any) -> Callable:
    """Settings and logs, as reports read them: estimates, without pictures."""
    steps = range(1, draw(st.integers(1, 12)))
    row = {"loss": 0.1, "reward": 0.5, "math_reward/correct": 0.5, "num_tokens": 9, "step_time": 1}
    log = [{"step": step} | row for step in steps]
    state = {"global_step": len(steps), "max_steps": 12, "log_history": log, "stateful_callbacks": {}}
    told = {"versions": {"trl": "1"}, "HTPOConfig": {"seed": 1, "learning_rate": 1e-6}, "run": {"data": "3 rows"}}
    told |= {"resumes": [{"from": "x", "step": 1, "changed": {"seed": [0, 1]}}]}
    contents = [draw(damaged(as_json(draw(mutated(each))))) for each in (state, told)]

    def use(directory: Path) -> None:
        for name, content in zip(("trainer_state.json", "settings.json"), contents, strict=True):
            (directory / name).write_bytes(content)
        sets = read_sets([directory])
        differing_options(sets)
        for outline in estimates.outlines(sets):
            for metric in outline.metrics[:2]:
                estimates.band(sets[0].series(metric.key), metric.bounds)
            estimates.final_values(sets[0].runs, outline.metrics[:2])

    return use


@cache
def record_of_tokens() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as directory:
        table = parquet.read_table(write(directory, [completion_row(["a", "b", "c"]), completion_row(["d"])]))
    return json.loads(table.schema.metadata[b"htpo"]), table.to_pylist()


@st.composite
def records(draw: Any) -> Callable:
    told, rows = record_of_tokens()
    told, rows = draw(mutated(told)), draw(mutated(rows, 2))
    buffer = io.BytesIO()
    try:
        table = pa.Table.from_pylist(rows, SCHEMA if draw(st.integers(0, 4)) else None)
    except NO_TABLE:
        table = pa.Table.from_pylist(record_of_tokens()[1], SCHEMA)  # of the others there is none
    parquet.write_table(table.replace_schema_metadata({"htpo": as_json(told)}), buffer, compression="zstd")
    content = draw(damaged(buffer.getvalue()))

    def use(directory: Path) -> None:
        (directory / "tokens").mkdir()
        (directory / "tokens" / "step-000007.parquet").write_bytes(content)
        view = View.make(directory, versus="dapo")
        assert all([view.headline, view.facts, *map(view.summary, (row for row, _ in view.rows)), view.legend("dapo")])

    return use


@st.composite
def checkpoints(draw: Any) -> Callable:
    counters = {"step": 1, "global_step": 1, "batch_shape": {"num_processes": 1}, "metrics": {"loss": [1.0]}}
    counters |= {"loss": [1.0, 0]}
    counters |= {"stream": None, "tables": {}, "callbacks": [["A", {}]], "settings": {"seed": 1}}
    state = {"format": checkpoint.FORMAT, "writer": "W", "batches": [{"prompts": ["a"]}], "counters": counters}
    seal = {"files": {"a.json": {"size": 2, "sha256": "0"}}}
    header = as_json({"__metadata__": {"htpo": draw(damaged(as_json(draw(mutated(state))))).decode(errors="replace")}})
    content = draw(damaged(len(header).to_bytes(8, "little") + header))
    sealed = draw(damaged(as_json(draw(mutated(seal)))))

    def use(directory: Path) -> None:
        (directory / "htpo_state_0.safetensors").write_bytes(content)
        (directory / "htpo_checkpoint.json").write_bytes(sealed)
        (directory / "a.json").write_text("{}")
        for call in (
            lambda: checkpoint.check(directory),
            lambda: checkpoint.load_state(directory / "htpo_state_0.safetensors", "W"),
        ):
            with suppress(UsageError):
                if found := call():
                    with suppress(KeyError, TypeError):  # which the trainer tells
                        remembered.check(found[1])

    return use


READERS = {each.__name__: each for each in (recipe, launcher, data, results, runs, records, checkpoints)}


def fuzz(name: str, examples: int) -> Counter[str]:
    """Read so many inputs. Returns how many were right, and how many were refused by a line."""
    outcomes = Counter[str]()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[*HealthCheck],
    )
    @given(READERS[name]())
    def once(use: Callable) -> None:
        with tempfile.TemporaryDirectory() as directory:
            said = ""
            try:
                with bounds():
                    use(Path(directory))
            except UsageError as error:
                said = str(error)
            outcomes["refused" if said else "right"] += 1
            assert len(said) < 100_000  # commands show the ends of it
            assert printable(said) == said

    once()
    return outcomes


def main() -> None:
    total = int(sys.argv[1])
    for name in sys.argv[2:] or READERS:
        print(name, dict(fuzz(name, total // len(READERS))), flush=True)


if __name__ == "__main__":
    main()
