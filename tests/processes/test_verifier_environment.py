"""The verifier in surroundings that others have prepared, or that a cluster has: it runs none of their code."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from htpo_trl.verifier import Verdict, Verifier, VerifierConfig
from htpo_trl.verifier.launch import ServerProcess

from ..child_processes import server_of, workers_of
from ..hostile import FOR_WORKERS


ROOT = Path(__file__).parents[2]
JUDGE = r"""
from htpo_trl.verifier import VerifierConfig, configure, judge
configure(VerifierConfig(workers=2))
verdicts = [str(j.verdict) for j in judge([r"\boxed{3x}", r"\boxed{4x}"], [FOR_WORKERS] * 2)]
""".replace("FOR_WORKERS", repr(FOR_WORKERS))
RIGHT = "['correct', 'wrong']"


def python(code: str, *, cwd: Path, timeout: float = 100, by: tuple[str, ...] = (), **variables: str) -> str:
    """What a script prints that has this package on its path, and `verdicts`."""
    command = [*by, sys.executable, "-P", "-c", code.replace("JUDGE", JUDGE)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- Files that are named like a library

#: What the server, its interpreter and its libraries import, or would if it were installed.
PLANTED = (
    *("pebble", "math_verify", "sympy", "mpmath", "antlr4", "latex2sympy2_extended", "gmpy2", "flint", "numpy"),
    *("json", "socket", "signal", "resource", "ctypes", "htpo_trl", "sitecustomize", "usercustomize"),
)
#: They tell of themselves, and are the real thing in the process that is started there: that is its user's affair.
FILE = """
import os, sys
sys.modules.pop(__name__, None)
if "server" in "".join(sys.orig_argv):
    os.mkdir(os.path.join(os.path.dirname(__file__), __name__ + ".imported"))
sys.path, everything = [p for p in sys.path if os.path.realpath(p or ".") != os.path.dirname(__file__)], sys.path
__import__(__name__)
sys.path = everything
"""
MAIN = f"{JUDGE}\nprint(verdicts)\n"
STARTS = {
    "-m": (["-m", "my_run"], ""),
    "-c": (["-c", MAIN], ""),
    "script": (["my_run.py"], ""),
    "pytest": (["-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "my_run.py"], "def test_it(): print(verdicts)"),
    "PYTHONPATH": (["-c", MAIN], ""),
}


@pytest.mark.parametrize("start", STARTS)
def test_nothing_is_imported_from_the_working_directory(tmp_path, start):
    tmp_path = tmp_path.resolve()
    for name in PLANTED:
        (tmp_path / f"{name}.py").write_text(FILE)
    arguments, more = STARTS[start]
    (tmp_path / "my_run.py").write_text(f"{MAIN}{more}\n")
    path = [str(ROOT), *[str(tmp_path)] * (start == "PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=100)
    assert RIGHT in done.stdout, done.stderr[-2000:]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".imported"] == []


def test_a_checkout_is_used_from_its_own_directory(tmp_path):
    """Where the working directory is the package's place, the package comes from there, and nothing else."""
    (tmp_path / "htpo_trl").symlink_to(ROOT / "htpo_trl")
    (tmp_path / "gmpy2.py").write_text(FILE)
    code = f"{MAIN}\nimport htpo_trl; print(htpo_trl.__file__)"
    environment = os.environ | {"PYTHONPATH": "."}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=100)
    assert RIGHT in done.stdout, done.stderr[-2000:]
    assert not (tmp_path / "gmpy2.imported").exists()


# --- Surroundings

DAEMON = """
import os, sys
output = os.dup(1)
os.closerange(0, 3)
JUDGE
os.write(2, b"what a library writes to its standard error") if os.path.exists("/proc/self/fd/2") else None
verdicts = [str(j.verdict) for j in judge([r"\\boxed{3x}", r"\\boxed{4x}"], [FOR_WORKERS] * 2)]
os.write(output, repr(verdicts).encode())
""".replace("FOR_WORKERS", repr(FOR_WORKERS))
LONG = "import os; os.environ['TMPDIR'] = os.getcwd() + '/t' * 100; os.makedirs(os.environ['TMPDIR'])"
GONE = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"
SURROUNDINGS = {
    "a long TMPDIR": f"{LONG}\nJUDGE\nprint(verdicts)",
    "a daemon without standard streams": DAEMON,
    "children that end unseen": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nJUDGE\nprint(verdicts)",
    "a working directory that is gone": f"{GONE}\nJUDGE\nprint(verdicts)",
    "a noisy Python": "JUDGE\nprint(verdicts)",
}


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_answers_are_judged_in_any_surroundings(tmp_path, surroundings):
    noise = {"PYTHONPROFILEIMPORTTIME": "1", "PYTHONWARNINGS": "always", "PYTHONBREAKPOINT": "nothing.there"}
    variables = noise if "noisy" in surroundings else {}
    assert python(SURROUNDINGS[surroundings], cwd=tmp_path, **variables) == RIGHT


