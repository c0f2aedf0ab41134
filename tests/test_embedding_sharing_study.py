"""benchmarks.embedding_sharing: once with the real train.py, otherwise with one that leaves made-up numbers."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import embedding_sharing
from deberta_jax import errors
from deberta_jax.data.prepared import read_manifest
from deberta_jax.reports import curves
from runs import PATIENCE, ROOT, TINY, finish, wait_for
from xla_flags import FAST_TO_COMPILE

PRETENDED = """
import json, os, signal, sys, time
from pathlib import Path
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
workdir = Path(flags["workdir"])
workdir.mkdir(exist_ok=True)
(workdir / "flags.json").write_text(json.dumps(flags))
mode, seed, steps = flags["config.rtd.embedding_sharing"], int(flags["config.seed"]), int(flags["config.steps"])
if Path("sleep").exists():
    heard = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: heard.append(number))
    (workdir / "ready").write_text("")
    end = time.monotonic() + 120
    while not heard and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.5)
    (workdir / "heard.json").write_text(json.dumps(heard))
    sys.exit(75)
if Path(f"fail-{mode}-{seed}").exists():
    print("what this was about\\n" + "diverged: step 3: non-finite loss\\n", file=sys.stderr)
    sys.exit(4)
start = {"gdes": 1.0, "shared": 2.0, "none": 3.0}[mode] + seed / 10
lines = [
    {"step": step, "loss": 1.0, "generator/loss": start + 5 / step, "discriminator/loss": start / 10 + 1 / step}
    for step in range(1, steps + 1)
]
scores = {
    "loss": 1.0,
    "generator/loss": start,
    "generator/accuracy": start / 10,
    "discriminator/loss": start / 100,
    "discriminator/f1": start / 4,
    "always_replaced/f1": 0.25,
}
lines.insert(0, {"step": 0, "eval/only_before": 1.0})
lines.append({"step": steps} | {"eval/" + key: value for key, value in scores.items()})
(workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
environment = {"python": "3.11", "packages": {"jax": "0.10"}, "devices": ["abacus"], "git": "f00"}
(workdir / "environment.json").write_text(json.dumps(environment))
"""
STARTS = {"gdes": 1.0, "shared": 2.0, "none": 3.0}


@pytest.fixture
def pretended(tmp_path, monkeypatch) -> Path:
    """A working directory whose train.py trains nothing."""
    (tmp_path / "train.py").write_text(PRETENDED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flags_for(prepared: Path, *more: str) -> list[str]:
    return [f"--data={prepared}", "--output=study", f"--config={ROOT / embedding_sharing.CONFIG}", *more]


def outcome(argv: list[str], capsys) -> tuple[int, str, list[str]]:
    """(exit code, standard output, lines on standard error) of a study in this process."""
    code = errors.run(embedding_sharing.main, argv)
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def flags_of(run: str) -> dict[str, str]:
    """What train.py was told in a run."""
    return json.loads(Path("study", run, "flags.json").read_text())


def state_of(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every file but the picture: when it was written, and what."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".png"]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


REFUSED = {
    "no data": (["--output=x"], "required: --data"),
    "data that are not there": (["--data=nowhere", "--output=x"], "prepared directory nowhere does not exist"),
    "a misspelt mode": (["--modes=gdes,share"], "argument --modes must be one of gdes, shared, none; got 'share'"),
    "its nearest name": (["--modes=gdse"], "did you mean 'gdes'?"),
    "a mode twice": (["--modes=none,none"], "argument --modes: names one twice: 'none,none'"),
    "seeds that are words": (["--seeds=0,one"], "argument --seeds: expects whole numbers as in 0,1,2, got '0,one'"),
    "seeds below zero": (["--seeds=-1"], "argument --seeds: expects whole numbers"),
    "no seeds": (["--seeds="], "argument --seeds: expects whole numbers"),
    "a seed twice": (["--seeds=1,01"], "argument --seeds: names one twice"),
    "less than a step": (["--tokens=500"], "--tokens=500 does not make a step of batch_size 16 x 32 tokens"),
    "an empty batch": (["--config.batch_size=0"], "does not make a step of batch_size 0"),
    "an unknown key": (["--config.optimizer.learnin_rate=1"], "did you mean 'optimizer.learning_rate'?"),
    "a value that no run takes": (["--config.rtd.scheme=both"], "rtd.scheme must be one of decoupled, joint"),
    "steps": (["--config.steps=3"], "--config.steps is set by the study: say it with --tokens"),
    "a mode for all": (["--config.rtd.embedding_sharing=gdes"], "say it with --modes"),
    "a misspelt flag": (["--token=5"], "unknown flag --token, did you mean '--tokens'?"),
    "a file in the way": (["--output=train.py/x"], "--output=train.py/x cannot be made: Not a directory"),
}


@pytest.mark.parametrize(("argv", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_and_nothing_is_trained(argv, message, pretended, prepared, capsys):
    complete = argv if "--output=x" in argv else flags_for(prepared, *argv)
    code, out, (line,) = outcome(complete, capsys)
    assert code == 2 and line.startswith("refused: ") and message in line
    assert not list(pretended.glob("**/flags.json"))


@pytest.mark.parametrize(("tokens", "batch"), [(2048, 8), (10_000, 8), (10_000, 7)])
def test_every_run_gets_as_many_tokens_its_mode_and_seed_and_the_same_overrides(
    tokens, batch, pretended, prepared, capsys
):
    more = [f"--tokens={tokens}", f"--config.batch_size={batch}", "--config.model.num_layers=4", "--seeds=3,5"]
    assert outcome(flags_for(prepared, *more), capsys)[0] == 0
    length = read_manifest(prepared).length
    for mode in STARTS:
        for seed in (3, 5):
            told = flags_of(f"{mode}-{seed}")
            trained = int(told["config.steps"]) * batch * length
            assert tokens - batch * length < trained <= tokens
            assert (told["config.rtd.embedding_sharing"], told["config.seed"]) == (mode, str(seed))
            assert (told["config.model.num_layers"], told["config.batch_size"]) == ("4", str(batch))
            assert told["config.data.paths"] == str((str(prepared),))
            assert json.loads(Path("study", f"{mode}-{seed}.json").read_text())["tokens"] == trained


@pytest.mark.parametrize(
    ("more", "warmup"),
    [
        ([], "20"),  # the config's 100 are more than a tenth of 200
        (["--tokens=5.5e5"], None),  # 1074 steps
        (["--config.optimizer.warmup_steps=90"], "90"),
    ],
)
def test_a_short_study_warms_up_for_a_tenth_unless_it_is_told_otherwise(more, warmup, pretended, prepared, capsys):
    argv = flags_for(prepared, "--tokens=102_400", "--modes=none", "--seeds=0", *more)
    code, out, _ = outcome(argv, capsys)
    assert code == 0
    assert flags_of("none-0").get("config.optimizer.warmup_steps") == warmup
    said = "200 steps a run: a tenth of them, 20, to warm up instead of the config's 100"
    assert (said in out) == (not more)


def test_a_record_says_what_ran_where_for_how_long_and_how_well(pretended, prepared, capsys):
    outcome(flags_for(prepared, "--modes=shared", "--seeds=4"), capsys)
    record = json.loads(Path("study/shared-4.json").read_text())
    assert (record["mode"], record["seed"], record["device"]) == ("shared", 4, ["abacus"])
    assert record["versions"] == {"python": "3.11", "jax": "0.10", "commit": "f00"}
    assert 0 < record["seconds"] < PATIENCE
    assert record["held_out"]["generator/loss"] == pytest.approx(2.4)
    assert "only_before" not in record["held_out"]
    assert record["command"].startswith("python train.py --config=")
    assert record["command"].endswith("--workdir=study/shared-4")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("seeds", [(2,), (0, 2), (0, 1, 5)])
def test_the_table_holds_mean_and_spread_of_the_held_out_scores(seeds, pretended, prepared, capsys):
    _, out, _ = outcome(flags_for(prepared, f"--seeds={','.join(map(str, seeds))}"), capsys)
    head, _, *rows, last = [line for line in out.splitlines() if line.startswith(("|", "Held out"))]
    assert cells(head)[:3] == ["mode", "seeds", "generator loss"]
    assert ("standard deviation" in last) == (len(seeds) > 2)
    for (mode, start), row in zip(STARTS.items(), rows, strict=True):
        name, of_seeds, loss, accuracy, judged, f1, blind = cells(row)
        assert (name, of_seeds) == (mode, ", ".join(map(str, seeds)))
        values = start + np.array(seeds) / 10
        spread = np.std(values, ddof=1) if len(seeds) > 2 else (max(values) - min(values)) / 2
        shown = [(loss, 1, 0.001), (accuracy, 10, 0.1), (judged, 0.01, 1e-4), (f1, 0.25, 0.001)]
        for cell, scale, digit in shown:
            numbers = [float(text) for text in re.findall(r"[\d.]+", cell)]
            expected = [values.mean() * scale] + [spread * scale] * (len(seeds) > 1)
            np.testing.assert_allclose(numbers, expected, rtol=0, atol=digit)
        assert accuracy.endswith("%")
        assert blind.startswith("0.250")


def test_the_picture_has_every_runs_losses_over_its_tokens(pretended, prepared, capsys):
    argv = flags_for(prepared, "--tokens=102_400", "--seeds=0,3")
    outcome(argv, capsys)
    study = embedding_sharing.plan(argv)
    figure = embedding_sharing.draw(study, embedding_sharing.records_of(study))
    assert len(figure.axes) == 2
    drawn = {"generator/loss": (1, 1), "discriminator/loss": (10, 100)}  # of what is in STARTS, and at the end
    for axes, (key, (_, of_end)) in zip(figure.axes, drawn.items(), strict=True):
        *training, gdes, shared, none = axes.lines
        assert len({line.get_color() for line in training}) == 3
        assert len({(line.get_color(), line.get_linestyle()) for line in training}) == 6
        for line, trial in zip(training, study.trials, strict=True):
            logged = curves.read_metrics(trial.workdir / "metrics.jsonl")[key]
            np.testing.assert_allclose(line.get_ydata(), curves.smoothed(logged.values))
            np.testing.assert_allclose(line.get_xdata(), logged.steps * 512)
            assert line.get_color() == {"gdes": gdes, "shared": shared, "none": none}[trial.mode].get_color()
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        for (mode, start), markers, label in zip(STARTS.items(), (gdes, shared, none), labels[:3], strict=True):
            np.testing.assert_allclose(markers.get_xydata(), [(102_400, v / of_end) for v in (start, start + 0.3)])
            assert label == f"{mode}, held out {(start + 0.15) / of_end:.3f}"
        assert labels[3:] == ["training, seed 0", "training, seed 3"]
    assert Path("study/embedding_sharing.png").stat().st_size > 0


def test_a_failing_run_is_named_the_others_run_and_only_it_is_tried_again(pretended, prepared, capsys):
    argv = flags_for(prepared, "--modes=gdes,none")
    Path("fail-gdes-0").touch()
    code, out, (line,) = outcome(argv, capsys)
    assert code == 1
    assert line == "failed: 1 of 4 runs failed: gdes-0 (exit 4: diverged: step 3: non-finite loss)"
    assert sorted(path.name for path in Path("study").glob("*.json")) == ["gdes-1.json", "none-0.json", "none-1.json"]
    assert "| gdes | 1 |" in out and "| none | 0, 1 |" in out
    Path("fail-gdes-0").unlink()
    before = state_of(Path("study"))
    assert outcome(argv, capsys)[0] == 0
    after = state_of(Path("study"))
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed and all(Path(name).parts[1].startswith("gdes-0") for name in changed)


def test_runs_of_other_settings_are_not_mixed(pretended, prepared, capsys):
    argv = flags_for(prepared, "--modes=gdes", "--seeds=0", "--config.batch_size=8")
    assert outcome([*argv, "--tokens=1e5"], capsys)[0] == 0
    for more, said in {
        "--tokens=2e5": "steps was 390, is 781; ",
        "--config.log_every=3": "log_every was 10, is 3",
    }.items():
        code, _, (line,) = outcome([*argv, "--tokens=1e5", more], capsys)
        assert code == 2 and "study/gdes-0.json is of another study: " in line and said in line
    Path("study/gdes-0.json").write_text("{}")
    code, _, (line,) = outcome([*argv, "--tokens=1e5"], capsys)
    assert code == 2 and "gdes-0.json is not what a finished run leaves" in line


def start_study(*flags: str, cwd: Path, **environment: str) -> subprocess.Popen:
    """The study as a user starts it in a terminal: first of a process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.embedding_sharing", *flags],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.two_process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_terminal_reaches_the_run_once_and_ends_the_study(number, pretended, prepared):
    Path("sleep").touch()
    study = start_study(*flags_for(prepared), cwd=pretended)
    wait_for(Path("study/gdes-0/ready").exists, study)
    os.killpg(study.pid, number)
    done = finish(study)
    assert done.returncode == 75
    assert json.loads(Path("study/gdes-0/heard.json").read_text()) == [signal.SIGTERM]
    assert done.stderr == f"stopped: {number.name} in study/gdes-0: run the same command to go on\n"
    assert not list(Path("study").glob("*.json")) and not Path("study/shared-0").exists()


@pytest.mark.two_process
@pytest.mark.slow
def test_a_study_that_is_stopped_goes_on_and_a_finished_one_does_nothing(prepared, tmp_path):
    """With the real train.py; one mode, because each compiles a program of its own for ten seconds."""
    overrides = {key: value for key, value in TINY.items() if key != "steps"}
    overrides |= {"model.num_layers": 1, "rtd.generator.num_layers": 1, "rtd.generator.decoder": "none"}
    overrides |= {"model.pos_att_type": (), "rtd.generator.pos_att_type": (), "model.position_biased_input": True}
    overrides |= {"rtd.generator.position_biased_input": True, "eval.every": 0, "eval.samples": 0}
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    flags += [f"--data={prepared}", f"--output={tmp_path}", "--tokens=5120", "--modes=gdes", "--seeds=0"]
    cache = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    environment = {"XLA_FLAGS": FAST_TO_COMPILE} | cache
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    stopped = start_study(*flags, cwd=ROOT, **environment)
    wait_for((tmp_path / "gdes-0" / "environment.json").exists, stopped)  # it compiles its first step
    stopped.terminate()
    assert finish(stopped).returncode == 75, (tmp_path / "gdes-0.log").read_text()
    assert list((tmp_path / "gdes-0" / "checkpoints").glob("*/digest.json"))
    assert not list(tmp_path.glob("*.json"))

    done = finish(start_study(*flags, cwd=ROOT, **environment))
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'gdes-0'}: goes on\n" in done.stdout
    record = json.loads((tmp_path / "gdes-0.json").read_text())
    assert (record["seconds"], record["tokens"]) == (None, 5120)
    last = json.loads((tmp_path / "gdes-0" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"eval/" + key: value for key, value in record["held_out"].items()} | {"step": 20} == last
    config = json.loads((tmp_path / "gdes-0" / "config.json").read_text())
    assert (config["rtd"]["embedding_sharing"], config["steps"], config["seed"]) == ("gdes", 20, 0)

    before = state_of(tmp_path)
    again = finish(start_study(*flags, cwd=ROOT, **environment))
    assert again.returncode == 0, again.stderr
    assert state_of(tmp_path) == before
    assert [line for line in again.stdout.splitlines() if line.startswith("|")] == [
        line for line in done.stdout.splitlines() if line.startswith("|")
    ]
