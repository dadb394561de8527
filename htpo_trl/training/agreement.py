"""
What the processes of a run must agree on, asked before they work together: another option, file or version on one of
them would train something else there without a word, or leave the others waiting in a collective.
"""

import os
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType, gather_object

from ..utils import UsageError, main_process_decides


#: Seconds until a file of one machine is seen on another, where they share a file system.
SEEN_AFTER = 20


def check_same(mine: Mapping[str, Any]) -> None:
    """
    Compare what each process has; called on all of them.

    Raises:
        UsageError: on all processes, naming what differs, on which machine, and both values.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    everyone = gather_object([(socket.gethostname(), dict(mine))])
    (first_host, first), *others = everyone
    for rank, (host, theirs) in enumerate(others, start=1):
        names = {**first, **theirs}.keys() - {"dataset_path"}  # a copy may lie anywhere
        if differing := sorted(name for name in names if first.get(name) != theirs.get(name)):
            told = "; ".join(
                f"{name} is {first.get(name)!r:.80} there and {theirs.get(name)!r:.80} here" for name in differing[:5]
            )
            raise UsageError(
                f"Rank {rank} on {host} would run something else than rank 0 on {first_host}: {told}. Give all "
                "machines the same options, files and packages."
            )


def check_output_dir(args: Any, accelerator: Any) -> None:
    """
    See to it that a checkpoint will be in one place: in an `output_dir` that all machines share, or, with
    `save_on_each_node`, on the disk of each. Called on all processes, by those of one machine too.

    Raises:
        UsageError: on all processes, naming the machines.
    """
    if accelerator.num_processes == 1:
        return
    with ExitStack() as stack:

        def marker() -> str:
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="_machines_", dir=args.output_dir))
            return Path(file.name).name

        name = main_process_decides(marker)
        is_first_here = accelerator.is_local_main_process
        seen = not is_first_here or _is_seen(args, name)
        everyone = gather_object([(socket.gethostname(), is_first_here, seen)])
    machines = [(host, sees) for host, is_first, sees in everyone if is_first]
    blind = [host for host, sees in machines if not sees]
    is_divided = accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)
    place = "Name a directory on storage that all machines share"
    if blind and (is_divided or not args.save_on_each_node):
        or_else = "" if is_divided else ", or set save_on_each_node to true: each then keeps what it needs to go on"
        raise UsageError(
            f"output_dir={str(args.output_dir)!r} on {', '.join(blind[:5])} is not that on {machines[0][0]}: a "
            f"checkpoint would lie in pieces on several disks. {place}{or_else}."
        )
    if args.save_on_each_node and len(machines) > 1 and not blind:
        raise UsageError(
            f"save_on_each_node=True, but the machines share output_dir={str(args.output_dir)!r}: they would write "
            "the same files at once. Leave it out."
        )


def _is_seen(args: Any, name: str) -> bool:
    path = Path(args.output_dir, name)
    until = time.monotonic() + (1 if args.save_on_each_node else SEEN_AFTER)
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
