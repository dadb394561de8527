"""Failure drills: signals, reward functions that raise, full disks, dead processes. docs/failures.md is about them."""

import asyncio
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import ExitStack, contextmanager

import psutil
import pytest
from datasets import Dataset
from transformers import TrainerCallback

from htpo_trl.training.checkpoint import SEAL, check, last_complete
from htpo_trl.training.interruption import SIGNALS, stop_on_signals
from htpo_trl.utils import UsageError

from ..distributed_run import CAN_RESUME, ENVIRONMENT, PORT, ROOT
from ..kill_and_resume import model_and_tokenizer
from ..tiny import even_digits, same_parameters
from ..training_run import prompts


class Send(TrainerCallback):
    """Signals to this process at an event after a given step."""

    def __init__(self, event, step, *signums):
        def send(args, state, control, **kwargs):
            if state.global_step == step:
                for signum in signums:
                    signal.raise_signal(signum)

        setattr(self, event, send)


class TestSignals:
    @pytest.fixture(autouse=True)
    def as_python_starts(self):
        """In the background, or by nohup, SIGINT or SIGHUP are ignored."""
        handlers = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
        before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
        yield
        for signum, handler in before.items():
            signal.signal(signum, handler)

    @pytest.fixture
    def make(self, make_trainer, make_model):
        """One and a half epochs of eight steps, which one generation batch serves; an evaluation after each epoch."""
        data = Dataset.from_list(prompts(8))

        def make(*callbacks, **kwargs):
            options = {"num_iterations": 2, "steps_per_generation": 4, "max_steps": 12, "eval_strategy": "epoch"}
            return make_trainer(
                model=make_model(),
                train_dataset=data,
                eval_dataset=data.select(range(2)),
                callbacks=list(callbacks),
                **options | kwargs,
            )

        return make

    def test_stops_where_it_resumes_exactly(self, make, capfd, tmp_path):
        def log(trainer):
            names = ("reward", "eval_reward", "entropy", "eval_entropy")
            return [[row.get(name) for name in names] for row in trainer.state.log_history]

        whole = make()
        whole.train()
        best = {"save_strategy": "best", "metric_for_best_model": "loss"}
        for event, step, signum, stopped, options in [
            ("on_train_begin", 0, signal.SIGINT, 1, {}),
            ("on_pre_optimizer_step", 2, signal.SIGTERM, 3, best),
            ("on_save", 3, signal.SIGUSR1, 3, {"save_strategy": "steps", "save_steps": 3}),
            ("on_pre_optimizer_step", 7, signal.SIGHUP, 8, {}),
            ("on_prediction_step", 8, signal.SIGUSR2, 8, {}),
        ]:
            handlers = [signal.getsignal(s) for s in SIGNALS]
            trainer = make(Send(event, step, signum), **options)
            with pytest.raises(SystemExit) as ended, stop_on_signals(trainer):
                trainer.train()
            assert ended.value.code == 128 + signum
            assert [signal.getsignal(s) for s in SIGNALS] == handlers
            out, err = capfd.readouterr()
            assert f"{signum.name}: stopping after this optimizer step" in err
            checkpoint = tmp_path / "run" / f"checkpoint-{stopped}"
            assert out.splitlines()[-1] == (
                f"Stopped by {signum.name}. The run is saved at step {stopped}. "
                f"To go on from there: resume_from_checkpoint={checkpoint}"
            )
            resumed = make()
            resumed.train(resume_from_checkpoint=str(checkpoint))
            assert same_parameters(whole, resumed), event
            assert log(whole) == log(resumed), event
            shutil.rmtree(checkpoint)

    def test_forked_children(self, make):
        """They inherit the handlers: Ctrl-C, which a terminal gives to all, leaves them at work; SIGTERM ends them."""
        with stop_on_signals(make()):
            child = os.fork()
            if child == 0:
                for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
                    signal.raise_signal(signum)
                os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM

    def test_what_others_handle_stays_theirs(self, make, tmp_path, capfd):
        """`nohup` ignores SIGHUP: the run outlives its terminal. An engine may use SIGUSR1 among its processes."""
        seen = []
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda signum, frame: seen.append(signum))
        trainer = make(Send("on_pre_optimizer_step", 0, signal.SIGHUP, signal.SIGUSR1), max_steps=1)
        with stop_on_signals(trainer):
            trainer.train()
        assert (trainer.state.global_step, seen) == (1, [signal.SIGUSR1])
        assert "stopping" not in capfd.readouterr().err

    def test_second_signal(self, make, tmp_path, monkeypatch):
        """The same signal passed on twice is one, however many SIGTERMs there are; Ctrl-C again stops at once."""
        trainer = make(Send("on_pre_optimizer_step", 0, signal.SIGINT, signal.SIGTERM, signal.SIGINT))
        with pytest.raises(SystemExit) as ended, stop_on_signals(trainer):
            trainer.train()
        assert ended.value.code == 128 + signal.SIGINT
        monkeypatch.setattr("htpo_trl.training.interruption.SAME_WITHIN", -1)
        options = {"save_strategy": "best", "metric_for_best_model": "num_tokens", "greater_is_better": False}
        options |= {"eval_strategy": "steps", "eval_steps": 1}
        trainer = make(Send("on_pre_optimizer_step", 1, *[signal.SIGTERM] * 3), **options)
        with pytest.raises(SystemExit), stop_on_signals(trainer):
            trainer.train()
        check(tmp_path / "run" / "checkpoint-2")
        for first, second in [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]:
            trainer = make(Send("on_pre_optimizer_step", 0, first, second))
            with pytest.raises(KeyboardInterrupt, match="last complete one in"), stop_on_signals(trainer):
                trainer.train()
            assert trainer.state.global_step == 0

    def test_where_there_is_no_step_to_finish(self, make, tmp_path):
        trainer = make(Send("on_train_end", 4, signal.SIGINT), max_steps=4)
        with pytest.raises(KeyboardInterrupt), stop_on_signals(trainer):
            trainer.train()
        assert trainer.state.global_step == 4
        with stop_on_signals(make(max_steps=1)) as _:
            pass
        errors = []

        def elsewhere():
            try:
                with stop_on_signals(trainer):
                    pass
            except ValueError as error:
                errors.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "main thread" in errors[0]
        with (
            pytest.raises(ValueError, match="enable_jit_checkpoint=True handles SIGTERM"),
            stop_on_signals(make(enable_jit_checkpoint=True)),
        ):
            pass

    def test_weights_alone(self, make, capfd):
        trainer = make(Send("on_step_end", 2, signal.SIGINT), save_only_model=True)
        saves = []
        save = trainer._save_checkpoint
        trainer._save_checkpoint = lambda *args, **kwargs: (saves.append(args), save(*args, **kwargs))
        with pytest.raises(SystemExit), stop_on_signals(trainer):
            trainer.train()
        assert len(saves) == 1
        last = capfd.readouterr().out.splitlines()[-1]
        assert "checkpoint-2; save_only_model=True leaves nothing to resume from." in last


