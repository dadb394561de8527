"""`htpo compare`: plan, runs, judgement."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ..compare.judgement import choose_rates, judge
from ..compare.plan import PLAN, check_arguments, make_plan, read_arms, runs_of, settle, told
from ..compare.report import write_compare_report
from ..compare.runs import Fight, fight, share_cores
from ..output.lock import held
from ..output.redaction import redact_text
from ..output.terminal import printable
from ..report import require_matplotlib
from ..scripts import htpo
from .launch import Parallelism, launch_arguments, parallelism
from .plan import plan_run


def run_comparison(args: Namespace, tokens: Sequence[str]) -> None:
    """Plan a fight, and unless it is a plan alone, go through with it."""
    check_arguments(args, tokens)
    read_arms(args.objectives, args.vary)
    require_matplotlib()
    share_cores(args.jobs)
    arguments = htpo.read_options(tokens)
    spread = Parallelism()
    if arguments.launch:
        spread = parallelism(launch_arguments(arguments.launch, tokens))
    plan = make_plan(args, arguments, spread.processes)
    use_cpu = htpo.make_parser().parse_args(arguments.script).use_cpu
    directory = Path(args.output_dir)
    given = Fight(plan, "", directory, tokens, bool(arguments.launch), args.jobs, use_cpu)
    first = {run.arm: run for run in reversed(runs_of(plan, "confirmation", dict.fromkeys(plan["arms"], 1e-6)))}
    if not (directory / PLAN).exists():
        for run in first.values():  # whatever one of them would refuse, before any is made
            plan_run(htpo.read_options(given.command(run, False)), spread)
    print(printable(redact_text(told(plan))), flush=True)
    if args.dry_run == "true":
        return
    with held(directory, "htpo compare"):
        given = given._replace(digest=settle(plan, directory))
        results = fight(given, choose_rates)
    print("\n".join(["", *judge(plan, results.values()).sentences]))
    print(f"Report: {write_compare_report(directory)}")
