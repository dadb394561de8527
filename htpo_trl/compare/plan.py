"""
The plan of a fight: what is compared, on which problems, by which rule. It is written before the first run, and never
changed; a digest of it stands in every result.
"""

import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..data.splits import check_disjoint
from ..output.reading import read_json
from ..output.redaction import redacted
from ..output.writing import write_atomically
from ..scripts.arguments import Arguments, find_model
from ..scripts.htpo import load_data, parse, prepare
from ..utils import UsageError, versions
from .arms import FIRST_CONFIRMATION_SEED, NOT_COMPARED, OF_TEST, OWN, read_arms
from .digests import code_of, commit_of, digest_of_file


#: Of plans and results.
SCHEMA = 1
#: The file of a plan, in the directory of its fight.
PLAN = "plan.json"
# Of every run, which is evaluated at its last step in any case: options of `htpo train`.
_OF_ALL = {
    "eval_strategy": "no",
    "eval_steps": 10**9,
    "overwrite_output_dir": "false",
    "resume_from_checkpoint": "auto",
    "disable_tqdm": "true",
    "load_best_model_at_end": "false",  # of a recipe
    "push_to_hub": "false",
}
# Packages that a result does not depend on.
_WATCHERS = {"wandb", "trackio", "tensorboard", "matplotlib"}


class Run(NamedTuple):
    """A run of a fight."""

    phase: str  #: "tuning" or "confirmation"
    arm: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its directory and of its result."""
        rate = f"-lr{self.learning_rate:g}" if self.phase == "tuning" else ""
        return f"{self.phase}-{self.arm}{rate}-seed{self.seed}"

    @property
    def problems(self) -> str:
        """Those that it is evaluated on: of the plan's `problems`."""
        return "validation" if self.phase == "tuning" else "test"


def make_plan(args: Namespace, arguments: Arguments, processes: int = 1) -> dict[str, Any]:
    """
    The plan that a command asks for. Options and data are resolved as each run will resolve them.

    Args:
        args (`Namespace`):
            The command's own arguments.
        arguments ([`~htpo_trl.scripts.arguments.Arguments`]):
            Options of `htpo train`, for all arms alike.
        processes (`int`, *optional*, defaults to `1`):
            Of each run.
    """
    from ..evaluation.weights import digest_of_files

    script, config, model = _configs(arguments, [], processes)
    name = model.model_name_or_path  # `prepare` refuses a run without
    if commit := name and commit_of(name, config.model_init_kwargs["revision"]):
        arguments = arguments._replace(script=[*arguments.script, f"--model_revision={commit}"])
    arms = read_arms(args.objectives, args.vary)
    resolved, tables, of_arms = {}, {}, []
    for arm, options in arms.items():
        configs = _configs(arguments, _tokens(options), processes)
        resolved[arm] = written(configs)
        of_arms.append(configs[1])
        rows = zip(_groups(), configs[1].table.rows, strict=True)
        tables[arm] = {group: repr(row) for group, row in rows}
    common = resolved[next(iter(arms))]
    if config.data_seed is not None:
        raise UsageError(f"data_seed={config.data_seed}: leave it out of the recipe. {OWN['data_seed']}")
    if script.dataset_streaming:
        raise UsageError("dataset_streaming=True: a plan has all the training problems. Set dataset_streaming=False.")
    for field, option in OF_TEST.items():
        if len({repr(getattr(each, field)) for each in of_arms}) > 1 and not getattr(script, option or "", None):
            mend = f"Set --{option}, for all arms alike" if option else "Leave it out"
            raise UsageError(f"--vary {field}: arms would differ in what the test asks, or in who judges it. {mend}.")
    rates = args.learning_rates or [config.learning_rate]
    samples = args.samples or script.eval_num_samples
    names = problem_names(args, script)
    if len(rates) == 1:
        names.pop("validation", None)
    k = samples // 4 if samples >= 8 else samples
    problems, judges = _problems(script, config, model, names)
    return {
        "schema": SCHEMA,
        "arms": {
            arm: {
                "options": arms[arm],
                "resolved": {key: value for key, value in resolved[arm].items() if value != common.get(key)},
                "table": tables[arm],
            }
            for arm in arms
        },
        "learning_rates": sorted(rates),
        "tuning_seeds": [*range(args.seeds or 3)] if len(rates) > 1 else [],
        "confirmation_seeds": [*range(FIRST_CONFIRMATION_SEED, FIRST_CONFIRMATION_SEED + args.confirm_seeds)],
        "tuning_samples": args.tuning_samples or script.eval_num_samples,
        "samples": samples,
        "metrics": [f"mean@{samples}", *([f"pass@{k}"] if k > 1 else [])],
        "alpha": 0.05,
        "rule": RULE,
        "problems": problems,
        "code": code_of([*(each.estimator.function for each in of_arms), *judges]),
        "model": {"name": name, "digest": commit or digest_of_files(find_model(name))},
        "processes": processes,
        "options": common,
        "versions": {name: each for name, each in versions().items() if name not in _WATCHERS},
    }


