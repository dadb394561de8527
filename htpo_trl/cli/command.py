"""What the sub-commands of `htpo` have in common."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping


class Command:
    """A sub-command. The docstring is its help, the first line the short one."""

    usage: str | None = None
    when_stopped = "Nothing is left of it."  #: what its user is told after Ctrl-C or another signal
    titles: Mapping[str, str] = {}  #: class → title: its options are their fields, `args.options` has the tokens

    def arguments(self, parser: ArgumentParser) -> None:
        """Add its arguments to its parser."""

    def run(self, args: Namespace) -> None:
        """Do it. What the user can mend ends in [`~htpo_trl.scripts.arguments.mendable`]."""
        raise NotImplementedError


def add_dry_run(parser: ArgumentParser) -> None:
    """The switch that prints the plan and stops."""
    # As the switches of transformers' parser, which take a value too.
    switch = {"nargs": "?", "const": "true", "default": "false", "type": str.lower, "choices": ("true", "false")}
    parser.add_argument("--dry_run", "--dry-run", **switch)  # type: ignore[arg-type]
