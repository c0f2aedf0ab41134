"""What the processes of a run agree on: three real ones, and one by itself."""

import json
import os
import socket
import subprocess
import sys

import pytest

from deberta_jax.dist import hosts
from deberta_jax.dist.hosts import Agreement
from deberta_jax.errors import Diverged, Refused
from runs import PATIENCE, ROOT

COUNT = 3
PROGRAM = """
import json, sys
sys.path.insert(0, {root!r})
from deberta_jax.dist import hosts
from deberta_jax.dist.processes import Processes
from deberta_jax.errors import Diverged, Refused

me = int(sys.argv[1])
hosts.join(Processes("localhost:{port}", {count}, me, 30), None)

def told(function):
    try:
        return function()
    except (Refused, Diverged) as error:
        return [type(error).__name__, str(error)]

def refuse(*numbers):
    if me in numbers:
        raise Refused("no " + "x" * 600 if me == 1 else "no")
    return me

def diverge():
    raise Diverged("at step 3")

agree, ran = hosts.Agreement(), []
hosts.by_lead(lambda: ran.append(me))
wishes = [[], [2], [0, 1], [], [], [1], [1], []]
print("FOUND " + json.dumps({{
    "several": hosts.several(),
    "lead": hosts.is_lead(),
    "names": hosts.names(),
    "gathered": hosts.gathered("é" * me, 5),
    "by lead": hosts.by_lead(lambda: {{"who": me, "text": "ü" * 70_000}})["who"],
    "nothing by lead": hosts.by_lead(lambda: None),
    "lead diverged": told(lambda: hosts.by_lead(diverge)),
    "all well": told(lambda: hosts.together(lambda: refuse())),
    "one refused": told(lambda: hosts.together(lambda: refuse(2))),
    "two refused": told(lambda: hosts.together(lambda: refuse(1, 2))),
    "lead refused": told(lambda: hosts.together(lambda: refuse(0))),
    "ran": ran,
    "agreed": [agree(me in wish) for wish in wishes],
}}))
"""


@pytest.fixture(scope="module")
def found() -> list[dict]:
    """What each of three processes, with two devices each, was told."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = listening.getsockname()[1]
    program = PROGRAM.format(root=str(ROOT), port=port, count=COUNT)
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    running = [subprocess.Popen([sys.executable, "-c", program, str(i)], **options) for i in range(COUNT)]
    said = [process.communicate(timeout=PATIENCE) for process in running]
    assert [process.returncode for process in running] == [0] * COUNT, said
    lines = [next(line for line in out.splitlines() if line.startswith("FOUND ")) for out, _ in said]
    return [json.loads(line.removeprefix("FOUND ")) for line in lines]


pytestmark = pytest.mark.two_process


def test_only_the_first_leads(found):
    assert [each["lead"] for each in found] == [True, False, False]
    assert all(each["several"] for each in found)


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("names", [socket.gethostname()[: hosts.NAME_BYTES]] * COUNT),
        ("gathered", ["", "é", "éé"]),
        ("by lead", 0),
        ("nothing by lead", None),
        ("lead diverged", ["Diverged", "at step 3"]),
        ("one refused", ["Refused", f"process 2 ({socket.gethostname()}): no"]),
        ("lead refused", ["Refused", f"process 0 ({socket.gethostname()}): no"]),
    ],
)
def test_all_are_told_the_same(what, answer, found):
    assert [each[what] for each in found] == [answer] * COUNT


def test_what_is_done_by_the_lead_is_done_once(found):
    assert [each["ran"] for each in found] == [[0], [], []]


def test_where_nobody_is_refused_each_has_its_own(found):
    assert [each["all well"] for each in found] == [0, 1, 2]


def test_where_most_are_refused_the_first_may_be_the_odd_one(found):
    kind, said = found[0]["two refused"]
    name = socket.gethostname()
    assert kind == "Refused"
    assert said.startswith(f"process 1 ({name}): no xxx")
    assert said.endswith(f"process 2 ({name}): no; so it may be process 0 ({name}) that is odd")


def test_a_wish_of_any_is_a_decision_of_all_one_call_later_and_granted_once(found):
    """The wish that is repeated while the first is being granted is the same one."""
    decided = [False, False, True, False, False, False, True, False]
    assert [each["agreed"] for each in found] == [decided] * COUNT


def test_one_by_itself_asks_nobody():
    assert not hosts.several() and hosts.is_lead()
    assert hosts.by_lead(lambda: "anything") == "anything"
    assert hosts.together(lambda: 3) == 3
    hosts.wait_for_all("nobody")
    agree = Agreement()
    assert [agree(wish) for wish in (False, True, True, False)] == [False, True, True, False]


@pytest.mark.parametrize("function", [hosts.by_lead, hosts.together])
@pytest.mark.parametrize("kind", [Refused, Diverged])
def test_one_by_itself_is_told_its_own_errors(function, kind):
    def fail():
        raise kind("as it is")

    with pytest.raises(kind, match="^as it is$"):
        function(fail)


def test_hosts_with_the_same_fault_share_a_line():
    faults = ["", *["no rows"] * 6, "no config"]
    said = hosts._said([1, 2, 3, 4, 5, 6, 7], faults, [f"h{i}" for i in range(8)])
    assert "odd" not in hosts._said([0, 1], ["no", "no"], ["h0", "h1"])
    assert said == (
        "process 1 (h1), 2 (h2), 3 (h3) and 3 more: no rows; process 7 (h7): no config; "
        "so it may be process 0 (h0) that is odd"
    )
