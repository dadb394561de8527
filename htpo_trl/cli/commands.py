"""The `htpo` command: a small class for each sub-command. Nothing here needs torch before there is work to do."""

import inspect
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..objective.table import PRESETS
from ..scripts.arguments import ACCELERATE_CONFIGS, RECIPES, find, mendable, names, set_environment, strict
from ..scripts.flags import describe
from ..utils import UsageError


_TRAIN_HELP = """\
usage: htpo train [--config RECIPE] [--accelerate_config NAME] [--dry_run] [--OPTION VALUE ...]

Train by HTPO. The options are the fields of the classes below, in the recipe (YAML) or as flags; flags win.

  --config RECIPE            a YAML file, or one of the package's recipes: {recipes}
  --accelerate_config NAME   a configuration of accelerate, a file or one of: {accelerate}
  --dry_run                  print the plan (batches, optimizer steps, memory, what is off-policy) and stop

All other options of `accelerate launch` (--num_processes, --num_machines, ...) are passed on to it.
The DAPO baseline of a run: --objective dapo. To go on after a stop: --resume_from_checkpoint true.
"""


class Command:
    """A sub-command. The docstring is its help, the first line the short one."""

    has_flags = False  #: whether it reads options of its own, the fields of classes; `args.options` are their tokens

    def arguments(self, parser: ArgumentParser) -> None:
        """Add its arguments to its parser."""

    def run(self, args: Namespace) -> None:
        """Do it. What the user can mend ends in [`~htpo_trl.scripts.arguments.mendable`]."""
        raise NotImplementedError


class Train(Command):
    """Train by HTPO: a recipe, flags, any launcher of accelerate."""

    has_flags = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry_run", "--dry-run", action="store_true")

    def run(self, args: Namespace) -> None:
        from ..scripts.htpo import TITLES, read_options

        if args.help:
            print(
                _TRAIN_HELP.format(recipes=", ".join(names(RECIPES)), accelerate=", ".join(names(ACCELERATE_CONFIGS)))
            )
            print(describe(TITLES))
            return
        from .launch import launch, launch_arguments, parallelism

        with mendable("htpo train", ValueError, ImportError, OSError):
            arguments = read_options(args.options)
            accelerate = launch_arguments(arguments.launch, args.options)
            set_environment(arguments.env)
            spread = parallelism(accelerate)
            if args.dry_run:
                from .plan import plan_run

                print(plan_run(arguments, spread))
                return
        launch(accelerate)


class Eval(Command):
    """Evaluate a model: mean@n, pass@k, maj@k with intervals. Killed and called again, it goes on."""

    has_flags = True

    def run(self, args: Namespace) -> None:
        from ..scripts.evaluate import TITLES, main

        if args.help:
            print("usage: htpo eval --model MODEL --benchmarks NAME ... [--config FILE] [--OPTION VALUE ...]")
            print(f"\n{self.__doc__}\n{describe(TITLES)}")
        else:
            main(args.options)


class Demo(Command):
    """
    Train a small model on a laptop and see what HTPO does to which tokens.

    A small Qwen3 learns countdown by a supervised warm start, then by HTPO; evaluated before and after, with tables
    and pictures. About 8 minutes on two CPU cores, without downloads.
    """

    def arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--objective", choices=PRESETS, default="htpo", help="preset of the objective table")
        add("--seed", type=int, default=0, help="seed of the model, the warm start and the reinforcement")
        add("--steps", type=int, default=160, help="optimizer steps of reinforcement")
        add("--warm_start_steps", type=int, default=2000, help="supervised steps before it")
        add("--output_dir", default="runs/laptop", help="where runs and warm starts are kept")
        add("--threads", type=int, help="CPU threads; by default one or two, whichever is faster now")
        add("--quick", action="store_true", help="a smoke run: a few steps of everything, learns nothing")

    def run(self, args: Namespace) -> None:
        from ..demo.laptop import LaptopConfig, run
        from ..report import require_matplotlib

        with mendable("htpo demo", ValueError, ImportError):
            require_matplotlib()  # before the work, so that it does not fail after it
            config = LaptopConfig(**{field.name: getattr(args, field.name) for field in fields(LaptopConfig)})
        run(config)


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

        with mendable("htpo tokens", ValueError, ImportError, OSError):
            if args.terminal:
                print_token_map(args.run, args.step, args.versus)
            else:
                print(write_token_map(args.run, args.step, args.versus, args.output))


class Report(Command):
    """
    Compare runs: one page with curves, intervals and differences.

    A self-contained page, index.html, and its pictures from the run directories alone: of htpo train, demo and eval,
    and of plain TRL runs. Runs whose options agree but for the seed and where output goes form a set; differences
    are to the first set.
    """

    def arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("runs", nargs="+", metavar="RUN", help="a run directory, or NAME=DIR to name its set")
        add("--output_dir", default="report", help="where the page and its pictures go")

    def run(self, args: Namespace) -> None:
        from ..report import RunError, write_report

        with mendable("htpo report", RunError, ImportError, OSError):
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
            print(source.read_text(), end="")
            return
        target = Path(args.to or source.name)
        if target.exists():
            raise UsageError(f"{target} exists. Name another file: htpo recipes copy {args.recipe} FILE.")
        with mendable("htpo recipes", OSError):
            target.write_bytes(source.read_bytes())
        print(f"{target}: change it, then htpo train --config {target}")


class Env(Command):
    """Show versions and devices, for bug reports."""

    def run(self, args: Namespace) -> None:
        import platform

        import torch

        from ..utils import PACKAGES, versions

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        rows = {
            "Python": platform.python_version(),
            "Platform": platform.platform(),
            **dict.fromkeys(PACKAGES, "not installed"),
            **versions(),
            "GPUs": ", ".join(devices) or "none",
            "CUDA of torch": torch.version.cuda or "none",
        }
        print("\n".join(f"- {name}: {value}" for name, value in rows.items()))


#: The sub-commands by name.
COMMANDS: dict[str, Command] = {
    **{"train": Train(), "eval": Eval(), "demo": Demo(), "tokens": Tokens(), "report": Report()},
    **{"recipes": Recipes(), "env": Env()},
}


def make_parser() -> ArgumentParser:
    """The parser of the `htpo` command; `train` and `eval` read their own options."""
    parser = strict(ArgumentParser(prog="htpo", description="HTPO for TRL: every token learns by its group."))
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        text = inspect.getdoc(command) or ""
        own = subparsers.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            add_help=not command.has_flags,
            allow_abbrev=False,
            formatter_class=ArgumentDefaultsHelpFormatter,
        )
        if command.has_flags:
            own.add_argument("--help", "-h", action="store_true")
        command.arguments(strict(own))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `htpo` command."""
    argv = sys.argv[1:] if argv is None else list(argv)
    with mendable(" ".join(["htpo", *({*argv[:1]} & {*COMMANDS})])):
        args, options = make_parser().parse_known_args(argv)
        command, args.options = COMMANDS[args.command], options
        if options and not command.has_flags:
            raise UsageError(f"{options[0]!r} is not an option.")
        command.run(args)
