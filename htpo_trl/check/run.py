"""Runs the parts of `htpo check`, each in a process of its own, prints what they find and keeps it as JSON."""

import getpass
import json
import math
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..output.redaction import redact_text
from ..output.terminal import printable
from ..output.writing import check_writable, write_json
from ..utils import UsageError, nearest, versions
from .parts import PARTS


#: Version of the JSON; docs/command_line.md says what is in it.
SCHEMA = 1
#: Lines of a failed part's output that are shown and kept.
LAST_LINES = 15
_MARKS = {True: "ok", False: "RED", None: "--"}
# A file's folders, but for those that every machine has. A name follows them, or nothing.
_FOLDERS = re.compile(r"(?<![\w.:/>~])/(?!(?:usr|bin|lib\w*|etc|dev|proc|sys)/)(?:[^\s/\"'<>:;,()]+/)+")
_FOLDER = re.compile(r"<path>/[^\s/.\"'<>:;,()]+(?![\w./])")
# Of a launcher in which the check may have been started: a part is one process, or starts its own.
_OF_LAUNCHERS = re.compile(
    r"(ACCELERATE|FSDP|TORCHELASTIC|PARALLELISM_CONFIG)_\w+|MASTER_(ADDR|PORT)|\w*WORLD_SIZE|(LOCAL_|GROUP_|ROLE_|NODE_)?RANK"
)


def chosen(parts: Sequence[str] | None, skip: Sequence[str]) -> list[str]:
    """The parts to run, in order. Raises a [`UsageError`] for a name that is none."""
    for option, names in (("--parts", parts or []), ("--skip", skip)):
        for name in names:
            if name not in PARTS:
                raise UsageError(f"{option} {name}: {nearest(name, PARTS)}The parts are {', '.join(PARTS)}.")
    found = [name for name in PARTS if (parts is None or name in parts) and name not in skip]
    if not found:
        raise UsageError("--parts and --skip leave nothing to check.")
    return found


def run_check(
    output: Path,
    parts: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    device: str = "auto",
    deadline: float = 300.0,
) -> bool:
    """
    Run the check.

    Args:
        output (`Path`):
            JSON file, written anew after each part, so that a check that is stopped leaves what it knew.
        parts (sequence of `str`, *optional*):
            Names of the parts, all by default. One that is named must be able to run.
        skip (sequence of `str`, *optional*):
            Names of those that are left out.
        device (`str`, *optional*, defaults to `"auto"`):
            `"cpu"`, `"cuda"`, or `"auto"`, a GPU if there is one.
        deadline (`float`, *optional*, defaults to `300.0`):
            Seconds that a part may take.

    Returns:
        `bool`: whether something was checked, and nothing is red.
    """
    names = chosen(parts, skip)
    if not 0 < deadline < math.inf:
        raise UsageError(f"--deadline={deadline} must be finite and above 0.")
    if output.suffix != ".json":
        raise UsageError(f"--output {output} must name a JSON file, FILE.json.")
    check_writable("--output", output.parent)
    if output.is_dir():
        raise UsageError(f"--output {output} is a directory. Name a file.")
    started = time.perf_counter()
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "finished": False,
        "ok": None,
        "seconds": 0.0,
        "settings": {"parts": names, "device": device, "deadline": deadline},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "devices": None,
        "parts": {name: _new(name) for name in names},
    }

    def keep() -> None:
        result["seconds"] = round(time.perf_counter() - started, 1)
        write_json(output, result)

    keep()
    try:
        for name in names:
            print(f"\n{name}: {PARTS[name].title}", flush=True)
            _run_part(name, result, device, deadline, must_run=bool(parts))
            keep()
        by_status = {s: [n for n in names if result["parts"][n]["status"] == s] for s in ("ok", "red", "skipped")}
        result |= {"finished": True, "ok": bool(by_status["ok"]) and not by_status["red"]}
    finally:
        keep()
    lists = {status: f" ({', '.join(found)})" * (status != "ok") for status, found in by_status.items()}
    counts = [f"{len(found)} {status}{lists[status]}" for status, found in by_status.items() if found]
    print(f"\n{len(names)} part{'s' * (len(names) > 1)} in {result['seconds']:.0f} s: {', '.join(counts)}. {output}")
    if not (by_status["ok"] or by_status["red"]):
        print("Nothing was checked.")
    return result["ok"]


def _new(name: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("seconds", "skipped", "error"))
    return {"title": PARTS[name].title, "status": "not run", **nothing, "findings": []}


