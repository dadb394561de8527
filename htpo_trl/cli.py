"""The `htpo` command."""

import argparse
from collections.abc import Sequence


# Kept beside the parser, so that --help needs no torch; a test compares it with the table of presets.
OBJECTIVES = ("htpo", "htpo-released", "dapo", "high-entropy-only", "gppo", "aspo")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the `htpo` command."""
    parser = argparse.ArgumentParser(prog="htpo", description="HTPO for TRL: every token learns by its group.")
    commands = parser.add_subparsers(dest="command", required=True)
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
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `htpo` command."""
    arguments = vars(make_parser().parse_args(argv))
    del arguments["command"]

    from .laptop import LaptopConfig, run

    run(LaptopConfig(**arguments))
