"""Kills a small run again and again, at random and at delicate instants; every restart must go on as if nothing was.

    python tests/kill_often.py --kills=50 [--seed=0]

Prints where the kills fell, and fails where a restart fails or does not go on from the newest good step, or where the
last one ends with other parameters, optimizer state or logged numbers than a run that was left alone.
"""

import argparse
import itertools
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import orbax.checkpoint as ocp  # noqa: E402

from deberta_jax.train import checkpoint  # noqa: E402
from deberta_jax.train.compiled import FOLDER, is_whole  # noqa: E402
from deberta_jax.train.loop import logged_lines  # noqa: E402
from deberta_jax.train.session import CHECKPOINTS  # noqa: E402
from made_up import made_up_documents, write_tokenizer  # noqa: E402
from runs import PATIENCE, assert_same_run, finish, prepare_rows, start, tiny_flags  # noqa: E402


class Target:
    """A run that is to be killed: how it is started, what it leaves in its workdir, its folder of compiled programs."""

    def __init__(self, flags: list[str], workdir: Path, cache: Path, chance: random.Random):
        """`cache` has the programs of such a run."""
        self._command = ["train.py", *flags, f"--workdir={workdir}"]
        self.workdir, self.chance = workdir, chance
        self._cache, self._programs = cache, cache / FOLDER
        (self.program,) = self._programs.glob("jit_train_step-*-cache")
        self._kept = shutil.copy(self.program, workdir.parent)

    def begin(self, *, compiled: bool = True) -> subprocess.Popen:
        """Starts it; with `compiled`, not without an entry for the training step, be it whole or not."""
        if compiled and not self.program.exists():
            shutil.copy(self._kept, self.program)
        if not compiled:
            self.program.unlink(missing_ok=True)
        return start(*self._command, cache=self._cache)

    def newest(self) -> int:
        """The newest step that is vouched for, 0 for none."""
        return max((step for step in self.steps() if self._at(step, checkpoint.DIGEST).exists()), default=0)

    def steps(self) -> set[int]:
        """Steps whose state is written, vouched for or not."""
        return set(checkpoint.steps_in(self.workdir / CHECKPOINTS))

    def unfinished(self) -> set[tuple[int, int]]:
        """Folders of states that are not: what tells one from another."""
        found = [path.stat() for path in (self.workdir / CHECKPOINTS).glob(f"*{ocp.utils.TMP_DIR_SUFFIX}")]
        return {(status.st_ino, status.st_mtime_ns) for status in found}

    def written(self, name: str) -> set[int]:
        """When a file of the workdir was written."""
        path = self.workdir / name
        return {path.stat().st_mtime_ns} if path.exists() else set()

    def logged(self) -> set[int]:
        """The file with steps that are logged and not saved, if there are such: each start replaces it."""
        path = self.workdir / "metrics.jsonl"
        newer = any(line["step"] > self.newest() for line in logged_lines(self.workdir))
        return {path.stat().st_ino} if newer else set()

    def traces(self) -> dict[str, set]:
        """What tells, by what is new in it, how far a process came; the last first."""
        return {
            "before a digest": {step for step in self.steps() if not self._at(step, checkpoint.DIGEST).exists()},
            "in a save": self.unfinished(),
            "in a write of the compile cache": {path for path in self._programs.glob("*-cache") if not is_whole(path)},
            "after a save": {self.newest()},
            "after a step": self.logged(),
            "before the first step": self.written("environment.json"),
        }

    def _at(self, step: int, name: str) -> Path:
        return self.workdir / CHECKPOINTS / str(step) / name


