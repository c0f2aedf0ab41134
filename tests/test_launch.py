"""The launch scripts against a cloud and a Slurm of shell scripts, which run what they are told on made-up hosts."""

import math
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

import train
from commands import Command, commands_in, parsed
from deberta_jax import errors

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
FLAGS = ["--config=configs/quickstart.py", "--config.data.paths=('data/rows',)", "--workdir=gs://b/a run"]
HOSTS = 2
TIMEOUT = 120  # seconds for what takes one

# Keeps the slice in files below $CLOUD; a host is a home directory, and an ssh a shell with that $HOME.
GCLOUD = """
echo "$*" >> "$CLOUD/calls"
case "$*" in
  *"queued-resources list"*) cat "$CLOUD/request" 2> /dev/null || true ;;
  *"tpu-vm list"*) cat "$CLOUD/slice" 2> /dev/null || true ;;
  *"queued-resources create"*)
    echo ACTIVE > "$CLOUD/request"; echo READY > "$CLOUD/slice"
    for host in 0 1; do install -D "$CLOUD/bin/uv" "$CLOUD/hosts/$host/.local/bin/uv"; done ;;
  *"queued-resources delete"*) rm -rf "$CLOUD/request" "$CLOUD/slice" "$CLOUD/hosts" ;;
  *"tpu-vm scp"*) for host in "$CLOUD"/hosts/*; do cp "$5" "$host/${6#*:}"; done ;;
  *"storage rsync"*) echo rows > "${!#}/rows" ;;
  *"tpu-vm ssh"*)
    status=0
    for host in "$CLOUD"/hosts/*; do
      [[ ! -e $host.silent ]] || { status=255; continue; }
      (cd "$host" && HOME=$host HOST=${host##*/} bash -c "${!##--command=}") || status=1
    done
    exit $status ;;
esac
"""
# Makes a virtual environment whose python plays the next line of $CLOUD/plays-HOST.
UV = """
[[ $1 != venv ]] || { mkdir -p .venv/bin; cp "$CLOUD/bin/play" .venv/bin/python; }
"""
PLAY = """
for word in "$@"; do printf '%s\\n' "$word"; done > "$CLOUD/flags-$HOST"
echo >> "$CLOUD/runs-$HOST"
play=$(sed -n "$(wc -l < "$CLOUD/runs-$HOST")p" "$CLOUD/plays-$HOST")
case $play in
  PREEMPTED | TERMINATED) echo "$play" > "$CLOUD/slice"; kill -KILL 0 ;;
  vanished) kill -KILL 0 ;;
  silent) touch "$CLOUD/hosts/$HOST.silent"; kill -KILL 0 ;;
  until-told) trap 'exit 75' TERM; touch "$CLOUD/running"; while true; do sleep; done ;;
  signalled) trap 'code=75' TERM; kill -TERM 0; exit "$code" ;; # as Slurm does, to every process of the step
  *) echo "the last words of $HOST"; exit "$play" ;;
esac
"""
BIN = {"gcloud": GCLOUD, "uv": UV, "play": PLAY, "python3": "", "sleep": "exec /bin/sleep 0.05"}


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Cloud:
    """A directory that stands for a project, and a repository whose commit is pushed."""

    def __init__(self, path: Path):
        self.path = path / "cloud"
        self.repository = path / "repository"
        for name, text in BIN.items():
            executable(self.path / "bin" / name, text)
        fewer = re.sub(r"(readonly (?:RESTARTS|SILENT))=20", r"\1=2", (LAUNCH / "tpu_vm.sh").read_text())
        executable(self.repository / "launch" / "tpu_vm.sh", fewer)
        git = ["git", "-c", "user.name=n", "-c", "user.email=e@x"]
        for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=c"]):
            subprocess.run([*git, *words], cwd=self.repository, check=True)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CLOUD": str(self.path), "PATH": f"{self.path / 'bin'}:{os.environ['PATH']}"}

    def plays(self, *runs: Sequence[str]) -> None:
        """What the program does on each host, run by run."""
        for host, words in enumerate(zip(*runs, strict=True)):
            (self.path / f"plays-{host}").write_text("\n".join(map(str, words)))

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        command = [self.repository / "launch" / "tpu_vm.sh", *words]
        return subprocess.Popen(
            command, env=self.environment | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        """(exit code, output) of a call of the script."""
        process = self.start(*words, **environment)
        out, _ = process.communicate(timeout=TIMEOUT)
        return process.returncode, out

    def train(self, *flags: str, **environment: str) -> tuple[int, str]:
        return self.run("run", "pod", *(flags or FLAGS), **environment)

    def calls(self, verb: str) -> list[str]:
        path = self.path / "calls"
        return [call for call in path.read_text().splitlines() if verb in call] if path.exists() else []

    def runs(self) -> list[int]:
        """How often each host ran the program."""
        files = [self.path / f"runs-{host}" for host in range(HOSTS)]
        return [len(file.read_text()) if file.exists() else 0 for file in files]

    def until(self, name: str) -> None:
        end = time.monotonic() + TIMEOUT
        while not (self.path / name).exists():
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path)
    yield cloud
    for file in cloud.path.glob("hosts/*/run/pid"):
        try:
            os.killpg(os.getpgid(int(file.read_text())), signal.SIGKILL)
        except ProcessLookupError:
            continue


