"""The `htpo` command. Nothing here needs torch before there is something to run."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..scripts.arguments import RECIPES, UsageError, find, names


#: The presets. Kept beside the parser, so that --help needs no torch; a test compares it with the table of presets.
OBJECTIVES = ("htpo", "htpo-released", "dapo", "high-entropy-only", "gppo", "aspo")

#: Head of `htpo train --help`; the options follow.
TRAIN_HELP = """\
usage: htpo train [--config RECIPE] [--accelerate_config NAME] [--dry_run] [--OPTION VALUE ...]

Train by HTPO. The options are the fields of the classes below, in the recipe (YAML) or as flags; flags win.

  --config RECIPE            a YAML file, or one of the package's recipes: {recipes}
  --accelerate_config NAME   a configuration of accelerate, a file or one of: {accelerate}
  --dry_run                  print the plan (batches, optimizer steps, memory, what is off-policy) and stop

All other options of `accelerate launch` (--num_processes, --num_machines, ...) are passed on to it.
The DAPO baseline of a run: --objective dapo. To go on after a stop: --resume_from_checkpoint true.
"""
#: Head of `htpo eval --help`.
EVAL_HELP = """\
usage: htpo eval --model MODEL --benchmarks NAME ... [--config FILE] [--OPTION VALUE ...]

Sample, judge and summarise: mean@n, pass@k and maj@k with 95% intervals. Killed and called again, it goes on.
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the `htpo` command; `train` and `eval` read their own options."""
    parser = argparse.ArgumentParser(prog="htpo", description="HTPO for TRL: every token learns by its group.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train by HTPO: a recipe, flags, any launcher of accelerate", add_help=False)
    commands.add_parser("eval", help="evaluate a model: mean@n, pass@k, maj@k with intervals", add_help=False)
    demo = commands.add_parser(
        "demo",
        help="train a small model on a laptop and see what HTPO does to which tokens",
        description="The laptop main job: a small Qwen3 learns countdown by a supervised warm start, then by HTPO; "
        "evaluated before and after, with tables and pictures. About 8 minutes on two CPU cores, without downloads.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--objective", choices=OBJECTIVES, default="htpo", help="preset of the objective table")
    demo.add_argument("--seed", type=int, default=0, help="seed of the model, the warm start and the reinforcement")
    demo.add_argument("--steps", type=int, default=160, help="optimizer steps of reinforcement")
    demo.add_argument("--warm_start_steps", type=int, default=2000, help="supervised steps before it")
    demo.add_argument("--output_dir", default="runs/laptop", help="where runs and warm starts are kept")
    demo.add_argument("--threads", type=int, help="CPU threads; by default one or two, whichever is faster now")
    demo.add_argument("--quick", action="store_true", help="a smoke run: a few steps of everything, learns nothing")
    tokens = commands.add_parser(
        "tokens",
        help="show recorded completions, every token coloured by its group",
        description="The token map of a recorded optimizer step: what the objective did to which token. A run records "
        "tokens with --record_tokens_steps; `htpo demo` always does.",
    )
    tokens.add_argument("--run", required=True, help="directory of the run")
    tokens.add_argument("--step", type=int, help="a recorded optimizer step, by default the last")
    tokens.add_argument("--versus", choices=OBJECTIVES, help="preset to show beside the objective of the run")
    tokens.add_argument("--output", help="HTML page to write, by default RUN/tokens/step-N.html")
    tokens.add_argument("--terminal", action="store_true", help="print to the terminal instead")
    report = commands.add_parser(
        "report",
        help="compare runs: one page with curves, intervals and differences",
        description="One self-contained page, index.html, and its pictures from the run directories alone: of htpo "
        "train, demo and eval, and of plain TRL runs. Runs whose options agree but for the seed and where output goes "
        "form a set; differences are to the first set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="a run directory, or NAME=DIR to name its set")
    report.add_argument("--output_dir", default="report", help="where the page and its pictures go")
    recipes = commands.add_parser("recipes", help="list, show and copy the package's recipes")
    actions = recipes.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="name and first line of each")
    show = actions.add_parser("show", help="print one")
    copy = actions.add_parser("copy", help="copy one, to change it")
    for action in (show, copy):
        action.add_argument("name")
    copy.add_argument("to", nargs="?", help="file to write, by default the recipe's name in this directory")
    commands.add_parser("env", help="versions and devices, for bug reports")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `htpo` command."""
    argv = sys.argv[1:] if argv is None else list(argv)
    command, options = (argv[0], argv[1:]) if argv else (None, [])
    try:
        if command == "train":
            _train(options)
        elif command == "eval":
            _eval(options)
        else:
            _other(make_parser().parse_args(argv))
    except UsageError as error:
        print(f"htpo {command}: {error}", file=sys.stderr)
        sys.exit(2)


def _train(argv: list[str]) -> None:
    if {"-h", "--help"} & set(argv):
        from ..scripts.arguments import ACCELERATE_CONFIGS
        from ..scripts.flags import describe
        from ..scripts.htpo import TITLES, flags

        print(TRAIN_HELP.format(recipes=", ".join(names(RECIPES)), accelerate=", ".join(names(ACCELERATE_CONFIGS))))
        print(describe(flags(), TITLES))
        return
    from .launch import train

    train(argv)


def _eval(argv: list[str]) -> None:
    from ..scripts.evaluate import TITLES, flags, main

    if {"-h", "--help"} & set(argv):
        from ..scripts.flags import describe

        print(EVAL_HELP)
        print(describe(flags(), TITLES))
        return
    main(argv)


def _other(arguments: argparse.Namespace) -> None:
    if arguments.command == "demo":
        from ..demo.laptop import LaptopConfig, run

        options = vars(arguments)
        del options["command"]
        run(LaptopConfig(**options))
    elif arguments.command == "tokens":
        _tokens(arguments)
    elif arguments.command == "report":
        from ..report import RunError, write_report

        try:
            print(write_report(arguments.runs, arguments.output_dir))
        except (RunError, ImportError, OSError) as error:
            raise UsageError(str(error)) from None
    elif arguments.command == "env":
        from ..utils import report

        print(report())
    elif arguments.action == "list":
        for name in names(RECIPES):
            first = find(name, RECIPES, "recipe").read_text().splitlines()[0].lstrip("# ")
            print(f"{name:24}  {first}")
    elif arguments.action == "show":
        print(find(arguments.name, RECIPES, "recipe").read_text(), end="")
    else:
        source = find(arguments.name, RECIPES, "recipe")
        target = Path(arguments.to or source.name)
        if target.exists():
            raise UsageError(f"{target} exists. Name another file: htpo recipes copy {arguments.name} FILE.")
        shutil.copyfile(source, target)
        print(f"{target}: change it, then htpo train --config {target}")


def _tokens(arguments: argparse.Namespace) -> None:
    from ..tokens import print_token_map, write_token_map

    try:
        if arguments.terminal:
            print_token_map(arguments.run, arguments.step, arguments.versus)
        else:
            print(write_token_map(arguments.run, arguments.step, arguments.versus, arguments.output))
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from error
