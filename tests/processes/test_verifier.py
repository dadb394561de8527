"""The verifier: verdicts, agreement with math-verify, hostile answers, and the life of its processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Thread, main_thread

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from htpo_trl.verifier import Judgement, Verdict, Verifier, VerifierConfig, configure, judge
from htpo_trl.verifier.extraction import extract_answer

from ..child_processes import busy_worker, cpu_seconds, server_of, workers_during, workers_of
from ..hostile import FOR_WORKERS, hanging_answers, hostile_answers


BUSY = hanging_answers(16)
HANGS = extract_answer(BUSY[0])


@pytest.fixture(scope="module")
def strict_verifier():
    """One with little time and memory, for tests that end its processes, which must leave it able to judge."""
    with Verifier(VerifierConfig(workers=2, deadline=2.0, memory_limit=64)) as verifier:
        verifier.judge_answers(["x"], [FOR_WORKERS])
        yield verifier


# --- The answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"First \boxed{1}, but no: $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{4} no, \boxed{3}", "3"),
        (r"\boxed {\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{7}", "7"),
        ("Answer: 34", "34"),
        ("**Answer:** $x^2$.", "$x^2$"),
        ("answer :\n12\nmore", "12"),
        ("Answer: 1\nAnswer: 2", "2"),
        (r"Answer: $\boxed{5}$", "5"),
        ("\\boxed{5}\nAnswer: 6", "6"),
        (r"\boxed{3} and \boxed{12", None),  # cut off
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        ("It is 5.", None),
        ("the answers: 5", None),
        ("", None),
    ],
)
def test_the_last_box_or_answer_line_counts(completion, answer):
    assert extract_answer(completion) == answer


# --- Verdicts


@pytest.mark.parametrize(
    ("gold", "completion", "verdict"),
    [
        ("1/2", r"\boxed{\frac{2}{4}}", Verdict.CORRECT),
        (r"\boxed{\frac12}", "Answer: 0.5", Verdict.CORRECT),
        ("The answer is $5x$.", r"\boxed{x \cdot 5}", Verdict.CORRECT),
        (r"$(-\infty, 0) \cup\{1\}$", r"\boxed{(-\infty,0)\cup \{1\}}", Verdict.CORRECT),
        ("1,234", "Answer: 1234", Verdict.CORRECT),
        (r"2\sqrt{2}", r"\boxed{\sqrt{8}}", Verdict.CORRECT),
        (r"\frac{1}{2}.", r"\boxed{\frac{2}{4}.}", Verdict.CORRECT),
        (r"2\sqrt{2}", r"\boxed{\sqrt{6}}", Verdict.WRONG),
        ("3", r"\boxed{4} or \boxed{3}", Verdict.CORRECT),
        ("4", r"\boxed{4} or \boxed{3}", Verdict.WRONG),
        ("4", r"four", Verdict.UNPARSABLE_ANSWER),
        ("4", r"\boxed{}", Verdict.UNPARSABLE_ANSWER),
        ("4", rf"\boxed{{{'4' * 5000}}}", Verdict.UNPARSABLE_ANSWER),
        ("Answer is forty two.", r"\boxed{Answer is forty two.}", Verdict.UNPARSABLE_GOLD),
        ("there is none", r"\boxed{these inner}", Verdict.UNPARSABLE_GOLD),
        (r"\text{no solution}", r"\boxed{\text{no solution}}", Verdict.CORRECT),
        ("east", r"\boxed{\text{east}}", Verdict.CORRECT),
        ("x y + z", r"\boxed{z + yx}", Verdict.CORRECT),
        ("", r"\boxed{4}", Verdict.UNPARSABLE_GOLD),
        ("4" * 5000, rf"\boxed{{{'4' * 5000}}}", Verdict.UNPARSABLE_GOLD),
        # Six decimals, to which math-verify rounds, do not tell small numbers apart; and it reads e as 2.718.
        (r"1.3 \times 10^{-27}", r"\boxed{1.3 \cdot 10^{-27}}", Verdict.CORRECT),
        (r"1.3 \times 10^{-27}", r"\boxed{1.4 \cdot 10^{-27}}", Verdict.WRONG),
        (r"1.3 \times 10^{-27}", r"\boxed{0}", Verdict.WRONG),
        ("0.00005", r"\boxed{\frac{1}{20000}}", Verdict.CORRECT),
        ("4.5e33", r"\boxed{4.5 \times 10^{33}}", Verdict.CORRECT),
        (r"4.5 \times 10^{33}", "Answer: 4.5e+33", Verdict.CORRECT),
        (r"4.5 \times 10^{33}", "Answer: 4.5e+34", Verdict.WRONG),
        ("5", BUSY[0], Verdict.TIMED_OUT),
        (HANGS, r"\boxed{3}", Verdict.UNPARSABLE_GOLD),
    ],
)
def test_every_answer_gets_a_verdict(verifier, gold, completion, verdict):
    assert verifier.judge([completion], [gold])[0].verdict is verdict


def test_an_answer_that_takes_too_much_memory_is_told():
    with Verifier(VerifierConfig(workers=1, deadline=60.0, memory_limit=64)) as verifier:
        assert verifier.judge_answers(["2^{10^9}", "3x"], ["5", FOR_WORKERS]) == [Verdict.CRASHED, Verdict.CORRECT]


def test_a_worker_cannot_write_files(tmp_path):
    code = "import pathlib; from htpo_trl.verifier.worker import limit; {}; pathlib.Path('file').write_text('x')"
    for prepare, error in (("limit(64)", "File too large"), ("pass", "")):
        command = [sys.executable, "-c", code.replace("{}", prepare)]
        assert error in subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stderr
        assert (tmp_path / "file").read_text() == ("" if error else "x")


def test_the_answer_handed_back_is_cut():
    assert Verifier().judge([rf"\boxed{{{'4' * 100_000}}}"], ["4"])[0].answer == "4" * 2000


@pytest.mark.parametrize("option", ["workers", "deadline", "memory_limit", "max_length"])
def test_limits_must_be_positive(option):
    with pytest.raises(ValueError, match=f"{option}=0 must be (at least 1|above 0)"):
        VerifierConfig(**{option: 0})


def test_the_limits_of_the_process_can_be_set():
    try:
        configure(VerifierConfig(max_length=3))
        assert judge([r"\boxed{1234}", r"\boxed{123}"], ["1234", "123"]) == [
            Judgement(Verdict.UNPARSABLE_GOLD, "123"),
            Judgement(Verdict.CORRECT, "123"),
        ]
    finally:
        configure(VerifierConfig())


# --- Without processes


def test_plain_numbers_need_no_process():
    verifier = Verifier(VerifierConfig(deadline=7.0))
    golds = ["204", "0.5", r"\frac{3}{4}", r"2\sqrt{2}", r"\{1, x\}", "-7", "east"]
    answers = ["204", "1/2", "0.75", r"\sqrt{8}", r"x, 1", "7", "42"]
    assert verifier.judge_answers(answers, golds) == [*[Verdict.CORRECT] * 5, Verdict.WRONG, Verdict.WRONG]
    assert server_of(verifier) is None


# --- Hostile answers


def test_hostile_answers_are_judged_and_nothing_is_executed(quick_verifier, tmp_path):
    canary = tmp_path / "canary"
    corpus = [text for family in hostile_answers(str(canary)).values() for text in family]
    assert len(corpus) >= 300
    golds = ["5", "x^2+1", r"\{1,2\}", r"\frac{\pi}{2}"]
    verdicts = Counter(quick_verifier.judge(corpus, [golds[i % 4] for i in range(len(corpus))]))
    assert sum(verdicts.values()) == len(corpus)
    assert {j.verdict for j in verdicts} >= {Verdict.WRONG, Verdict.TIMED_OUT, Verdict.UNPARSABLE_ANSWER}
    assert all(j.verdict is not Verdict.CORRECT or "5" in j.answer for j in verdicts)
    assert quick_verifier.judge_answers(["3x", "4x"], [FOR_WORKERS] * 2) == [Verdict.CORRECT, Verdict.WRONG]
    assert list(tmp_path.iterdir()) == []
    # A control: the same commands do create the files where they are executed.
    subprocess.run(f"touch {canary}-0", shell=True, check=True)
    assert list(tmp_path.iterdir()) != []


@given(st.lists(st.text(max_size=40) | st.text("\\{}^_()[]$&0123456789x!+-*/=,frac sqrt\n", max_size=60), max_size=8))
def test_any_text_gets_a_verdict(verifier, texts):
    completions = [f"\\boxed{{{text}}}" for text in texts]
    assert len(verifier.judge(completions, ["x+7"] * len(texts))) == len(texts)


def test_a_batch_with_hostile_answers_spares_the_others(strict_verifier):
    hanging = [extract_answer(completion) for completion in BUSY[:4]]
    answers = [hanging[i // 4] if i % 4 == 0 else f"{i}x" for i in range(16)]
    expected = [None if i % 4 == 0 else Verdict.WRONG for i in range(16)]
    expected[3] = Verdict.CORRECT
    verdicts = strict_verifier.judge_answers(answers, [FOR_WORKERS] * 16)
    assert {verdicts[i] for i in range(0, 16, 4)} <= {Verdict.TIMED_OUT, Verdict.CRASHED}  # whichever limit is first
    assert [None if i % 4 == 0 else verdict for i, verdict in enumerate(verdicts)] == expected


def test_an_answer_ends_at_its_deadline(strict_verifier):
    """By half a second of the CPU. By the clock, over 400 answers: benchmarks/verifier.py."""
    deadline, start, used = strict_verifier.config.deadline, time.monotonic(), cpu_seconds()
    assert strict_verifier.judge_answers([HANGS], ["5"]) == [Verdict.TIMED_OUT]
    assert time.monotonic() - start >= deadline
    assert cpu_seconds() - used < deadline + 0.5


def test_a_gold_that_hangs_is_tried_once(strict_verifier):
    verdicts, workers = workers_during(strict_verifier, *(([f"{i}+3"], [HANGS]) for i in range(3)))
    assert verdicts == [Verdict.UNPARSABLE_GOLD] * 3
    # Each answer meets its deadline, the gold alone one more: four, not six.
    assert workers <= strict_verifier.config.workers + 4


# --- The life of the processes


def test_a_worker_killed_at_work_is_replaced(strict_verifier):
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(strict_verifier.judge_answers, [HANGS, "3x"], ["5", FOR_WORKERS])
        busy_worker(strict_verifier, future.done).kill()
        assert future.result() == [Verdict.TIMED_OUT, Verdict.CORRECT]
    assert strict_verifier.judge_answers(["3x"], [FOR_WORKERS]) == [Verdict.CORRECT]


def test_a_worker_killed_while_it_waits_is_replaced(strict_verifier):
    server, workers = server_of(strict_verifier), workers_of(strict_verifier)
    workers[0].kill()
    psutil.wait_procs(workers[:1], timeout=30)
    while len(workers_of(strict_verifier)) < len(workers):
        pass
    assert server_of(strict_verifier) == server
    assert strict_verifier.judge_answers(["3x", "4x"], [FOR_WORKERS] * 2) == [Verdict.CORRECT, Verdict.WRONG]


def test_a_killed_server_is_replaced(strict_verifier):
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(strict_verifier.judge_answers, [HANGS, "3x"], ["5", FOR_WORKERS])
        busy_worker(strict_verifier, future.done)
        orphans = workers_of(strict_verifier)
        server_of(strict_verifier).kill()
        assert future.result() == [Verdict.TIMED_OUT, Verdict.CORRECT]
    psutil.wait_procs(orphans, timeout=30)  # the kernel ends the one that is busy
    assert not any(worker.is_running() for worker in orphans)


def test_an_interrupted_call_does_not_answer_the_next_one(request):
    """Ctrl-C in a notebook, while a batch is judged."""
    # In the background a shell lets it be ignored.
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Verifier(VerifierConfig(workers=1, deadline=600.0)) as verifier:
        verifier.judge_answers(["3x"], [FOR_WORKERS])
        server, (worker,) = server_of(verifier), workers_of(verifier)

        def interrupt():
            busy_worker(verifier)
            signal.pthread_kill(main_thread().ident, signal.SIGINT)

        interrupter = Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            verifier.judge_answers([HANGS] * 5, ["5"] * 5)
        interrupter.join()
        # By itself: killed after a wait, it would have left its worker.
        assert not server.is_running()
        assert not worker.is_running()
        assert verifier.judge_answers(["3x", "4x"], [FOR_WORKERS] * 2) == [Verdict.CORRECT, Verdict.WRONG]


def test_ctrl_c_in_a_terminal_is_for_the_trainer_alone(verifier):
    """A terminal gives it to the foreground process group. The trainer closes its verifier when it is done."""
    processes = [server_of(verifier), *workers_of(verifier)]
    assert len(processes) > 1
    assert os.getpgrp() not in {os.getpgid(process.pid) for process in processes}


def test_a_scheduler_s_signals_to_all_processes_are_for_the_trainer_alone(verifier):
    """Slurm's `--signal` reaches every process of a job."""
    server, workers = server_of(verifier), workers_of(verifier)
    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        for process in (server, *server.children(), *workers):
            process.send_signal(signum)
    server.terminate()
    assert verifier.judge_answers([FOR_WORKERS], ["3x"]) == [Verdict.CORRECT]
    assert (server_of(verifier), workers_of(verifier)) == (server, workers)