def _run_part(name: str, result: dict[str, Any], device: str, deadline: float, must_run: bool) -> None:
    """Run a part in a process group of its own, of which nothing is left afterwards."""
    part, started = result["parts"][name], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="htpo_check_", ignore_cleanup_errors=True) as directory:
        records, printed = Path(directory, "findings.jsonl"), Path(directory, "output.txt")
        records.touch()
        with printed.open("wb") as stream, records.open(encoding="utf-8") as lines:
            child = subprocess.Popen(
                [sys.executable, "-m", __package__, name, device, directory],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                cwd=directory,  # folders named like packages, where the check was started, are none
                env=_environment(device, PARTS[name].all_devices),
                start_new_session=True,
            )
            code: int | None = None
            last: dict[str, Any] = {}
            try:
                while code is None and time.perf_counter() - started < deadline:
                    with suppress(subprocess.TimeoutExpired):
                        code = child.wait(timeout=0.1)
                    last = _take(lines, result, part) or last
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # workers that it left, too
                child.communicate()
                part["seconds"] = round(time.perf_counter() - started, 1)
        if part["skipped"] and must_run:
            part["error"] = f"was asked for by --parts and cannot run here: {part['skipped']}."
        elif code is None:
            part["error"] = f"did not end within {deadline:g} seconds (--deadline)."
        elif code:
            ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
            part["error"] = f"{ended}{' (out of memory?)' * (code == -signal.SIGKILL)}."
        elif not (part["skipped"] or part["error"] or last.get("done")):
            part["error"] = "ended before it was done."
        elif last.get("done") and not any(finding["ok"] is not None for finding in part["findings"]):
            part["error"] = "has found nothing."
        if code != 0:
            text = printed.read_text(encoding="utf-8", errors="replace")
            part["error"] = _public("\n".join([part["error"], *text.strip().splitlines()[-LAST_LINES:]]))
    is_red = part["error"] or any(finding["ok"] is False for finding in part["findings"])
    part["status"] = "red" if is_red else "skipped" if part["skipped"] else "ok"
    if part["error"]:
        print("  RED  " + "\n       ".join(printable(line) for line in part["error"].splitlines()))
    elif part["skipped"]:
        print(f"  skipped: {printable(part['skipped'])}")
    print(f"  {part['seconds']:.1f} s", flush=True)


def _take(lines: Any, result: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Take what a part has told since the last time; the last of it."""
    record: dict[str, Any] = {}
    while line := lines.readline():
        while not line.endswith("\n"):  # it is being written
            line += lines.readline()
        record = _public(json.loads(line))
        if "what" in record:
            part["findings"].append(record)
            row = f"  {_MARKS[record['ok']]:3}  {record['what']:52}  {record['expected']:24}  {record['found']}"
            print(printable(row), flush=True)
        elif "devices" in record:
            known = result["devices"]
            if known is None or len(record["devices"]["GPUs"]) > len(known["GPUs"]):
                result["devices"] = record["devices"]
        else:
            part |= {key: value for key, value in record.items() if key in part}
    return record


def _environment(device: str, all_devices: bool) -> dict[str, str]:
    """That of a part: offline, outside any launcher, with the devices that it is to see."""
    kept = {name: value for name, value in os.environ.items() if not _OF_LAUNCHERS.fullmatch(name)}
    kept |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    kept.setdefault("OMP_NUM_THREADS", "1")  # the models are small: more threads are slower, on shared cores by far
    if path := kept.get("PYTHONPATH"):
        kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
    if device == "cpu":
        kept["CUDA_VISIBLE_DEVICES"] = ""
    elif not all_devices:
        kept["CUDA_VISIBLE_DEVICES"] = kept.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return kept


def _public(value: Any) -> Any:
    """Text that can be published: without secrets, places of this machine, its name and its user's."""
    if isinstance(value, dict):
        return {key: _public(each) for key, each in value.items()}
    if isinstance(value, list):
        return [*map(_public, value)]
    if not isinstance(value, str):
        return value
    places = {
        str(Path(__file__).parents[1]): "htpo_trl",
        sys.prefix: "<environment>",
        sys.base_prefix: "<python>",
        os.getcwd(): ".",
        tempfile.gettempdir(): "<tmp>",
    }
    with suppress(RuntimeError):  # a container's user may have neither a home nor a name
        places[str(Path.home())] = "~"
    known = (*places, sys.base_exec_prefix)
    places |= {path: "<path>" for path in sys.path if os.path.isabs(path) and not path.startswith(known)}
    for path in sorted(places, key=len, reverse=True):
        if path != os.sep:
            value = value.replace(path, places[path])
    value = re.sub(r"/(home|Users)/[^/\s\"']+", "~", value)
    value = _FOLDER.sub("<path>", _FOLDERS.sub("<path>/", value))
    for stand_in, ask in (("<user>", getpass.getuser), ("<host>", socket.gethostname)):
        with suppress(OSError, KeyError):
            name = ask()
            if len(name) > 2 and name not in ("root", "localhost"):
                value = re.sub(rf"\b{re.escape(name)}\b", stand_in, value)
    return redact_text(value)