def both(*plays: str) -> list[tuple[str, str]]:
    return [(play, play) for play in plays]


@pytest.mark.parametrize(
    ("plays", "code", "runs"),
    [
        (both("75", "0"), 0, 2),
        (both("5", "5", "0"), 0, 3),
        (both("137", "0"), 0, 2),
        (both("1"), 1, 1),
        (both("2"), 2, 1),
        (both("4"), 4, 1),
        (both("127"), 127, 1),
        ([("1", "5")], 1, 1),
        ([("vanished", "5"), ("0", "0")], 0, 2),
        ([("0", "75"), ("0", "0")], 0, 2),
        ([("5", "137"), ("4", "5")], 4, 2),
    ],
    ids=lambda value: "/".join(".".join(run) for run in value) if isinstance(value, list) else None,
)
def test_the_program_is_started_again_where_that_helps(cloud, plays, code, runs):
    cloud.plays(*plays)
    ended, out = cloud.train()
    assert (ended, cloud.runs()) == (code, [runs] * HOSTS), out
    assert len(cloud.calls("queued-resources create")) == 1
    assert "launch/tpu_vm.sh delete pod" in out  # it costs until then
    assert code == 0 or "the last words of 0" in out


def test_a_preempted_slice_is_deleted_asked_for_and_set_up_anew(cloud):
    cloud.plays(*both("PREEMPTED", "TERMINATED", "0"))
    ended, out = cloud.train(SPOT="1", TYPE="v5litepod-8", DATA="gs://bucket/data")
    assert (ended, cloud.runs()) == (0, [3] * HOSTS), out
    create, *again = cloud.calls("queued-resources create")
    assert [create] * 2 == again
    assert {"pod", "--node-id=pod", "--accelerator-type=v5litepod-8", "--spot"} <= set(create.split())
    assert len(cloud.calls("queued-resources delete pod --force --quiet")) == 2
    for host in range(HOSTS):
        home = cloud.path / "hosts" / str(host)
        assert (home / "deberta" / "data" / "rows").is_file()
        assert (cloud.path / f"flags-{host}").read_text().splitlines() == ["train.py", *FLAGS]


def test_a_suspended_request_is_asked_for_again_and_a_failed_one_is_not(cloud):
    cloud.plays(*both("0"))
    (cloud.path / "request").write_text("SUSPENDED")
    assert cloud.train()[0] == 0
    assert len(cloud.calls("queued-resources delete")) == len(cloud.calls("queued-resources create")) == 1
    (cloud.path / "request").write_text("FAILED")
    ended, out = cloud.train()
    assert (ended, cloud.runs()) == (1, [1] * HOSTS)
    assert "the request failed" in out


