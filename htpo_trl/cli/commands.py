"""The `htpo` command: a small class for each sub-command. Nothing here needs torch before there is work to do."""

import inspect
import json
import os
import platform
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from ..check.parts import PARTS
from ..output.reading import MAX_YAML_BYTES, read_text
from ..output.redaction import redact_text
from ..output.terminal import printable, steady_streams, stoppable
from ..output.writing import write_atomically
from ..scripts import evaluate, htpo
from ..scripts.arguments import ACCELERATE_CONFIGS, RECIPES, find, mendable, names, parser_of, strict
from ..scripts.flags import describe
from ..utils import PACKAGES, UsageError, versions
from .command import Command, add_dry_run
from .comparison import Compare


class Train(Command):
    """
    Train by HTPO: a recipe, flags, any launcher of accelerate.

    The options are the fields of the classes below, in the recipe (YAML) or as flags; flags win.

      --config RECIPE            a YAML file, or one of the package's recipes: {recipes}
      --accelerate_config NAME   a configuration of accelerate, a file or one of: {accelerate}
      --dry_run                  print the plan (batches, optimizer steps, memory, what is off-policy) and stop

    All other options of `accelerate launch` (--num_processes, --num_machines, ...) are passed on to it.
    The DAPO baseline of a run: --objective dapo. To go on after a stop: --resume_from_checkpoint true.
    """

    usage = "htpo train [--config RECIPE] [--accelerate_config NAME] [--dry_run] [--OPTION VALUE ...]"
    titles = htpo.TITLES

    def arguments(self, parser: ArgumentParser) -> None:
        add_dry_run(parser)

    def run(self, args: Namespace) -> None:
        from .launch import launch, launch_arguments, parallelism

        arguments = htpo.read_options(args.options)
        accelerate = launch_arguments(arguments.launch, args.options)
        spread = parallelism(accelerate)
        if args.dry_run == "false":
            launch(accelerate)
            return
        from .plan import plan_run

        print(printable(redact_text(plan_run(arguments, spread))))


class Eval(Command):
    """
    Evaluate a model: mean@n, pass@k, maj@k with intervals. Killed and called again, it goes on.

    The options are the fields of the classes below, as flags or in a YAML file.

      --config FILE              a YAML file of options
      --accelerate_config NAME   a configuration of accelerate: several processes share the samples out
      --dry_run                  print what would be done and stop

    All other options of `accelerate launch` (--num_processes, --num_machines, ...) are passed on to it. Without them,
    and without --data_parallel_size, it is one process.
    """

    usage = "htpo eval --model MODEL --benchmarks NAME ... [--config FILE] [--dry_run] [--OPTION VALUE ...]"
    titles = evaluate.TITLES
    when_stopped = evaluate.WHEN_STOPPED

    def arguments(self, parser: ArgumentParser) -> None:
        add_dry_run(parser)

    def run(self, args: Namespace) -> None:
        from .evaluation import run_evaluation

        run_evaluation(args.options, args.dry_run == "true")


class Demo(Command):
    """
    Train a small model on a laptop and see what HTPO does to which tokens.

    A small Qwen3 learns countdown by HTPO, from a supervised warm start that the package brings; evaluated before and
    after, with tables and pictures. About 3 minutes on two CPU cores, without downloads.
    """

    usage = "htpo demo [--OPTION VALUE ...]"
    titles = {"htpo_trl.demo.laptop.LaptopConfig": "Options"}
    when_stopped = "The same command starts the reinforcement anew; a fresh warm start that is complete stays."

    def run(self, args: Namespace) -> None:
        print("Loading torch, transformers and TRL takes some seconds.", flush=True)
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed, where it is installed, warns of no GPU
        from ..demo.laptop import LaptopConfig, run

        run(LaptopConfig(**vars(parser_of(LaptopConfig).parse_args(args.options))))