def test_a_server_that_cannot_run_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"ended twice while it judged 1 answers: exit status 1\.$"):
        Verifier().judge_answers(["3x"], [FOR_WORKERS])


def test_closing_leaves_neither_process_nor_file_descriptor():
    def files():
        return len(os.listdir("/proc/self/fd"))

    files_before = files()
    with Verifier(VerifierConfig(deadline=1.0)) as verifier:
        for answer in (HANGS, "3x", "4x"):
            verifier.judge_answers([answer], [FOR_WORKERS])
        server = server_of(verifier)
        started = [server, *server.children(recursive=True)]
        assert len(started) >= 8
    psutil.wait_procs(started, timeout=30)
    assert not [process for process in started if process.is_running()]  # zombies count as running
    assert files() == files_before


def test_threads_share_one_verifier(verifier):
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda i: verifier.judge_answers([f"x+{i}"], [f"{i}+x"])[0], range(40)))
    assert results == [Verdict.CORRECT] * 40


def _judge_in_child(connection) -> None:
    connection.send([judgement.verdict for judgement in judge([r"\boxed{3x}", r"\boxed{4x}"], [FOR_WORKERS] * 2)])


def test_a_spawned_child_has_a_verifier_of_its_own():
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_judge_in_child, args=(there,))
    child.start()
    assert here.poll(120)
    assert here.recv() == [Verdict.CORRECT, Verdict.WRONG]
    child.join()
    assert child.exitcode == 0