class Demanding:
    """A reward of 1 for each completion; from step 3 on it cannot judge those of one prompt."""

    def __call__(self, prompts, completions, trainer_state, **kwargs):
        if trainer_state.global_step >= 3 and POISON in prompts:
            error = KeyError("no such unit")
            error.row = prompts.index(POISON)
            raise error
        return [1.0] * len(completions)


POISON = "07"


def paid(completions, calls=[], **kwargs):  # noqa: B006
    """Each call costs."""
    calls.append(len(completions))
    assert len(calls) == 1
    raise ZeroDivisionError("no spread")


async def slow_judge(prompts, **kwargs):
    await asyncio.sleep(0)
    return [None if prompt != POISON else "good" for prompt in prompts]


def skips(prompts, **kwargs):
    return [1.0 for prompt in prompts if prompt != POISON]


class TestRewardFunctions:
    @pytest.mark.parametrize("dynamic_sampling", [False, True])
    def test_names_function_and_sample_and_keeps_what_was_trained(self, make_trainer, tmp_path, dynamic_sampling):
        data = Dataset.from_list([{"prompt": POISON if i == 5 else f"1{i}"} for i in range(8)])

        def make(rewards):
            options = {"steps_per_generation": 1, "max_steps": 8, "learning_rate": 1e-4}
            options |= {"dynamic_sampling": dynamic_sampling, "resume_with_changes": True}
            return make_trainer(reward_funcs=rewards, train_dataset=data, **options)

        even = functools.partial(even_digits)
        trainer = make([even, Demanding()])
        with pytest.raises(KeyError, match="no such unit") as raised:
            trainer.train()
        step = trainer.state.global_step
        assert step >= 3
        named, saved = raised.value.__notes__
        assert named.startswith("The reward function 'Demanding' failed on process 0, on row ")
        assert f" of a batch of 8\n  prompt: '{POISON}'\n  completion: '" in named
        checkpoint = tmp_path / "run" / f"checkpoint-{step}"
        assert saved == f"The run is saved at step {step}. To go on from there: resume_from_checkpoint={checkpoint}"
        assert "__call__" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
        resumed = make([even, lambda completions, **kwargs: [1.0] * len(completions)])
        with pytest.warns(UserWarning, match=r"rewards \['even_digits', 'Demanding'\] -> "):
            resumed.train(resume_from_checkpoint=str(checkpoint))
        assert resumed.state.global_step == 8

    @pytest.mark.parametrize(
        ("function", "error", "message"),
        [
            (
                paid,
                ZeroDivisionError,
                "'paid' failed on process 0, on a batch of 8, which begins with\n  prompt: '10'",
            ),
            (slow_judge, TypeError, "'slow_judge' failed on process 0, on row 4 of a batch of 8"),
            (skips, ValueError, "'skips' failed on process 0, on a batch of 8, which"),
            (lambda **kwargs: 1.0, TypeError, "'<lambda>' failed on process 0, on a batch of 8"),
            (lambda prompts, **kwargs: [[1.0]] * len(prompts), TypeError, "Rewards must be numbers or None"),
        ],
    )
    def test_what_cannot_be_used(self, make_trainer, function, error, message):
        trainer = make_trainer(reward_funcs=[even_digits, function])
        rows = [{"prompt": f"1{i}" if i < 4 else POISON} for i in range(8)]
        with pytest.raises(error) as raised:
            trainer._calculate_rewards(rows, [row["prompt"] for row in rows], ["x" * 1000] * 8, [[5]] * 8)
        text = "".join(traceback.format_exception_only(raised.value))
        assert message in text
        assert "nothing is saved" in text
        assert len(text) < 1500

    def test_an_error_of_saving_hides_nothing(self, make_trainer, monkeypatch):
        def fail(directory):
            raise OSError("disk full")

        monkeypatch.setattr("htpo_trl.training.checkpoint.seal", fail)
        data = Dataset.from_list([{"prompt": POISON}] * 8)
        trainer = make_trainer(reward_funcs=Demanding(), train_dataset=data, steps_per_generation=1)
        with pytest.raises(OSError, match="disk full") as raised:
            trainer.train()
        assert isinstance(raised.value.__cause__.__context__, KeyError)


