"""
One part of `htpo check`, in a process of its own: `python -m htpo_trl.check PART DEVICE DIRECTORY`.

What it finds goes, a line of JSON each, to DIRECTORY/findings.jsonl. It lives no longer than who holds the other end
of its standard input.
"""

import gc
import json
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from ..utils import UsageError
from .parts import PARTS, CannotRunError, Machine


def main() -> None:
    """Run the part; its exit code is 1, with a traceback, where it fails itself."""
    name, device, directory = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Path(directory, "findings.jsonl").open("a", encoding="utf-8") as lines:

        def tell(**record: Any) -> None:
            lines.write(json.dumps(record) + "\n")
            lines.flush()

        machine = Machine({"auto": None}.get(device, device), Path(directory), tell)
        module, function = PARTS[name].place.split(":")
        # Nothing is logged to a tracker, and TRL would import wandb: a third of what a part takes to start.
        sys.modules["wandb"] = None  # type: ignore[assignment]
        try:
            find = getattr(import_module(f".{module}", __package__), function)
            gc.collect()
            gc.freeze()  # accelerate collects garbage after each run, and would look through all that was imported
            for finding in find(machine):
                tell(**finding._asdict())
        except CannotRunError as reason:
            tell(skipped=str(reason))
        except UsageError as error:
            tell(error=str(error))
        else:
            tell(done=True)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