def test_a_forked_child_has_a_verifier_of_its_own_even_where_a_thread_waits(verifier):
    """That thread holds the lock, and is none of the child's."""
    server = server_of(verifier)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(verifier.judge_answers, [HANGS], ["5"])
        busy_worker(verifier, waiting.done)
        if (pid := os.fork()) == 0:
            signal.alarm(120)  # ends the child, should it wait for ever
            verdicts = verifier.judge_answers(["3x", "4x"], [FOR_WORKERS] * 2)
            verifier.close()
            os._exit(0 if verdicts == [Verdict.CORRECT, Verdict.WRONG] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert waiting.result() == [Verdict.TIMED_OUT]
    assert server_of(verifier) == server


SCRIPT = """
import os, signal, sys
from htpo_trl.verifier import VerifierConfig, configure, judge
configure(VerifierConfig(workers=1, deadline=600.0))
print([str(j.verdict) for j in judge([r"\\boxed{3x}"], [r"x\\cdot\\gcd(6,9)"])], flush=True)
if sys.argv[1] == "killed":
    import threading
    threading.Thread(target=judge, args=([r"\\boxed{%s}" % sys.argv[2]], ["5"]), daemon=True).start()
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["exits", "killed"])
def test_no_process_outlives_a_script(tmp_path, end):
    # A file named like a library, beside the script and in its working directory, is the script's affair only.
    (tmp_path / "pebble.py").write_text("raise SystemExit('imported from the working directory')")
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SCRIPT, end, HANGS],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout.readline() == "['correct']\n"
    if end == "killed":
        started = psutil.Process(process.pid).children(recursive=True)
        while not any(p.cpu_times().user > 1 for p in started if p.is_running()):
            started = psutil.Process(process.pid).children(recursive=True)  # until a worker is busy
        process.kill()
        psutil.wait_procs(started, timeout=30)
        assert not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    output, errors = process.communicate()
    assert errors == ""
    assert output == ""


def test_importing_the_verifier_loads_neither_torch_nor_sympy():
    code = "import sys, htpo_trl.verifier; print(sorted({'torch', 'sympy', 'trl'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