class Tokens(Command):
    """
    Show recorded completions, every token coloured by its group.

    A run records tokens with --record_tokens_steps; `htpo demo` always does.
    """

    def arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--run", required=True, help="directory of the run")
        add("--step", type=int, help="a recorded optimizer step, by default the last")
        add("--versus", metavar="OBJECTIVE", help="a preset, or mine.py:TABLE, to show beside that of the run")
        add("--output", help="HTML page to write, by default RUN/tokens/step-N.html or step-N-versus-OBJECTIVE.html")
        add("--terminal", action="store_true", help="print to the terminal instead")

    def run(self, args: Namespace) -> None:
        from ..tokens import print_token_map, write_token_map

        if args.output and (args.terminal or Path(args.output).suffix != ".html"):
            # It is written over what is there: not over a recipe, say.
            raise UsageError(f"--output {args.output} must name a page, FILE.html, and goes without --terminal.")
        with mendable("htpo tokens", OSError):
            if args.terminal:
                print_token_map(args.run, args.step, args.versus)
            else:
                print(write_token_map(args.run, args.step, args.versus, args.output))


class Report(Command):
    """
    Compare runs: one page with curves, intervals and differences.

    A self-contained page, index.html, and its pictures from the run directories alone: of htpo train, demo and eval,
    and of plain TRL runs. Runs whose options agree but for the seed and where output goes form a set; differences
    are to the first set. Of a directory of htpo compare: that fight's tables and page, from its plan and results.
    """

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory, or NAME=DIR to name its set")
        parser.add_argument("--output_dir", default="report", help="of the page and its pictures, by default report/")

    def run(self, args: Namespace) -> None:
        from ..compare.plan import PLAN
        from ..compare.report import tables_and_page
        from ..report import write_report

        fights = [run for run in args.runs if Path(run, PLAN).is_file()]
        if fights and len(args.runs) > 1:
            raise UsageError(f"{fights[0]} is a fight of htpo compare, which is reported alone: name nothing else.")
        with mendable("htpo report", OSError):
            if fights:
                print(tables_and_page(fights[0], args.output_dir))
            else:
                print(write_report(args.runs, args.output_dir))


class Recipes(Command):
    """List, show and copy the package's recipes."""

    def arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="name and first line of each")
        show = actions.add_parser("show", help="print one")
        copy = actions.add_parser("copy", help="copy one, to change it")
        for action in (show, copy):
            strict(action).add_argument("recipe", metavar="NAME")
        copy.add_argument("to", nargs="?", help="file to write, by default the recipe's name in this directory")

    def run(self, args: Namespace) -> None:
        if args.action == "list":
            for name in names(RECIPES):
                print(f"{name:24}  {find(name, RECIPES, 'recipe').read_text().splitlines()[0].lstrip('# ')}")
            return
        source = find(args.recipe, RECIPES, "recipe")
        if args.action == "show":
            print(read_text(source, MAX_YAML_BYTES), end="")
            return
        target = Path(args.to or source.name)
        if target.exists():
            raise UsageError(f"{target} exists. Name another file: htpo recipes copy {args.recipe} FILE.")
        write_atomically(target, read_text(source, MAX_YAML_BYTES))
        print(f"{target}: change it, then htpo train --config {target}")