class TestFullDisk:
    @pytest.fixture(params=["380k", "500k"])
    def disk(self, tmp_path, request):
        """A file system for one checkpoint, but not for the second one's weights, or its optimizer."""
        directory = tmp_path / "run"
        directory.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", directory], check=False)
        if done.returncode:
            pytest.skip("file systems can be mounted by root alone")
        yield directory
        subprocess.run(["umount", "--lazy", directory], check=True)  # its safetensors may be open

    def test_the_previous_checkpoint_stays(self, make_trainer, make_model, disk):
        def make():
            return make_trainer(model=make_model(), save_strategy="steps", save_steps=1, save_total_limit=1)

        with pytest.raises(Exception, match=r"(?i)no space left|file write failed|unexpected pos") as raised:
            make().train()
        print(repr(raised.value))
        print([(str(p.relative_to(disk)), p.stat().st_size) for p in disk.rglob("*") if p.is_file()])
        (note,) = raised.value.__notes__
        assert isinstance(raised.value, UsageError)
        assert re.search(rf"{disk}/checkpoint-2 could not be written: .* has 0\.\d MB free", str(raised.value))
        assert re.search(rf"{disk}/checkpoint-2 is not complete.*save_total_limit", note)
        assert {path.name for path in disk.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
        subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
        resumed = make()
        with pytest.warns(UserWarning, match="checkpoint-2 is skipped"):
            resumed.train(resume_from_checkpoint=True)
        assert [path.name for path in disk.glob("checkpoint-*")] == ["checkpoint-4"]


@contextmanager
def launched(directory, *drills, n_nodes=1):
    """
    The launchers of two processes, on one machine or on two; their standard output is a pipe. Afterwards no process
    that they started, verifiers and their workers included, may be left after a minute.
    """
    model_and_tokenizer(directory)
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={n_nodes}",
        f"--nproc_per_node={2 // n_nodes}",
    ]
    mark = {"HTPO_DRILL": str(directory)}
    commands = [
        [*launcher, f"--node_rank={i}", f"--master_port={PORT}", "-m", "tests.drill_run", directory, *drills]
        for i in range(n_nodes)
    ]
    with ExitStack() as files:
        launchers = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=ENVIRONMENT | mark,
                stdout=subprocess.PIPE,
                stderr=files.enter_context((directory / f"stderr-{i}").open("w")),
                text=True,
            )
            for i, command in enumerate(commands)
        ]
        try:
            yield launchers
            deadline = time.monotonic() + 60
            while left := [process for process in psutil.process_iter() if is_marked(process, mark)]:
                assert time.monotonic() < deadline, left
                psutil.wait_procs(left, timeout=1)
        finally:
            for process in psutil.process_iter():
                if is_marked(process, mark):
                    process.kill()
            for process in launchers:
                process.communicate()


