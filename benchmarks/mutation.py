"""Mutation testing: would the tests notice if the objective, the labels or another pure part were wrong?

    pip install -e '.[test,dev]'
    python benchmarks/mutation.py [--only transform.py] [--at_most 100] [--survivors] [--output FILE]

`--at_most N` takes a random sample of a file's mutants, the same at every call.

Mutants are made by the operators of mutmut 3, plus two that it lacks: dropping a statement and dropping a decorator.
mutmut's own runner cannot be used: it leaves out decorated functions and module-level data, which here are `control`
and the presets. One that starts a process per mutant (cosmic-ray) imports torch and TRL each time, 8 seconds. This one
imports them once and forks; a mutant exists in the memory of its fork only, and dies with the first test that fails.
"""

import argparse
import difflib
import gc
import json
import os
import random
import resource
import signal
import sys
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path


os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}

# What the tests import, but for `htpo_trl`: the forks share it.
import beartype  # noqa: F401
import datasets  # noqa: F401
import libcst as cst
import peft  # noqa: F401
import pytest
from hypothesis import Phase, settings
from libcst.metadata import ByteSpanPositionProvider
from mutmut.mutation.mutators import mutation_operators
from transformers import LlamaForCausalLM, Qwen3ForCausalLM  # noqa: F401
from trl import GRPOTrainer, SFTTrainer  # noqa: F401


ROOT = Path(__file__).resolve().parents[1]
LABELS = (
    "_labels",
    "_generate_and_score_completions",
    "_calculate_rewards",
    "_control_objective",
    "_log_sums",
    "_ratio",
)
SAMPLING = ("is_informative", "metrics", "collect", "split_rows", "join_rows", "_is_per_row")
# Tests that train for seconds: what they notice, others must notice sooner.
SLOW = (
    "tests/unit/test_trainer.py::test_dapo_run_is_trls_run_bit_for_bit",
    "tests/unit/test_trainer.py::test_training_raises_the_reward",
    "tests/unit/test_trainer.py::test_resume_on_a_generation_boundary",
    "tests/unit/test_trainer.py::test_peft_checkpoint_and_card",
    "tests/unit/test_sampling.py::test_same_seed_same_prompts",
)
COLLECT, RESUME = "tests/unit/test_sampling.py", "tests/unit/test_resume.py"
WEIGHT = "tests/unit/test_token_map.py::test_effective_weight"
# File, the functions that are mutated (None: all of it), and the tests that have to notice.
OBJECTIVE = [
    f"tests/unit/test_{name}.py"
    for name in ("selections", "gates", "mixed_rows", "objective_table", "rules", "published_objectives", "objective")
]
OVERRIDES = ("words_name_all_groups_that_have_them", "overrides_that_say_nothing_clear_are_refused")
MIXED = OBJECTIVE[:-1]  # the last is of HTPO's own rows, which have a path of their own
TARGETS = (
    ("htpo_trl/objective/gates.py", None, MIXED),
    ("htpo_trl/objective/batch.py", None, OBJECTIVE),
    ("htpo_trl/objective/parts.py", None, MIXED),
    ("htpo_trl/objective/selections.py", None, OBJECTIVE),
    ("htpo_trl/objective/rules.py", None, [*OBJECTIVE, "tests/unit/test_written_tables.py"]),
    (
        "htpo_trl/objective/table.py",
        None,
        [
            *(OBJECTIVE[3], "tests/unit/test_detach_lengths.py", *MIXED[:3], *OBJECTIVE[4:]),
            *(f"tests/unit/test_objective_options.py::test_{name}" for name in OVERRIDES),
        ],
    ),
    (
        "htpo_trl/objective/presets.py",
        None,
        [
            *OBJECTIVE,
            *(f"tests/unit/test_{name}.py" for name in ("docs_objectives", "own_objects", "objective_options")),
        ],
    ),
    (
        "htpo_trl/objective/transform.py",
        None,
        [*OBJECTIVE, "tests/unit/test_token_sums.py", f"{WEIGHT}_is_the_derivative"],
    ),
    (
        "htpo_trl/trainer.py",
        LABELS,
        [f"tests/unit/test_{name}.py" for name in ("observers", "reward_errors", "trainer", "sampling")],
    ),
    ("htpo_trl/training/prompts.py", None, ["tests/unit/test_prompt_stream.py", f"{COLLECT}::TestPromptStream"]),
    (
        "htpo_trl/training/sampling.py",
        SAMPLING,
        ["tests/unit/test_sampling_rounds.py", f"{COLLECT}::test_rows_and_columns", f"{COLLECT}::test_collect"],
    ),
    (
        "htpo_trl/training/checkpoint.py",
        None,
        [
            *(f"tests/unit/test_checkpoint_{name}.py" for name in ("files", "seals")),
            f"{RESUME}::TestState",
            f"{RESUME}::TestSeal",
        ],
    ),
    ("htpo_trl/verifier/forms.py", None, ["tests/unit/test_forms.py"]),
    ("htpo_trl/verifier/golds.py", None, ["tests/unit/test_golds.py"]),
    ("htpo_trl/verifier/exact.py", None, ["tests/unit/test_exact.py"]),
    ("htpo_trl/evaluation/statistics.py", None, ["tests/unit/test_statistics.py"]),
    ("htpo_trl/evaluation/results.py", None, ["tests/unit/test_results.py", "tests/unit/test_votes.py"]),
    ("htpo_trl/data/countdown.py", None, ["tests/unit/test_countdown.py"]),
    ("htpo_trl/data/splits.py", None, ["tests/unit/test_data.py"]),
    ("htpo_trl/data/benchmarks.py", None, ["tests/unit/test_data.py"]),
)
SECONDS_PER_MUTANT = 120  # of CPU time: how many other processes there are kills no mutant
# By the exit code of the fork, which is pytest's. Any other, a fork that was killed say, does not count as a kill.
OUTCOMES = {0: "survived", 1: "killed", 2: "import error", 4: "import error"}
OUTCOMES |= {-signal.SIGXCPU: "timeout", -signal.SIGALRM: "timeout"}
KILLED = ("killed", "import error", "timeout")


