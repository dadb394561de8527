"""Commands whose reader goes away, whose standard streams are closed, and that are stopped."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from htpo_trl.output.terminal import WARNINGS, _Stream, stoppable
from htpo_trl.scripts.arguments import RECIPES


HTPO = f"{sys.executable} -m htpo_trl"


def shell(line, **kwargs):
    environment = os.environ | {"WANDB_API_KEY": "0123456789abcdef"}
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=60, check=False, **kwargs
    )


@pytest.mark.parametrize("command", ["train --help", "eval --help", "recipes show laptop", "--help"])
def test_a_reader_that_goes_away(command):
    done = shell(f"{HTPO} {command} | head -1; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "> /dev/full", "2> /dev/full"])
def test_closed_and_full_streams(closed, tmp_path):
    """No file that a command opens gets the number of a standard stream, which others write to."""
    done = shell(f"{HTPO} recipes copy laptop a.yaml {closed} && {HTPO} recipes shwo {closed}", cwd=tmp_path)
    assert (tmp_path / "a.yaml").read_text() == (RECIPES / "laptop.yaml").read_text()
    assert done.returncode == 2
    assert ("invalid choice" in done.stderr) == ("2>" not in closed)
    assert "Error" not in done.stderr


def test_a_line_of_stderr_is_not_held_back():
    """Of a bar that ends, say, before what comes next on stdout."""
    code = "import os, sys; from htpo_trl.output.terminal import steady_streams; steady_streams(); "
    code += "print('first', file=sys.stderr); os.write(2, b'second')"
    assert shell(f'{sys.executable} -c "{code}" 2>&1 | cat').stdout == "first\nsecond"


PRINTING = """
import contextlib, os, subprocess, sys
from htpo_trl.output.terminal import steady_streams
undo = steady_streams()
assert all(os.get_inheritable(fd) for fd in (0, 1, 2))
file = open("file", "w")
subprocess.run([sys.executable, "-c", "import sys; print('child', flush=True); print('child', file=sys.stderr)"])
for descriptor in (1, 2):
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, b"raw")
for i in range(1_000):
    print("line", i, "token='hush'", os.environ["WANDB_API_KEY"])
    print("é\\udce9→", file=sys.stderr)
sys.stdout.flush()
assert sys.stdin.read() == ""
undo()
steady_streams()
file.write("done")
file.close()
raise ValueError("no access to http://user:hush@host")
"""


@pytest.mark.parametrize("closed", ["", "| head -2", "<&- >&- 2>&-", "2>&1 | head -2", "2> >(true) | true"])
def test_work_goes_on(closed, tmp_path):
    (tmp_path / "printing.py").write_text(PRINTING)
    done = shell(f"LC_ALL=C {sys.executable} printing.py < /dev/null {closed}; exit ${{PIPESTATUS[0]}}", cwd=tmp_path)
    assert done.returncode == 1
    assert (tmp_path / "file").read_text() == "done"
    shown = done.stdout + done.stderr
    assert "hush" not in shown
    assert "0123456789abcdef" not in shown
    assert "BrokenPipe" not in shown
    if not closed:
        assert "line 999 token='<redacted>' <redacted>\n" in done.stdout
        assert done.stderr.endswith("ValueError: no access to http://user:<redacted>@host\n")


def test_a_terminal_gets_colours_and_movements_alone(tmp_path):
    """Titles, clipboards, links, questions, which some terminals answer as if it were typed, and C1 are shown."""
    with (tmp_path / "shown").open("wb") as file:
        stream = _Stream(file.fileno(), None)
        stream.write("\x1b[1;31mred\x1b[0m\x1b[2K\r\x1b[1A\x1b[?25l\t\n")
        stream.write("\x1b]0;title\x07\x1b]52;c;eA==\x07\x1b[6n\x1b[c\x9b31m\x1bP\x1b[21t\x1b[?1049h\x7f\u202e\n")
        stream.flush()
    allowed, rest, _ = (tmp_path / "shown").read_bytes().decode().split("\n")
    assert allowed == "\x1b[1;31mred\x1b[0m\x1b[2K\r\x1b[1A\x1b[?25l\t"
    assert rest == (r"\x1b]0;title\x07\x1b]52;c;eA==\x07\x1b[6n\x1b[c\x9b31m\x1bP\x1b[21t\x1b[?1049h\x7f\u202e")


@contextmanager
def dispositions(**signums):
    handlers = {getattr(signal, name): handler for name, handler in signums.items()}
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
        assert {signum: signal.getsignal(signum) for signum in handlers} == handlers
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class TestSignals:
    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, *WARNINGS])
    def test_a_line_and_the_signals_exit_code(self, signum, capsys):
        closed = []

        def work():
            try:
                signal.raise_signal(signum)
            finally:
                if signum != signal.SIGINT:
                    signal.raise_signal(signum)  # launchers pass one on several times
                closed.append(True)

        with (
            dispositions(SIGINT=signal.default_int_handler, SIGHUP=signal.SIG_DFL, SIGUSR1=signal.SIG_DFL),
            pytest.raises(SystemExit) as ended,
            stoppable("htpo eval", "The same command goes on."),
        ):
            work()
        assert ended.value.code == 128 + signum
        assert capsys.readouterr().err == f"\nhtpo eval: stopped by {signum.name}. The same command goes on.\n"
        assert closed

    def test_what_is_ignored_or_handled_stays(self):
        """`nohup` ignores SIGHUP; an engine or a debugger may have a use of its own for SIGUSR1."""
        seen = []

        def receive(signum, frame):
            seen.append(signum)

        with dispositions(SIGHUP=signal.SIG_IGN, SIGUSR1=receive), stoppable("htpo eval", ""):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGUSR1)
        assert seen == [signal.SIGUSR1]

    def test_what_a_second_ctrl_c_says(self, capsys):
        with pytest.raises(SystemExit), stoppable("htpo train", "Nothing is trained."):
            raise KeyboardInterrupt("Stopped at once.")
        assert capsys.readouterr().err == "\nhtpo train: stopped by SIGINT. Stopped at once.\n"