def test_a_host_that_stays_silent_costs_the_slice_once_the_run_is_over(cloud):
    cloud.plays(("silent", "5"), ("0", "0"))
    ended, out = cloud.train()
    assert (ended, cloud.runs()) == (0, [2] * HOSTS), out
    assert len(cloud.calls("queued-resources delete")) == 1


def test_what_an_earlier_run_left_is_forgotten(cloud):
    cloud.plays(*both("4", "vanished", "0"))
    assert (cloud.train()[0], cloud.train()[0], cloud.runs()) == (4, 0, [3] * HOSTS)


def test_a_run_that_never_lives_is_given_up(cloud):
    cloud.plays(*both("5", "75", "137", "5"))
    ended, out = cloud.train()
    assert (ended, cloud.runs()) == (5, [3] * HOSTS), out


def test_a_second_start_finds_the_run_and_stop_ends_it_for_good(cloud):
    cloud.plays(*both("until-told", "75", "0"))
    first = cloud.start("run", "pod", *FLAGS)
    cloud.until("running")
    first.send_signal(signal.SIGINT)  # whoever watches goes home
    out, _ = first.communicate(timeout=TIMEOUT)
    assert (first.returncode, "what runs goes on" in out) == (130, True)
    second = cloud.start("run", "pod", *FLAGS)
    while not cloud.calls("host_outcome"):
        time.sleep(0.01)
    assert "running" in cloud.run("status", "pod")[1]
    ended, said = cloud.run("stop", "pod")
    out, _ = second.communicate(timeout=TIMEOUT)
    assert (ended, second.returncode) == (0, 75), said + out
    assert cloud.runs() == [1] * HOSTS
    assert cloud.train()[0] == 0  # told to run, it goes on, and is started again as ever
    assert cloud.runs() == [3] * HOSTS


def test_only_a_commit_runs_and_mistakes_are_told_before_anything_is_asked_for(cloud):
    with (cloud.repository / "launch" / "tpu_vm.sh").open("a") as script:
        script.write("# changed\n")
    ended, out = cloud.train()
    assert (ended, "commit your changes first" in out) == (1, True)
    assert (cloud.run("run", "--config=x")[0], cloud.run("ruin")[0]) == (1, 2)
    assert cloud.calls("") == []


SRUN = """
echo "$*" >> "$CLOUD/srun"
while [[ $1 == --* ]]; do shift; done
worst=0
for process in 0 1; do
  HOST=$process setsid --wait "$@"; code=$?  # a step is a session of its own
  ((code <= worst)) || worst=$code
done
exit $worst
"""


def slurm(tmp_path: Path, plays: Sequence[str], **environment: str) -> tuple[int, list[str]]:
    """(exit code, calls of scontrol) of the batch script, its tasks playing `plays`."""
    tmp_path.mkdir(exist_ok=True)
    for host, play in enumerate(plays):
        (tmp_path / f"plays-{host}").write_text(play)
    for name, text in {"srun": SRUN, "scontrol": 'echo "$*" >> "$CLOUD/scontrol"', "sleep": BIN["sleep"]}.items():
        executable(tmp_path / "bin" / name, text)
    executable(tmp_path / ".venv" / "bin" / "python", PLAY)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "CLOUD": str(tmp_path), "PATH": path, "SLURM_JOB_ID": "7", **environment}
    command = ["bash", LAUNCH / "slurm.sh", *FLAGS]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, timeout=TIMEOUT, check=False)
    calls = tmp_path / "scontrol"
    return ended.returncode, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(
    ("plays", "code", "again"),
    [
        (("0", "0"), 0, False),
        (("75", "75"), 75, True),
        (("5", "137"), 137, True),
        (("5", "0"), 5, True),
        (("1", "5"), 1, False),
        (("5", "2"), 2, False),
        (("3", "75"), 3, False),
        (("137", "4"), 4, False),
        (("127", "127"), 127, False),
    ],
)
def test_slurm_queues_the_job_again_where_that_helps(tmp_path, plays, code, again):
    assert slurm(tmp_path, plays) == (code, ["requeue 7"] if again else [])
    assert (tmp_path / "flags-1").read_text().splitlines() == ["train.py", *FLAGS]