class QuickFirst:
    """A pytest plugin: the property tests, which take half a second each, come last."""

    @staticmethod
    def pytest_collection_modifyitems(items):
        items.sort(key=lambda item: hasattr(item.function, "hypothesis"))


def drop_statement(node: cst.Expr):
    if not isinstance(node.value, cst.BaseString):  # a docstring
        yield cst.Pass()


def drop_decorator(node: cst.Decorator):
    yield cst.EmptyLine()


OPERATORS = [*mutation_operators, (cst.Expr, drop_statement), (cst.Decorator, drop_decorator)]


class Mutants(cst.CSTVisitor):
    """All mutants of a module: (operator, source of the mutated module)."""

    METADATA_DEPENDENCIES = (ByteSpanPositionProvider,)

    def __init__(self, module: cst.Module, functions):
        super().__init__()
        self.module, self.functions, self.within, self.found = module, functions, [], []
        self.source = module.bytes

    def on_visit(self, node) -> bool:
        if isinstance(node, cst.FunctionDef):
            self.within.append(node.name.value)
        # Types do nothing at run time; wrong arguments of these two builtins fail at once (mutmut skips both too).
        if isinstance(node, cst.Annotation) or _is(node, cst.Subscript, "value", ("Literal",)):
            return False
        if _is(node, cst.Call, "func", ("len", "isinstance")):
            return False
        if self.functions is None or (self.within and self.within[0] in self.functions):
            for kind, operator in OPERATORS:
                for mutated in operator(node) if isinstance(node, kind) else ():
                    self.found.append((operator.__name__, self.replaced(node, mutated)))
        return True

    def replaced(self, node, mutated) -> str:
        span = self.get_metadata(ByteSpanPositionProvider, node)
        rest = self.source[span.start + span.length :]
        return (self.source[: span.start] + self.module.code_for_node(mutated).encode() + rest).decode()

    def on_leave(self, node) -> None:
        if isinstance(node, cst.FunctionDef):
            self.within.pop()


def _is(node, kind, attribute: str, names) -> bool:
    return isinstance(node, kind) and getattr(getattr(node, attribute), "value", None) in names


