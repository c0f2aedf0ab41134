"""The watchdog, in processes of their own that it may end."""

import subprocess
import sys
import threading

import pytest

from deberta_jax.train.watchdog import Watchdog
from runs import ROOT

PROGRAM = """
import sys, time
sys.path.insert(0, {root!r})
from deberta_jax.train.watchdog import Watchdog

def a_step_that_hangs():
    time.sleep(60)

with Watchdog({minutes}) as watchdog:
    for _ in range({beats}):
        time.sleep(0.1)
        watchdog.beat()
    if {hangs}:
        a_step_that_hangs()
print("through")
"""


def ended(**values) -> subprocess.CompletedProcess:
    program = PROGRAM.format(root=str(ROOT), **values)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)


def test_where_nothing_moves_it_prints_all_stacks_and_exits_5():
    done = ended(minutes=1 / 60, beats=2, hangs=True)
    assert done.returncode == 5
    assert "a_step_that_hangs" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("peerdied: no step has ended for 0.0 minutes (watchdog_minutes)")


@pytest.mark.parametrize(("minutes", "hangs"), [(3 / 60, False), (0, False)])
def test_it_lets_what_moves_go_on(minutes, hangs):
    done = ended(minutes=minutes, beats=50, hangs=hangs)
    assert (done.returncode, done.stdout) == (0, "through\n"), done.stderr


def test_its_thread_ends_with_the_context():
    before = threading.active_count()
    with Watchdog(5.0):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with Watchdog(0.0):
        assert threading.active_count() == before