def test_slurm_queues_the_job_again_so_many_times_and_no_more(tmp_path):
    assert slurm(tmp_path / "a", ("75", "75"), SLURM_RESTART_COUNT="99") == (75, ["requeue 7"])
    assert slurm(tmp_path / "b", ("75", "75"), SLURM_RESTART_COUNT="100") == (75, [])


def test_a_signal_to_every_process_of_a_slurm_step_leaves_the_program_its_time_to_save(tmp_path):
    assert slurm(tmp_path, ("signalled", "signalled")) == (75, ["requeue 7"])


def test_slurm_starts_one_process_for_each_gpu_of_a_node():
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in (LAUNCH / "slurm.sh").read_text().splitlines()
        if line.startswith("#SBATCH")
    )
    assert options["ntasks-per-node"] == options["gpus-per-node"]  # jax gives each process device SLURM_LOCALID
    assert options["signal"] == "TERM@120"
    assert {"requeue", "dependency"} <= options.keys()


@pytest.fixture(scope="module")
def jobset() -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def fits_the_schema(manifest: dict[str, Any]) -> bool:
    """Whether the models of JobSet's and Kubernetes' API take all of it: they leave out keys that they do not know."""
    return JobsetV1alpha2JobSet.from_dict(manifest).to_dict() == manifest


def test_the_manifest_fits_the_schema_of_jobset_and_of_kubernetes(jobset):
    assert fits_the_schema(jobset)


@pytest.mark.parametrize(
    "path",
    [
        "spec.failurPolicy",
        "spec.failurePolicy.rules.0.onJobFailureReason",
        "spec.replicatedJobs.0.replica",
        "spec.replicatedJobs.0.template.spec.completion",
        "spec.replicatedJobs.0.template.spec.podFailurePolicy.rules.0.onExitCode",
        "spec.replicatedJobs.0.template.spec.template.spec.nodeSelectors",
        "spec.replicatedJobs.0.template.spec.template.spec.containers.0.resources.limit",
    ],
)
def test_a_misspelt_key_of_a_manifest_is_found(path):
    manifest = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    *groups, key = path.split(".")
    group = manifest
    for name in groups:
        group = group[int(name) if name.isdigit() else name]
    group[key] = {}
    assert not fits_the_schema(manifest)


def test_the_manifest_counts_hosts_and_chips_and_restarts_what_the_scripts_restart(jobset, monkeypatch):
    monkeypatch.chdir(ROOT)
    (slices,) = jobset["spec"]["replicatedJobs"]
    job, pod = slices["template"]["spec"], slices["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["completions"] == job["parallelism"] == rows * columns // chips
    mesh = train.parse(container["args"])[0].config.mesh
    assert math.prod(size for _, size in mesh) == rows * columns
    assert (pod["restartPolicy"], job["backoffLimit"]) == ("Never", 0)  # what a pod failure policy asks for
    (fatal,) = job["podFailurePolicy"]["rules"]
    assert (fatal["action"], fatal["onExitCodes"]["containerName"]) == ("FailJob", container["name"])
    kinds = (errors.Failed, errors.Refused, errors.DoesNotFit, errors.Diverged)
    assert fatal["onExitCodes"]["values"] == [kind.exit_code for kind in kinds]
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


def test_the_commands_that_the_scripts_show_are_ones_that_train_py_takes(jobset, monkeypatch):
    monkeypatch.chdir(ROOT)
    container = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    shown = [command for name in ("tpu_vm.sh", "slurm.sh") for command in commands_in((LAUNCH / name).read_text())]
    assert len(shown) == 2
    for command in (*shown, Command("train", tuple(container["args"]))):
        assert parsed(command, monkeypatch).workdir
        train.configs.build(train.parse(list(command.flags))[0].config)


def test_shellcheck_finds_nothing():
    command = [Path(sys.executable).with_name("shellcheck"), *sorted(LAUNCH.glob("*.sh"))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_the_image_is_made_of_what_is_there():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