def mutants(file: str, functions) -> list:
    wrapper = cst.MetadataWrapper(cst.parse_module((ROOT / file).read_bytes()))
    visitor = Mutants(wrapper.module, functions)
    wrapper.visit(visitor)
    return visitor.found


def difference(file: str, mutated: str) -> dict:
    """Number and text of the first changed line, and what became of it."""
    before, after = (ROOT / file).read_text().splitlines(), mutated.splitlines()
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    i, i_end, j, j_end = next(rest for tag, *rest in matcher.get_opcodes() if tag != "equal")
    text = {"before": before[i:i_end], "after": after[j:j_end]}
    return {"line": i + 1} | {name: " ".join(map(str.strip, lines)) for name, lines in text.items()}


def outcome(file: str, source: str, tests: list[str]) -> str:
    """What the tests say, in a fork in which `file` holds `source`."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_PER_MUTANT, SECONDS_PER_MUTANT + 1))
        signal.alarm(10 * SECONDS_PER_MUTANT)
        code = pytest.ExitCode.INTERNAL_ERROR
        try:
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 1)
                os.dup2(null.fileno(), 2)
            code = _test(file, source, tests)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return OUTCOMES.get(code, f"exit {code}")


def _test(file: str, source: str, tests: list[str]) -> int:
    name, get_code = file.removesuffix(".py").replace("/", "."), SourceFileLoader.get_code

    def get_mutated_code(loader, fullname):
        return compile(source, loader.path, "exec") if fullname == name else get_code(loader, fullname)

    SourceFileLoader.get_code = get_mutated_code  # type: ignore[method-assign]
    # A failing example need not be made small.
    settings.register_profile("unshrunk", deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
    # All but the verdict is left out: half a second instead of three.
    options = ["-x", "-q", "--tb=no", "--assert=plain", "--hypothesis-profile=unshrunk"]
    plugins = ("anyio", "jaxtyping", "cacheprovider", "unraisableexception", "threadexception")
    options += [f"-pno:{plugin}" for plugin in plugins] + ["-o", "tmp_path_retention_policy=none"]
    options += [f"--deselect={test}" for test in SLOW]
    return pytest.main([*options, *tests], plugins=[QuickFirst()])


def write(results: dict[str, list], output: Path) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for records in results.values() for record in records]
    output.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="the files whose path ends so")
    parser.add_argument("--at_most", type=int, help="mutants per file, drawn at random")
    parser.add_argument("--survivors", action="store_true", help="leave out mutants that were killed last time")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/mutation.json")
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True
    gc.freeze()

    # The results of files that are left out stay as they are.
    old = json.loads(args.output.read_text()) if (args.only or args.survivors) and args.output.exists() else []
    results = {file: [record for record in old if record["file"] == file] for file, *_ in TARGETS}
    for file, functions, tests in TARGETS:
        if args.only and not file.endswith(args.only):
            continue
        if outcome(file, (ROOT / file).read_text(), tests) != "survived":
            raise SystemExit(f"The tests of {file} fail without a mutation: pytest {' '.join(tests)}")
        start, n_alive = time.perf_counter(), 0
        dead = [record for record in results[file] if args.survivors and record["status"] in KILLED]
        results[file] = []
        found = mutants(file, functions)
        if args.at_most and args.at_most < len(found):
            found = random.Random(file).sample(found, args.at_most)
        for operator, source in found:
            record = {"file": file, **difference(file, source), "operator": operator.removeprefix("operator_")}
            known = next((status for status in KILLED if record | {"status": status} in dead), None)
            record["status"] = known or outcome(file, source, tests)
            results[file].append(record)
            if record["status"] not in KILLED:
                n_alive += 1
                print("{file}:{line} {operator} {status}: {before}  ->  {after}".format(**record), flush=True)
            if not args.survivors:  # what was found so far, should the run be stopped
                write(results, args.output)
        n, seconds = len(results[file]), time.perf_counter() - start
        print(f"{file}: {n - n_alive} of {n} killed ({1 - n_alive / n:.1%}), {seconds:.0f} s", flush=True)
        write(results, args.output)


if __name__ == "__main__":
    main()