#: How a fight is decided, in words; [`~htpo_trl.compare.judgement`] does it.
RULE = [
    "Every run trains and is evaluated once, at its last step. A run that fails twice counts as 0, and is shown.",
    "Learning rate of an arm: the highest mean over the tuning seeds of mean@n on the validation problems; of equal "
    "ones the lower.",
    "Then fresh seeds, each arm at its rate, on the test problems, once.",
    "Each arm against the first, in each metric: differences paired by seed, 95% interval by Student's t over seeds, "
    "two-sided paired t test, p corrected for all arms and metrics by Holm.",
    "Better or worse if the corrected p is below 0.05. Else undecided, with the smallest difference that so many "
    "seeds would have shown with power 0.8.",
    "A run has collapsed where its mean@n is below half of what it was before training. It counts as it is.",
]


def problem_names(args: Namespace, script: Any) -> dict[str, list[str]]:
    """Names of the problems to judge by (`test`) and to choose the learning rate by (`validation`)."""
    test = ["countdown:test" if name == "countdown" else name for name in args.test or script.eval_benchmarks or []]
    if not test:
        raise UsageError("Runs are judged by problems, and there are none: name them by --test NAME.")
    validation = args.validation
    if not validation and all(name.startswith("countdown:") for name in test):
        validation = ["countdown:validation"]
    if not validation and script.test_split_size and "test" not in test:
        validation = ["test"]  # the part that is held out
    if not validation and len(args.learning_rates or ()) > 1:
        raise UsageError(
            f"Learning rates are chosen by other problems than those of the test, {', '.join(test)}: name them by "
            "--validation NAME, or hold a part of the training data out by --test_split_size 0.1."
        )
    if both := [name for name in validation or () if name in test]:
        raise UsageError(f"--validation and --test are both {both[0]}: learning rates are chosen by other problems.")
    return {"test": test} | ({"validation": validation} if validation else {})


def _problems(
    script: Any, config: Any, model: Any, names: dict[str, list[str]]
) -> tuple[dict[str, dict[str, Any]], list[Callable | None]]:
    """What is trained and evaluated on: disjoint, by content; and who judges it."""
    from ..training.settings import fingerprint

    script.eval_benchmarks = [name for each in names.values() for name in each]
    parts = prepare(script, config, model, is_plan=True)  # refuses what runs would
    benchmarks = parts.benchmarks or load_data(script, config)[2]  # where the Hub has some, a plan looks at none
    script.eval_benchmarks = []
    train, _, _ = load_data(script, config)  # with all its problems
    loaded = iter(benchmarks.values())
    sets = {part: {name: next(loaded) for name in each} for part, each in names.items()}
    sets = {"training": {script.dataset_name: train}, **sets}
    check_disjoint(
        {
            part if len(each) == 1 else f"{part} {name}": rows
            for part, each in sets.items()
            for name, rows in each.items()
        }
    )
    problems = {
        part: {
            "names": [*each],
            "count": sum(map(len, each.values())),
            "digests": [*map(fingerprint, each.values())],
        }
        for part, each in sets.items()
    }
    return problems, [*parts.rewards, parts.judge]


def _configs(arguments: Arguments, tokens: Sequence[str], processes: int) -> tuple[Any, Any, Any]:
    """Configurations of the script, for as many processes as are planned; no device is initialised for them."""
    from ..config import HTPOConfig
    from ..scripts.htpo import model_init_kwargs

    planned = type("Planned", (HTPOConfig,), {"world_size": processes})
    configs = parse([*arguments.script, *tokens, *_tokens(_OF_ALL), "--use_cpu=true"], arguments.defaults, planned)
    configs[1].model_init_kwargs = model_init_kwargs(*configs[1:])
    return configs


def _groups() -> Sequence[str]:
    from ..objective.table import GROUPS

    return GROUPS