def test_the_limits_of_a_cluster_hold_for_workers(tmp_path):
    """Which nobody may raise: seconds of CPU, and less memory than an answer may have."""
    limits = 'ulimit -t 1000; ulimit -v 1500000; exec "$@"'
    by: tuple[str, ...] = ("sh", "-c", limits, "-")
    if os.geteuid() == 0:  # who may
        by = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource", *by)
    code = "JUDGE\nprint(verdicts)".replace("JUDGE", JUDGE.replace("workers=2", "workers=2, memory_limit=4000"))
    assert python(code, cwd=tmp_path, by=by) == RIGHT


# --- What a text that takes a worker over finds


def test_a_worker_has_nothing_of_the_trainer(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MY_PASSWORD", "secret")
    with Verifier(VerifierConfig(workers=2)) as verifier:
        assert verifier.judge_answers(["3x"], [FOR_WORKERS]) == [Verdict.CORRECT]
        assert "secret" not in str([server_of(verifier).environ(), server_of(verifier).cmdline()])
        for worker in workers_of(verifier):
            files = sorted(os.readlink(file) for file in Path(f"/proc/{worker.pid}/fd").iterdir())
            assert files[:3] == ["/dev/null"] * 3
            assert [file.partition(":")[0] for file in files[3:]] == ["socket"]  # its own, and no other
            assert "secret" not in str(worker.environ())
            assert worker.cwd() == "/"
            status = Path(f"/proc/{worker.pid}/status").read_text()
            assert "NoNewPrivs:\t1" in status


def test_a_worker_has_no_network():
    def works(command: str) -> bool:
        return subprocess.run(command, shell=True, capture_output=True).returncode == 0

    if not works("unshare --user --net true"):
        pytest.skip("this kernel, or container, does not let a user leave the network")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        imports = "import socket; from htpo_trl.verifier.worker import leave_network"
        code = f"{imports}; {{}}; socket.create_connection({address})"
        for prepare, error in (("leave_network()", "Network is unreachable"), ("pass", "")):
            command = [sys.executable, "-c", code.replace("{}", prepare)]
            assert error in subprocess.run(command, capture_output=True, text=True).stderr


# --- Ends


def test_busy_workers_end_with_their_server():
    with Verifier(VerifierConfig(workers=2)) as verifier:
        assert verifier.judge_answers(["3x"], [FOR_WORKERS]) == [Verdict.CORRECT]
        workers = workers_of(verifier)
        for worker in workers:
            worker.suspend()  # they can end by no doing of their own
        server_of(verifier).kill()
        psutil.wait_procs(workers, timeout=30)
        assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]


def test_a_server_that_is_stopped_stops_nobody_else(monkeypatch):
    """With more to read than its socket holds: the client waits for as long as it says, and goes on with another."""
    ask = ServerProcess.ask
    with Verifier(VerifierConfig(workers=1)) as verifier:
        assert verifier.judge_answers(["3x"], [FOR_WORKERS]) == [Verdict.CORRECT]
        server_of(verifier).suspend()
        answers = [f"{i}x+" + "y" * 1900 for i in range(400)]
        with monkeypatch.context() as patch:
            patch.setattr(ServerProcess, "ask", lambda self, request, seconds: ask(self, request, 0.2))
            patch.setattr(subprocess.Popen, "wait", lambda self, timeout=None: wait(self, timeout and 0.2))
            with pytest.raises(RuntimeError, match="no reply on 400 answers"):
                verifier.judge_answers(answers, [FOR_WORKERS] * 400)
        assert verifier.judge_answers(["3x"], [FOR_WORKERS]) == [Verdict.CORRECT]


wait = subprocess.Popen.wait


@pytest.mark.parametrize(
    ("code", "cause", "is_short"),
    [
        (
            "raise ModuleNotFoundError('No module named sympy')",
            r"exit status 1: ModuleNotFoundError: No module named sympy\.$",
            False,
        ),
        ("import os; os.kill(os.getpid(), 9)", r"killed by SIGKILL\. Where memory, .* --verifier_", True),
        ("raise OSError(28, 'No space left on device')", r"No space left on device\.$", False),
        ("raise BlockingIOError(11, 'Resource temporarily unavailable')", r"unavailable\. Where .*processes", True),
    ],
)
def test_an_end_is_told_with_its_cause(monkeypatch, code, cause, is_short):
    monkeypatch.setattr("htpo_trl.verifier.launch._command", lambda: [sys.executable, "-c", code])
    with pytest.raises(RuntimeError, match=cause) as error:
        Verifier().judge_answers(["3x"], [FOR_WORKERS])
    assert ("lower `workers`" in str(error.value)) == is_short


def test_too_few_files_are_told_as_that(monkeypatch):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)
    with pytest.raises(RuntimeError, match=r"ended twice .* Too many open files\. Where"):
        Verifier().judge_answers(["3x"], [FOR_WORKERS])


def test_an_interrupt_to_the_server_is_for_the_trainer_alone():
    with Verifier(VerifierConfig(workers=1)) as verifier:
        assert verifier.judge_answers(["3x"], [FOR_WORKERS]) == [Verdict.CORRECT]
        server = server_of(verifier)
        for process in (server, *workers_of(verifier)):
            process.send_signal(signal.SIGINT)
        assert verifier.judge_answers(["4x"], [FOR_WORKERS]) == [Verdict.WRONG]
        assert server_of(verifier) == server