def is_marked(process, mark):
    try:
        return mark.items() <= process.environ().items()
    except psutil.Error:  # of another user, or ended
        return False


def outcomes(directory, drill):
    return [json.loads((directory / f"{drill}-{rank}.json").read_text()) for rank in (0, 1)]


class TestTwoProcesses:
    @pytest.mark.skipif(not CAN_RESUME, reason="this transformers cannot resume on several CPU processes")
    def test_one_of_them_gets_the_signal_fails_or_dies(self, tmp_path):
        """On two nodes, as far as the launchers know: each sees its own process alone."""
        drills = ["whole", "stopped", "resumed", "raised", "held", "killed:backward:5"]
        os.mkfifo(tmp_path / "release")
        with launched(tmp_path, *drills, n_nodes=2) as launchers:
            assert all(process.wait(timeout=300) != 0 for process in launchers)
        whole, stopped, resumed, raised = (outcomes(tmp_path, drill) for drill in drills[:4])
        assert [rank["exit_code"] for rank in stopped] == [128 + signal.SIGTERM] * 2
        assert last_complete(tmp_path / "stopped") == str(tmp_path / "stopped" / "checkpoint-5")
        assert resumed == whole
        assert stopped != whole
        assert raised[1]["error"].startswith(
            "KeyError: 'no such unit'\nThe reward function 'reward' failed on process 1"
        )
        assert raised[0]["error"].startswith("RuntimeError: A reward function failed on another process: KeyError")
        assert last_complete(tmp_path / "raised") == str(tmp_path / "raised" / "checkpoint-2")
        # Sealed when all processes have written, not when the first has.
        sealed = json.loads((tmp_path / "held" / "checkpoint-1" / SEAL).read_text())["files"]
        assert {"htpo_state_0.safetensors", "htpo_state_1.safetensors"} <= sealed.keys()
        check(tmp_path / "held" / "checkpoint-1")
        assert "SIGKILL" in (tmp_path / "stderr-1").read_text()
