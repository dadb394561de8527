"""
`htpo train` and `htpo eval`: their scripts by `accelerate launch`, as TRL's command does it, in one process or many.

The launcher builds no configuration: that would initialise devices and the process group in the parent.
"""

import logging
import math
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.commands import launch as accelerate_launch
from accelerate.commands.config import config_args
from accelerate.utils import prepare_simple_launcher_cmd_env
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ..output.reading import read_yaml
from ..output.terminal import WARNINGS
from ..scripts.arguments import ACCELERATE_CONFIGS, find, strict
from ..utils import UsageError
from .machines import patience, together


class Parallelism(NamedTuple):
    """How a run is spread, as far as can be known before it starts."""

    processes: int = 1
    machines: int = 1
    zero_stage: int = 0  #: 0: not DeepSpeed
    fsdp: bool = False
    offload: bool = False


def launch_arguments(
    tokens: Sequence[str], script: Sequence[str] = (), module: str = "htpo_trl.scripts.htpo"
) -> Namespace:
    """The arguments of `accelerate launch` for its flags, its configuration found by name, and the script's own."""
    parser = strict(accelerate_launch.launch_command_parser())
    parser.add_argument("--accelerate_config", dest="config_file")
    accelerate = parser.parse_args([*tokens, "--module", module, *script])
    name = accelerate.config_file
    if not name and not accelerate.cpu and os.path.isfile(config_args.default_config_file):
        name = config_args.default_config_file
    elif not name and not tokens and torch.cuda.device_count() < 2:
        name = "single"  # or accelerate warns that nobody told it so
    config: Any = {}
    if name:
        path = find(name, ACCELERATE_CONFIGS, "configuration of accelerate")
        accelerate.config_file = str(path)
        config = read_yaml(path)
        if not isinstance(config, dict):
            raise UsageError(f"{path} is no configuration of accelerate.")
        if not isinstance(config.get("distributed_type"), str):
            raise UsageError(
                f"{path} is no configuration of accelerate: it has no distributed_type. A recipe goes to --config."
            )
    is_one_machine = (accelerate.num_machines or config.get("num_machines") or 1) == 1
    if is_one_machine and accelerate.main_process_port is None and not config.get("main_process_port"):
        accelerate.main_process_port = 0  # a free one, so that runs can share a machine
    return accelerate


def parallelism(accelerate: Namespace) -> Parallelism:
    """How `accelerate launch` will spread a run. Raises a [`UsageError`] for arguments that it would refuse."""
    for option, low, high in (("num_processes", 1, math.inf), ("num_machines", 1, math.inf), ("zero_stage", 0, 3)):
        value = getattr(accelerate, option)
        if value is not None and not low <= int(value) <= high:
            bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise UsageError(f"{option}={value} must be {bounds}.")
    told = f"{accelerate.config_file}: " if accelerate.config_file else ""
    accelerate_launch.logger.disabled = True  # it warns of what it fills in, which the plan tells
    try:
        filled, *_ = accelerate_launch._validate_launch_command(accelerate)
        for option in ("num_processes", "num_machines", "machine_rank", "main_process_port"):
            if (value := getattr(filled, option)) is not None and type(value) is not int:
                raise ValueError(f"{option}={value!r:.60} must be a whole number.")
        devices = filled.offload_param_device, filled.offload_optimizer_device
        spread = Parallelism(
            max(filled.num_processes or 1, 1),
            filled.num_machines or 1,
            int(filled.zero_stage or 2) if filled.use_deepspeed else 0,
            bool(filled.use_fsdp),
            bool(filled.use_deepspeed and any(device not in (None, "none") for device in devices)),
        )
    except ValueError as error:
        raise UsageError(f"{told}{error!s:.500}") from error
    except (AttributeError, KeyError, TypeError) as error:  # of values of other kinds than it expects
        raise UsageError(f"{told}accelerate cannot use its values: {error!r:.200}.") from error
    if spread.processes % spread.machines:
        raise UsageError(
            f"num_processes={spread.processes} is that of all machines together, and must be a multiple of "
            f"num_machines={spread.machines}."
        )
    if spread.machines > 1 and not 0 <= (filled.machine_rank or 0) < spread.machines:
        raise UsageError(f"machine_rank={filled.machine_rank} must lie in 0..{spread.machines - 1}.")
    low, port = 1 if spread.machines > 1 else 0, filled.main_process_port
    if port is not None and not low <= port <= 65535:
        raise UsageError(f"main_process_port={port} must lie in {low}..65535.")
    patience(accelerate)  # raises for what is no time
    return spread


def launch(accelerate: Namespace, command: str = "htpo train") -> None:
    """Run the script, and exit with the code of the process that failed first."""
    if accelerate.use_fsdp and not torch.accelerator.is_available():
        raise UsageError(
            "FSDP needs GPUs, and there is none here: on a CPU accelerate would train by plain copies of the model. "
            "Set --accelerate_config to zero3-cpu, or to ddp-cpu."
        )
    if (accelerate.num_machines or 1) > 1 and not accelerate.main_process_ip:
        raise UsageError(
            f"num_machines={accelerate.num_machines}: set main_process_ip and main_process_port, those of the machine "
            "of rank 0, on all machines."
        )
    # DeepSpeed compiles operators by ninja, which lies beside an interpreter whose environment may not be active.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # After Ctrl-C or SIGTERM torch kills workers in 30 s, be it in the middle of a step (torch from 2.9).
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    # It hands on what it handles; else it would take SIGHUP from `nohup`, and die of other warnings alone.
    passed_on = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, *WARNINGS)
    names = [signum.name for signum in passed_on if signal.getsignal(signum) is not signal.SIG_IGN]
    accelerate.signals_to_handle = ",".join(names)  # torch's option, which accelerate hands over
    # Accelerate waits for a single process without passing it signals: become that process instead.
    accelerate_launch.simple_launcher = _become
    # Of a process that failed, the line below and its own words tell.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    with together(accelerate, command) as machines:
        try:
            accelerate_launch.launch_command(accelerate)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
            line, name = f"rank {rank} failed first, with exit code {code}", command
            is_told = code == 2 or failure.exitcode in (128 + signum for signum in (signal.SIGINT, *passed_on))
            if machines:
                name, elsewhere = machines.name, machines.failed(code, line)
                line, code = elsewhere or (line, code)
                is_told = is_told and not (elsewhere and code == 2)
            if not is_told:
                print(f"{name}: {line}.", file=sys.stderr)
            sys.exit(code)
        except SignalException as error:
            sys.exit(128 + error.sigval)
        except ImportError as error:
            raise UsageError(f"{error} For DeepSpeed: pip install 'htpo_trl[deepspeed]'") from error


def _become(accelerate: Any) -> None:
    if (accelerate.num_processes or 1) > 1 and not accelerate.mpirun_hostfile:
        raise UsageError(
            f"num_processes={accelerate.num_processes}, but accelerate would start a single process: no configuration "
            "says how to spread it, and there are no two GPUs here. Set --accelerate_config to ddp, or to ddp-cpu."
        )
    command, environment = prepare_simple_launcher_cmd_env(accelerate)
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)
