"""What wandb (offline), trackio and TensorBoard keep on disk of a run, read back, is what the trainer logged."""

import json
import sqlite3
import struct
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.evaluation import Sampling
from htpo_trl.evaluation.callback import EvaluationCallback
from htpo_trl.objective import GROUPS

from ..hub_server import TOKEN
from ..tiny import CPU_ARGUMENTS, even_digits, tiny_model


PASSWORD = "Qz7-hush"
# The module that is read by: a folder `wandb` in the working directory would pass for the package.
MODULES = {
    "wandb": "wandb.proto.wandb_internal_pb2",
    "trackio": "trackio.sqlite_storage",
    "tensorboard": "tensorboard.backend.event_processing.event_accumulator",
}
# Trackers show these once, as a summary or not at all.
ONCE = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}


def installed(tracker):
    try:
        return find_spec(MODULES[tracker]) is not None
    except ModuleNotFoundError:
        return False


def no_opinion(completions, **kwargs):
    """A reward that judges nothing: its mean is NaN."""
    return [None] * len(completions)


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    """A finished run that reported to all trackers that are installed."""
    directory = tmp_path_factory.mktemp("trackers")
    trackers = [tracker for tracker in MODULES if installed(tracker)]
    arguments = {"report_to": trackers, "project": "htpo", "run_name": "tiny", "eval_steps": 2, "hub_token": TOKEN}
    arguments |= {"vllm_server_base_url": f"http://me:{PASSWORD}@host", "chat_template_kwargs": {"api_key": PASSWORD}}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MODE": "offline", "DIR": directory, "CONSOLE": "off", "SILENT": "true"}.items():
            patch.setenv(f"WANDB_{name}", str(value))
        if "trackio" in trackers:  # which reads TRACKIO_DIR when it is imported
            for module in ("utils", "sqlite_storage"):
                patch.setattr(f"trackio.{module}.TRACKIO_DIR", directory / "trackio")
        trainer = HTPOTrainer(
            tiny_model(),
            [even_digits, no_opinion],
            HTPOConfig(str(directory / "run"), **CPU_ARGUMENTS | arguments),
            Dataset.from_dict({"prompt": [f"{i:02d}" for i in range(64)]}),
            processing_class=tokenizer,
        )
        problems, sampling = {"digits": [{"prompt": "12"}]}, Sampling(num_samples=2, max_new_tokens=4)
        trainer.add_callback(EvaluationCallback(trainer, problems, sampling, even_digits))
        trainer.train()
        if "wandb" in trackers:
            import wandb

            wandb.teardown()  # `wandb.finish` returns before the last block is on disk
    return SimpleNamespace(directory=directory, log=trainer.state.log_history)


def read_wandb(directory):
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    for content in leveldb_log(file.read_bytes()):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            yield row["train/global_step"], row


def leveldb_log(content: bytes):
    """Records of a file in LevelDB's log format, which .wandb files have after seven bytes of their own."""
    block, header = 2**15, struct.Struct("<IHB")  # checksum, length, kind
    position, parts = 7, []
    while position < len(content):
        if (left := block - position % block) < header.size:
            position += left  # a header never straddles two blocks
            continue
        _, length, kind = header.unpack_from(content, position)
        position += header.size
        parts.append(content[position : position + length])
        position += length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def read_trackio(directory):
    with sqlite3.connect(directory / "trackio" / "htpo.db") as database:
        for (metrics,) in database.execute("SELECT metrics FROM metrics WHERE run_name = 'tiny' ORDER BY id"):
            row = json.loads(metrics)
            if "train/global_step" in row:  # not of TRL's profiler
                yield row["train/global_step"], row


def read_tensorboard(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logs,) = (directory / "run" / "runs").iterdir()
    events = EventAccumulator(str(logs), size_guidance={"scalars": 0})
    events.Reload()
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            yield event.step, {name: event.value}


@pytest.mark.parametrize("tracker", MODULES)
def test_metrics_are_read_back_from_disk(run, tracker):
    if not installed(tracker):
        pytest.skip(f"{tracker} is not installed")
    read = {"wandb": read_wandb, "trackio": read_trackio, "tensorboard": read_tensorboard}[tracker]
    found: dict[int, dict] = {}
    for step, row in read(run.directory):
        own = ("_", "profiling/", "train/global_step", *(f"train/{name}" for name in ONCE))
        found.setdefault(step, {}).update({k: v for k, v in row.items() if not k.startswith(own)})
    expected: dict[int, dict] = {}
    for row in run.log:
        for name, value in row.items():
            if name not in ONCE | {"step"}:
                shown = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
                expected.setdefault(row["step"], {})[shown] = value

    assert [step for step, row in sorted(expected.items()) if "train/loss" in row] == [1, 2, 3, 4]  # 2 and 4 with eval
    names = {name for row in expected.values() for name in row}
    assert {f"train/htpo/share/{group}" for group in GROUPS} <= names
    assert {"train/htpo/accuracy", "train/htpo/entropy/hard_wrong_low", "train/htpo/special/keep_above"} <= names
    assert {"eval/digits/mean@2", "train/rewards/no_opinion/mean"} <= names
    assert expected[1]["train/rewards/no_opinion/mean"] is None  # NaN, to the trainer
    assert sorted(expected) == [0, 1, 2, 3, 4]
    if tracker == "tensorboard":  # in single precision, and it has no None
        expected = {
            step: {name: torch.tensor(value).item() for name, value in row.items() if value is not None}
            for step, row in expected.items()
        }
    assert found == expected


def test_no_tracker_keeps_the_token(run):
    files = [path for path in run.directory.rglob("*") if path.is_file()]
    assert files or not any(map(installed, MODULES))
    for path in files:
        assert TOKEN.encode() not in path.read_bytes(), path
        assert PASSWORD.encode() not in path.read_bytes(), path
