"""The parent of each process: it passes words and signals on, and has the last word. Real processes, real signals."""

import os
import signal
import subprocess
import sys

import pytest

from deberta_jax.dist import supervise
from runs import PATIENCE, ROOT, finish, wait_for

# What jax's runtime printed, by version.
SILENT = """E coordination_service.cc:1549] Use error polling to propagate the following error: UNAVAILABLE: \
The following tasks are unhealthy (stopped sending heartbeats):
{}
The tasks have crashed. Check the task logs for an earlier error
"""
FATAL = "F client.h:80] Terminating process because the JAX distributed service detected fatal errors. absl::Status: "
NO_COORDINATOR = FATAL + "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was preempted"
NOT_MET = FATAL + "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/RegisterTask\n"
PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from deberta_jax import errors
from deberta_jax.dist import supervise

def main(argv):
    parent = supervise.parent_of_this()
    if parent is None:
        supervise.supervise()
    supervise.die_with(parent)
    supervise.tell(parent, hosts=["ant", "bee", "cow"])
    print("child", os.getpid(), flush=True)
    print("words", file=sys.stderr)
    exec(argv[0], globals() | {{"parent": parent}})

sys.exit(errors.run(main, sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        (SILENT.format("1"), [1]),
        (SILENT.format("2\n11"), [2, 11]),
        (SILENT.format("/job:jax_worker/replica:0/task:3"), [3]),
        (SILENT.format("1") * 2 + NO_COORDINATOR, [1]),
        (NO_COORDINATOR, [0]),
        (NOT_MET, []),
        (FATAL + "Barrier timed out.\nThe first task at the barrier: 2. Some timed out task names:\n0\n", [2]),
        ("Aborted: out of luck", []),
        ("", []),
    ],
)
def test_the_lost_are_read_from_what_jax_says(said, lost):
    assert supervise.lost_processes(said) == lost


@pytest.fixture
def run(tmp_path):
    """Starts a program that is supervised and executes `action` as the child."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT)))

    def begin(action: str) -> subprocess.Popen:
        command = [sys.executable, str(program), action]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, process_group=0, **pipes)

    return begin


@pytest.mark.parametrize("code", [0, 2, 75])
def test_the_child_s_exit_code_and_words_are_the_parent_s(code, run):
    done = finish(run(f"sys.exit({code})"))
    assert (done.returncode, done.stderr) == (code, "words\n")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (SILENT.format("1") + FATAL, "process 1 (bee) is gone: "),
        (SILENT.format("1\n2") + FATAL, "process 1 (bee) and process 2 (cow) are gone: "),
        (NO_COORDINATOR, "process 0 (ant) is gone: "),
        (NOT_MET, "the processes did not all find each other in 300 seconds: "),
        (FATAL + "words of another version", "another process is gone; start the same command again"),
    ],
)
def test_an_abort_by_jax_becomes_exit_code_5_and_one_last_line(said, told, run):
    done = finish(run(f"sys.stderr.write({said!r}); sys.stderr.flush(); os.abort()"))
    assert done.returncode == 5
    assert done.stderr.startswith(f"words\n{said}")
    assert done.stderr.splitlines()[-1].startswith(f"peerdied: {told}")


@pytest.mark.parametrize(("code", "line"), [(0, ""), (2, "refused: no rows"), (75, "stopped: at step 3")])
def test_what_comes_after_a_child_has_said_its_end_changes_nothing(code, line, run):
    abort = f"sys.stderr.write({SILENT.format('1') + FATAL!r}); sys.stderr.flush(); os.abort()"
    done = finish(run(f"supervise.tell(parent, ended=({code}, {line!r})); {abort}"))
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == line or not line


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_another_signal_s_end_is_named(name, run):
    done = finish(run(f"print('50 %', end='', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.{name})"))
    assert done.returncode == 128 + signal.Signals[name]
    assert done.stderr.splitlines()[-1].startswith(f"failed: ended by {name}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_reaches_the_child(number, run, tmp_path):
    ready = tmp_path / "ready"
    process = run(
        f"signal.signal({number:d}, lambda *_: sys.exit(75)); open({str(ready)!r}, 'w').close(); time.sleep(60)"
    )
    wait_for(ready.exists, process)
    process.send_signal(number)
    assert finish(process).returncode == 75


def test_ctrl_c_reaches_the_child_once(run, tmp_path):
    """A terminal sends it to the whole group."""
    ready = tmp_path / "ready"
    process = run(
        "heard = []; signal.signal(signal.SIGINT, lambda *_: heard.append(1)); "
        f"open({str(ready)!r}, 'w').close(); "
        "deadline = time.monotonic() + 30\n"
        "while not heard and time.monotonic() < deadline: time.sleep(0.01)\n"
        "time.sleep(0.5); print('heard', len(heard))"
    )
    wait_for(ready.exists, process)
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process).stdout.splitlines()[-1] == "heard 1"


def test_a_child_ends_with_its_parent(run):
    process = run("time.sleep(10_000)")
    assert process.stdout.readline().startswith("child ")
    process.kill()
    process.communicate(timeout=PATIENCE)  # returns when the child, who holds the pipes too, has ended


def test_a_grandchild_is_not_supervised(run):
    show = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from deberta_jax.dist import supervise; "
    show += "print(supervise.parent_of_this())"
    done = finish(run(f"import subprocess; subprocess.run([sys.executable, '-c', {show!r}])"))
    assert done.stdout.splitlines()[1:] == ["None"]