class Objectives(Command):
    """List and show the published objectives and advantages, or a table of your own."""

    def arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        every = actions.add_parser("list", help="name, source and rule or formula of each")
        one = actions.add_parser("show", help="table, formulas, source, settings, what it needs, what is left out")
        strict(one).add_argument("name", metavar="NAME", help="of a preset or an advantage, or mine.py:TABLE")
        for action in (every, one):
            strict(action).add_argument("--json", action="store_true", help="as JSON")

    def run(self, args: Namespace) -> None:
        from ..advantages import ESTIMATORS
        from ..objective import description
        from ..objective.presets import PRESETS, get_table

        tables, estimators = [*PRESETS.values()], [*ESTIMATORS.values()]
        if is_one := args.action == "show":
            estimators = [each for each in estimators if each.name == args.name]
            tables = [get_table(args.name)] if args.name in PRESETS or not estimators else []
        if args.json:
            told = {
                "objectives": [*map(description.describe, tables)],
                "advantages": [e.describe() for e in estimators],
            }
            print(json.dumps(told, indent=1, ensure_ascii=False))
            return
        lines = [*map(description.show, tables)] if is_one else ["Objectives", *map(description.summary, tables)]
        lines += ["", "Advantages", *(each.summary() for each in estimators)] if estimators else []
        print(printable("\n".join(lines).strip()))


class Env(Command):
    """Show versions and devices, for bug reports."""

    def run(self, args: Namespace) -> None:
        import torch

        rows = {
            "Python": platform.python_version(),
            "Platform": platform.platform(),
            **dict.fromkeys(PACKAGES, "not installed"),
            **versions(),
            "GPUs": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
            "CUDA of torch": torch.version.cuda or "none",
        }
        print("\n".join(f"- {name}: {value}" for name, value in rows.items()))


class Check(Command):
    """
    Prove this installation on this machine, offline, in a few minutes.

    Prints what was looked at, expected and found, and writes it as JSON, for bug reports. The exit code is 0 if all
    is well and 1 if something is red or nothing was checked. The parts:

    {parts}
    """

    when_stopped = "Its JSON has what was found so far."

    def arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--parts", nargs="+", metavar="PART", help="only these, which must be able to run here")
        add("--skip", nargs="+", default=[], metavar="PART", help="all but these")
        add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="by default a GPU, if there is one")
        add("--deadline", type=float, default=300.0, help="seconds that a part may take, 300 by default")
        add("--output", default="htpo_check.json", help="JSON file, by default htpo_check.json")

    def run(self, args: Namespace) -> None:
        from ..check.run import run_check

        with mendable("htpo check", OSError):
            is_well = run_check(Path(args.output), args.parts, args.skip, args.device, args.deadline)
        if not is_well:
            sys.exit(1)


#: The sub-commands by name.
COMMANDS: dict[str, Command] = {
    kind.__name__.lower(): kind()
    for kind in (Train, Eval, Compare, Demo, Tokens, Report, Recipes, Objectives, Check, Env)
}


def make_parser() -> ArgumentParser:
    """The parser of the `htpo` command; `train`, `eval` and `demo` read their own options, the fields of classes."""
    parser = strict(ArgumentParser(prog="htpo", description="HTPO for TRL: every token learns by its group."))
    subparsers = parser.add_subparsers(dest="command", required=True)
    packaged = {"recipes": ", ".join(names(RECIPES)), "accelerate": ", ".join(names(ACCELERATE_CONFIGS))}
    packaged["parts"] = "\n".join(f"  {name:12} {part.title}" for name, part in PARTS.items())
    for name, command in COMMANDS.items():
        text = (inspect.getdoc(command) or "").format(**packaged)
        own = subparsers.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            usage=command.usage,
            allow_abbrev=False,
            formatter_class=RawDescriptionHelpFormatter,
        )
        if command.titles:
            own.format_help = lambda own=own, text=text, titles=command.titles: (  # type: ignore[misc, method-assign]
                f"{own.format_usage()}\n{text}\n{describe(titles)}\n"
            )
        command.arguments(strict(own))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `htpo` command."""
    steady_streams()
    argv = sys.argv[1:] if argv is None else list(argv)
    name = " ".join(["htpo", *({*argv[:1]} & {*COMMANDS})])
    with mendable(name):
        args, options = make_parser().parse_known_args(argv)
        command, args.options = COMMANDS[args.command], options
        if options and not command.titles:
            raise UsageError(f"{options[0]!r} is not an option.")
        with stoppable(name, command.when_stopped):
            command.run(args)
