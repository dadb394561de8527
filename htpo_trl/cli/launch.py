"""
`htpo train`: the training script by `accelerate launch`, as TRL's command does it, in one process or many.

The launcher builds no configuration: that would initialise devices and the process group in the parent.
"""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..scripts.arguments import ACCELERATE_CONFIGS, UsageError, find, read
from ..scripts.htpo import flags


#: The module that every process runs.
SCRIPT = "htpo_trl.scripts.htpo"


class Layout(NamedTuple):
    """How a run is spread, as far as can be known before it starts."""

    processes: int
    machines: int
    zero_stage: int  #: 0: not DeepSpeed
    fsdp: bool
    offload: bool


def train(argv: Sequence[str]) -> None:
    """
    Launch the training script with the options of a command line, or plan it (`--dry_run`). Exits with its code.

    Raises:
        UsageError: for what can be known before anything starts.
    """
    import torch
    from accelerate.commands.config.config_args import default_config_file
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()
    arguments = read([t for t in argv if t != "--dry_run"], flags(), vars(parser.parse_args(["script"])))
    tokens = arguments.launch
    if not (tokens or os.path.isfile(default_config_file) or torch.cuda.device_count() > 1):
        tokens = ["--accelerate_config=single"]  # or accelerate warns that nobody told it so
    config, launch_tokens = _accelerate_config(tokens)
    accelerate = parser.parse_args([*launch_tokens, "--module", SCRIPT, *arguments.own])
    if "--dry_run" in argv:
        from .plan import plan

        print(plan(arguments, _layout(accelerate, config)))
    else:
        _launch(accelerate, config)


def _accelerate_config(tokens: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Content of the accelerate configuration, and the tokens with `--accelerate_config` as accelerate's own flag."""
    import yaml

    names = [i for i, token in enumerate(tokens) if token.partition("=")[0] == "--accelerate_config"]
    if not names:
        return {}, tokens
    name, rest, path = names[-1], tokens, Path()
    for i in reversed(names):  # the last one wins
        value = tokens[i].partition("=")[2] or (tokens[i + 1] if i + 1 < len(tokens) else "")
        if i == name:
            path = find(value, ACCELERATE_CONFIGS, "configuration of accelerate")
        rest = rest[:i] + rest[i + (1 if "=" in tokens[i] else 2) :]
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no configuration of accelerate.")
    return content, ["--config_file", str(path), *rest]


def _layout(accelerate: Any, config: dict[str, Any]) -> Layout:
    import torch

    def setting(name: str, default: Any) -> Any:
        value = getattr(accelerate, name, None)
        return value if value not in (None, False) else config.get(name, default)

    deepspeed = config.get("deepspeed_config") or {}
    uses_deepspeed = accelerate.use_deepspeed or config.get("distributed_type") == "DEEPSPEED"
    offload = {deepspeed.get(f"offload_{what}_device", "none") for what in ("param", "optimizer")} != {"none"}
    return Layout(
        int(setting("num_processes", max(torch.cuda.device_count(), 1))),
        int(setting("num_machines", 1)),
        int(deepspeed.get("zero_stage", accelerate.zero_stage or 2)) if uses_deepspeed else 0,
        bool(accelerate.use_fsdp or config.get("distributed_type") == "FSDP"),
        offload,
    )


def _launch(accelerate: Any, config: dict[str, Any]) -> None:
    from accelerate.commands import launch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # DeepSpeed compiles operators by ninja, which lies beside an interpreter whose environment may not be active.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # After Ctrl-C or SIGTERM torch kills workers in 30 s, be it in the middle of a step (torch from 2.9).
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    if accelerate.main_process_port is None and (accelerate.num_machines or config.get("num_machines") or 1) == 1:
        accelerate.main_process_port = _free_port()  # so that runs can share a machine
    # Accelerate waits for a single process without passing it signals: become that process instead.
    launch.simple_launcher = _become
    try:
        launch.launch_command(accelerate)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        print(f"htpo train: rank {rank} failed first, with exit code {code}.", file=sys.stderr)
        sys.exit(code)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ImportError as error:
        raise UsageError(f"{error} For DeepSpeed: pip install 'htpo_trl[deepspeed]'") from error


def _become(accelerate: Any) -> None:
    from accelerate.utils import prepare_simple_launcher_cmd_env

    command, environment = prepare_simple_launcher_cmd_env(accelerate)
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
