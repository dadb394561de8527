"""`htpo compare`. Nothing here needs torch before there is work to do."""

import warnings
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..output.lock import held
from ..output.redaction import redact_text
from ..output.terminal import printable
from ..scripts import htpo
from ..utils import UsageError
from .command import Command, add_dry_run


class Compare(Command):
    """
    Compare objectives: tuned alike, judged on fresh seeds, by a plan that was written before.

      htpo compare --config laptop --objectives dapo htpo --learning_rates 5e-5 1e-4 2e-4 --output_dir runs/fight

    The plan (plan.json) is printed, and written before the first run. Runs are those of htpo train, in processes;
    killed at any moment, the same command goes on. A run that fails is a result, and counts as 0.

      --objectives NAME ...      the arms; the first is the baseline, which the others are compared with. By default
                                 dapo and the recipe's objective, or with --vary that objective alone
      --vary FIELD=A,B           any field of HTPOConfig; arms are the product with the objectives; may be repeated
      --learning_rates RATE ...  each arm's own is chosen by tuning; without it there is no tuning
      --seeds N                  of the tuning, 3 by default
      --confirm_seeds N          of the comparison, 8 by default
      --validation NAME ...      problems to choose the rates by, as in eval_benchmarks; of countdown those held out
      --test NAME ...            problems to compare by, used once; by default the recipe's eval_benchmarks
      --samples N                of each test problem; by default the recipe's eval_num_samples
      --tuning_samples N         of each validation problem; by default the recipe's eval_num_samples
      --output_dir DIR           of plan, runs, results and report, by default runs/compare
      --jobs N                   runs at a time, 1 by default: each on a GPU, or on its share of the cores
      --dry_run                  print the plan and stop

    All other options are those of htpo train, for all arms alike, in the recipe or as flags.
    """

    usage = "htpo compare --config RECIPE [--objectives NAME NAME ...] [--dry_run] [--OPTION VALUE ...]"
    titles = htpo.TITLES
    when_stopped = "What is done stays: the same command goes on from there."

    def arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--objectives", nargs="+")
        add("--vary", nargs="+", action="extend")
        add("--learning_rates", nargs="+", type=float)
        add("--seeds", type=int)
        add("--confirm_seeds", type=int, default=8)
        add("--validation", nargs="+")
        add("--test", nargs="+")
        add("--samples", type=int)
        add("--tuning_samples", type=int)
        add("--output_dir", default="runs/compare")
        add("--jobs", type=int, default=1)
        add_dry_run(parser)

    def run(self, args: Namespace) -> None:
        from ..compare.arms import check_arguments, read_arms
        from ..compare.plan import PLAN, make_plan, runs_of, settle, told
        from ..compare.report import tables_and_page
        from ..compare.results import Common
        from ..compare.runs import check_jobs, estimate, fight, share_cores
        from ..report import require_matplotlib
        from .launch import Parallelism, launch_arguments, parallelism
        from .plan import plan_run

        tokens = args.options
        check_arguments(args, tokens)
        require_matplotlib()
        arguments = htpo.read_options(tokens)
        if not arguments.launch:
            share_cores(args.jobs)
        given = htpo.make_parser().parse_args(arguments.script)
        if not args.objectives and not args.vary:
            args.objectives = [*dict.fromkeys(("dapo", given.objective))]
        read_arms(args.objectives, args.vary)
        spread = Parallelism()
        if arguments.launch:
            spread = parallelism(launch_arguments(arguments.launch, tokens))
        if spread.machines > 1:
            raise UsageError(
                f"num_machines={spread.machines}: a fight runs on one machine. Leave it out, or call htpo train for "
                "each run."
            )
        plan = make_plan(args, arguments, spread.processes)
        directory = Path(args.output_dir)
        common = Common(plan, "", directory, tokens, bool(arguments.launch), args.jobs, given.use_cpu)
        check_jobs(common)
        is_new = not (directory / PLAN).exists()
        if is_new and (others := sorted(path.name for path in directory.glob("[!._]*"))):
            raise UsageError(
                f"--output_dir {directory} has no {PLAN}, but holds {others[0]}: a fight begins in a directory of its "
                "own. Name another one."
            )
        arms = runs_of(plan, "confirmation", dict.fromkeys(plan["arms"], plan["learning_rates"][0]))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "test_split_size")  # what is held out chooses the rates
            for run in arms[: len(plan["arms"])] if is_new else ():  # whatever one would refuse, before any is made
                plan_run(htpo.read_options(common.command(run, False)), spread)
        print(printable(redact_text(told(plan))), flush=True)
        if is_new or args.dry_run == "true":
            print(f"Time:\n  {estimate(common)}", flush=True)
        if args.dry_run == "true":
            return
        with held(directory, "htpo compare"):
            common = common._replace(digest=settle(plan, directory))
            fight(common)
        print(f"\n{tables_and_page(directory)}")