def until(happened: Callable[[], object], process: subprocess.Popen, within: float = 0.0002) -> None:
    """Returns as soon as `happened()`, `within` some seconds; fails when the process ends first."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"waited {PATIENCE} s"
        time.sleep(within)


def starting(target: Target) -> subprocess.Popen:
    """Some moment of the first seconds: imports, hashing the data, restoring."""
    process = target.begin()
    time.sleep(target.chance.uniform(0, 6))
    return process


def compiling(target: Target) -> subprocess.Popen:
    """Some moment of the seconds after all is read, when there is nothing compiled."""
    written, process = target.written("environment.json"), target.begin(compiled=False)
    until(lambda: target.written("environment.json") - written, process)
    time.sleep(target.chance.uniform(0, 8))
    return process


def caching(target: Target) -> subprocess.Popen:
    """The compiled training step is being written."""
    process = target.begin(compiled=False)
    until(target.program.exists, process)
    return process


def stepping(target: Target) -> subprocess.Popen:
    """Shortly after a step: in another one, in an evaluation, in a save."""
    logged, process = target.logged(), target.begin()
    until(lambda: target.logged() - logged, process)
    time.sleep(target.chance.uniform(0, 1))
    return process


def saving(target: Target) -> subprocess.Popen:
    """A state is being written; the one before it is good."""
    process = after_a_save(target)
    unfinished = target.unfinished()
    until(lambda: target.unfinished() - unfinished, process)
    time.sleep(target.chance.uniform(0, 0.05))
    return process


def sealing(target: Target) -> subprocess.Popen:
    """A state is written, its digest is not; the one before it is good."""
    process = after_a_save(target)
    before = target.steps()
    until(lambda: target.steps() - before, process)
    return process


def after_a_save(target: Target) -> subprocess.Popen:
    """A process that has saved once."""
    newest, process = target.newest(), target.begin()
    until(lambda: target.newest() > newest, process, within=0.002)  # reading the folder all the time takes a core
    return process


AIMS = (saving, caching, stepping, sealing, starting, compiling)


def kill_often(target: Target, aims: Iterable[Callable[[Target], subprocess.Popen]]) -> Counter[tuple[str, str]]:
    """Starts and kills a run, once for each aim; returns how often which aim fell where.

    Each start must go on from the step that was the newest good one when the process before it died.
    """
    fell: Counter[tuple[str, str]] = Counter()
    for aim in aims:
        before, newest = target.traces(), target.newest()
        process = aim(target)
        process.kill()
        killed = finish(process)
        assert killed.returncode == -signal.SIGKILL, f"{aim.__name__}: ended by itself: {killed.stderr}"
        check_resumed(killed.stderr, newest)
        after = target.traces()
        place = next((name for name, trace in after.items() if trace - before[name]), "before anything is written")
        fell[aim.__name__, place] += 1
        print(f"aimed at {aim.__name__}, fell {place}; newest good step {target.newest()}", flush=True)
    return fell


def check_resumed(said: str, newest: int) -> None:
    """Of a process that has come so far: it went on from step `newest`, or from the beginning where that is 0."""
    steps = [int(step) for step in re.findall(r"resuming \S+ at step (\d+)", said)]
    wanted = [newest] if newest else []
    assert steps == wanted or (not steps and "attention of" not in said), f"not from step {newest}: {said}"


def finish_run(target: Target) -> None:
    """The last start, which is left alone."""
    newest = target.newest()
    done = finish(target.begin())
    assert done.returncode == 0, done.stderr
    check_resumed(done.stderr, newest)
    assert not target.unfinished(), "what kills left of unfinished saves is still there"


def main(argv: list[str]) -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--kills", type=int, default=6)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root, steps = Path(folder), 24 + 4 * options.kills
        flags = tiny_flags(prepared_rows(root), steps=steps)
        alone = start("train.py", *flags, f"--workdir={root / 'alone'}", cache=root / "cache")
        said = alone.communicate()[1]
        assert alone.returncode == 0, said
        target = Target(flags, root / "killed", root / "cache", random.Random(options.seed))
        begun = time.monotonic()
        fell = kill_often(target, itertools.islice(itertools.cycle(AIMS), options.kills))
        finish_run(target)
        assert_same_run(target.workdir, root / "alone", steps)
        print(
            f"{options.kills} kills of a run of {steps} steps in {time.monotonic() - begun:.0f} s; each restart went on"
        )
        for (aim, place), count in sorted(fell.items()):
            print(f"{count:3} aimed at {aim}: {place}")
        print("the end is bit for bit that of a run that was left alone")


def prepared_rows(root: Path) -> Path:
    """Rows of made-up text under `root`."""
    documents = made_up_documents()
    write_tokenizer(root / "tokenizer", documents)
    prepare_rows(documents, root / "tokenizer", root / "rows", length=32, holdout=0.1)
    return root / "rows"


if __name__ == "__main__":
    main(sys.argv[1:])