def written(configs: Sequence[Any]) -> dict[str, Any]:
    """Options as `settings.json` of a run has them, flat, but for those that differ between runs of one arm."""
    options: dict[str, Any] = {}
    for config in configs:
        options |= config.to_dict() if hasattr(config, "to_dict") else asdict(config)
    return compared(redacted(json.loads(json.dumps(options, default=str))))


def compared(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that must not differ between runs of one arm."""
    return {name: options[name] for name in sorted(options) if name not in NOT_COMPARED}


def settle(plan: Mapping[str, Any], output_dir: str | Path) -> str:
    """Write the plan, or check that the one that is there is the same; returns its digest."""
    path = Path(output_dir, PLAN)
    if not path.exists():
        write_atomically(path, json.dumps(plan, indent=1, ensure_ascii=False) + "\n")
    elif there := differences(read_json(path), json.loads(json.dumps(plan))):
        raise UsageError(
            f"{path} is the plan of another fight: {'; '.join(there[:5])}{' ...' * (len(there) > 5)}. A plan is not "
            "changed: give the options that it was made with, or another --output_dir."
        )
    return digest_of_file(path)


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Where two plans differ: `name: a there, b here`."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = dict.fromkeys([*there, *here])
        parts = [differences(there.get(key), here.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        order = [] if [*there] == [*here] or name != "arms" else ["the order of the arms"]
        return [each for part in parts for each in part] + order
    return [] if there == here else [f"{name} {there!r:.60} there, {here!r:.60} here"]


def runs_of(plan: Mapping[str, Any], phase: str, rates: Mapping[str, float] | None = None) -> list[Run]:
    """The runs of a phase in their order: all arms of a seed, then the next; `rates` are those that were chosen."""
    tried = plan["learning_rates"]
    return [
        Run(phase, arm, rate, seed)
        for seed in plan[f"{phase}_seeds"]
        for arm in plan["arms"]
        for rate in ([rates[arm]] if rates else tried)
    ]


def tokens_of(plan: Mapping[str, Any], run: Run, directory: str | Path, evaluates_before: bool) -> list[str]:
    """The options of `htpo train` that are a run's own, to stand behind those of all."""
    own = {
        "model_revision": plan["options"]["model_revision"],  # of the Hub, the plan's commit
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "run_name": run.name,
        "output_dir": directory,
        "eval_benchmarks": plan["problems"][run.problems]["names"],
        "eval_num_samples": plan["tuning_samples" if run.phase == "tuning" else "samples"],
        "eval_before_training": str(evaluates_before).lower(),
    }
    return _tokens(plan["arms"][run.arm]["options"] | _OF_ALL | own)


def _tokens(options: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in options.items():
        found += [f"--{name}", *value] if isinstance(value, list) else [f"--{name}={value}"]
    return found


def told(plan: Mapping[str, Any]) -> str:
    """The plan in words."""
    problems = [
        f"{part:10}  {', '.join(each['names'])}: {each['count']} problems" for part, each in plan["problems"].items()
    ]
    arms, rates = plan["arms"], plan["learning_rates"]
    tuning, confirmation = (len(plan[f"{phase}_seeds"]) for phase in ("tuning", "confirmation"))
    n, grid = len(arms) * len(rates) * tuning, ", ".join(f"{rate:g}" for rate in rates)
    lines = [
        *(
            f"{'arm' if i else 'baseline':10}  {name}: {listed(each['options'])}"
            for i, (name, each) in enumerate(arms.items())
        ),
        f"{'model':10}  {plan['model']['name']}, the same for all: {plan['model']['digest']}",
        *problems,
    ]
    runs = [
        f"tuning        {n} runs: {len(arms)} arms x {len(rates)} learning rates ({grid}) x {tuning} seeds, "
        f"{plan['tuning_samples']} samples a problem"
        if n
        else f"tuning        none: one learning rate, {rates[0]:g}",
        f"confirmation  {len(arms) * confirmation} runs: {len(arms)} arms x {confirmation} fresh seeds, "
        f"{plan['samples']} samples a problem",
        f"each          in {plan['processes']} process{'es' * (plan['processes'] > 1)}",
        f"metrics       {', '.join(plan['metrics'])}",
    ]
    sections = {"Fight": lines, "Runs": runs, "Rule": plan["rule"]}
    return "\n".join("\n  ".join([f"{title}:", *each]) for title, each in sections.items())


def listed(options: Mapping[str, Any]) -> str:
    """Options in a line."""
    told = {name: " + ".join(value) if isinstance(value, list) else value for name, value in options.items()}
    return ", ".join(f"{name}={value}" for name, value in told.items() if value is not None)
