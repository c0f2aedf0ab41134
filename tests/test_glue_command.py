"""tools.glue and tools.superglue: with a stand-in for train.py that takes its scores from a file, and for real."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from deberta_jax import config as configs
from deberta_jax import errors
from deberta_jax.flags import load_config
from deberta_jax.reports.bars import plot_bars
from deberta_jax.reports.confusion import plot_confusion
from deberta_jax.tools import glue, superglue
from runs import ROOT, finish, save_run

STAND_IN = """
import json, sys
from pathlib import Path

flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
workdir = Path(flags["workdir"])
name = "/".join(workdir.parts[-2:])
with open("ran.jsonl", "a") as ran:
    ran.write(json.dumps([name, flags]) + "\\n")
found = json.loads(Path("scores.json").read_text())
if name not in found:
    sys.exit(f"refused: {name} is not learnt")
score, splits, predictions = found[name]
place = workdir / "validation"
place.mkdir()
said = {"task": "any", "step": 7, "score": score, "scores": splits}
(place / "scores.json").write_text(json.dumps(said))
for number, split in enumerate(splits):
    lines = (json.dumps(dict(zip(("gold", "prediction"), pair))) + "\\n" for pair in predictions[number:])
    (place / f"predictions-{split}.jsonl").write_text("".join(lines))
environment = {"devices": ["cpu"], "processes": 1, "python": "3.11.7", "packages": {"jax": "1"}, "git": "abc"}
(workdir / "environment.json").write_text(json.dumps(environment))
config = {
    "epochs": 6.0,
    "batch_size": 32,
    "optimizer": {"learning_rate": 2e-5, "warmup_steps": 50},
    "head": {"classifier_dropout": 0.15},
    "data": {"max_length": 128},
    "seed": int(flags["config.seed"]),
}
(workdir / "config.json").write_text(json.dumps(config))
"""
RANDOM = ("--init=", "--config.data.tokenizer=tokens", "--data=data", "--workdir=suite", "--size=tiny")
RIGHT = [["1", "1"], ["0", "1"], ["0", "0"]]
WRONG = [["1", "none of the labels"]]


def one(score: float, predictions=RIGHT, /, **metrics: float) -> list:
    """The stand-in's entry of a run with one split."""
    return [score, {"validation": {"examples": 3.0, "loss": 1.0} | metrics}, predictions]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A folder with the stand-in, our configs and the tasks' folders, which is the current one."""
    (tmp_path / "train.py").write_text(STAND_IN)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for folder in ("MRPC", "CoLA", "MNLI", "RTE", "STS-B"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(root: Path, flags: Sequence[str], scores: dict[str, list], main: Callable = glue.main) -> int:
    """The exit code of a suite whose runs have these scores; a run without one fails."""
    (root / "scores.json").write_text(json.dumps(scores))
    return errors.run(main, [*RANDOM, *flags])


def ran(root: Path) -> list[tuple[str, dict[str, str]]]:
    """(name, flags) of the runs so far, in order."""
    note = root / "ran.jsonl"
    return [tuple(json.loads(line)) for line in note.read_text().splitlines()] if note.is_file() else []


def names(root: Path) -> list[str]:
    return [name for name, _ in ran(root)]


SCORES = {
    "mrpc/seed-0": one(0.75, WRONG, accuracy=0.8, f1=0.7),
    "mrpc/seed-1": one(0.925, accuracy=0.9, f1=0.95),
    "mrpc/seed-2": one(0.875, WRONG, accuracy=0.85, f1=0.9),
    "cola/seed-0": one(0.5, WRONG, matthews=0.5),
    "cola/seed-2": one(0.6, matthews=0.6),
}
BOTH = ("--tasks=mrpc,cola", "--seeds=3", "--config.epochs=2")
REPORT = """\
# GLUE: tiny from random weights

| task | metric | runs | median | standard deviation | best | failed runs |
|---|---|---|---|---|---|---|
| cola | matthews | 2 | 55.0 | 7.1 | 60.0 (seed 2) | 1 (seed 1) |
| mrpc | accuracy / f1 | 3 | 85.0 / 90.0 | 5.0 / 13.2 | 90.0 / 95.0 (seed 1) | 0 |

Points of 100 on the validation sets; the best of the runs is that with the highest mean of its numbers.

Failed runs:

- cola/seed-1: refused: cola/seed-1 is not learnt

## Settings

| task | epochs | learning rate | batch | warm-up steps | dropout | length |
|---|---|---|---|---|---|---|
| cola | 6 | 2e-05 | 32 | 50 | 0.15 | 128 |
| mrpc | 6 | 2e-05 | 32 | 50 | 0.15 | 128 |

- Initialisation: random weights, tokenizer tokens
- Ran on 1 × cpu; Python 3.11.7, jax 1; commit abc
- Command: `python -m deberta_jax.tools.glue --init= --config.data.tokenizer=tokens --data=data --workdir=suite \
--size=tiny --tasks=mrpc,cola --seeds=3 --config.epochs=2`
"""


def test_the_report_says_what_the_runs_scored_and_what_failed(root, capsys):
    assert run(root, BOTH, SCORES) == 1
    out, err = capsys.readouterr()
    assert out == (root / "suite" / "results.md").read_text() == REPORT
    assert err.splitlines()[-1] == "failed: 1 of 6 runs failed: cola/seed-1"
    assert names(root) == [f"{task}/seed-{seed}" for seed in range(3) for task in ("cola", "mrpc")]
    values = json.loads((root / "suite" / "results.json").read_text())
    cola = values["tasks"]["cola"]
    assert (cola["median"], cola["failed_seeds"], cola["config"]["seed"]) == ([0.55], [1], 2)
    assert cola["best"] == {"seed": 2, "score": 0.6, "values": [0.6]}
    assert cola["standard_deviation"] == pytest.approx([0.005**0.5])
    runs = {entry["name"]: entry for entry in values["runs"]}
    assert runs["cola/seed-1"] == {"name": "cola/seed-1", "error": "refused: cola/seed-1 is not learnt"}
    assert runs["mrpc/seed-0"]["scores"] == {"validation": {"examples": 3, "loss": 1, "accuracy": 0.8, "f1": 0.7}}
    assert values["average"] is None


def test_a_run_is_train_py_with_the_tasks_config_folder_and_seed(root):
    run(root, ("--tasks=cola", "--seeds=2", "--option=sift", "--option=fsdp", "--config.epochs=2"), MNLI)
    name, flags = ran(root)[1]
    assert name == "cola/seed-1"
    assert flags == {
        "config": "configs/finetune.py:cola,tiny,sift,fsdp",
        "config.data.dir": "data/CoLA",
        "config.seed": "1",
        "config.data.tokenizer": "tokens",
        "config.epochs": "2",
        "workdir": "suite/cola/seed-1",
    }


def test_the_same_command_tries_only_what_failed(root, capsys):
    run(root, BOTH, SCORES)
    before = names(root)
    assert run(root, BOTH, SCORES | {"cola/seed-1": one(0.1, WRONG, matthews=0.1)}) == 0
    assert names(root) == [*before, "cola/seed-1"]
    assert "| cola | matthews | 3 | 50.0 | 26.5 | 60.0 (seed 2) | 0 |" in capsys.readouterr().out
    assert run(root, BOTH, {}) == 0
    assert names(root) == [*before, "cola/seed-1"]
    assert run(root, (*BOTH[:2], "--config.epochs=3"), {}) == 2
    assert "run with other flags (--config.epochs=2, --config.epochs=3)" in capsys.readouterr().err


def test_the_pictures_show_the_runs_scores_and_the_best_runs_labels(root):
    """The other runs' predictions hold labels that cannot be drawn."""
    run(root, BOTH, SCORES)
    bars = {"tiny": {"cola": [0.5, 0.6], "mrpc": [0.75, 0.925, 0.875]}}
    plot_bars(bars, root / "bars.png", title="GLUE: tiny from random weights")
    assert (root / "suite" / "scores.png").read_bytes() == (root / "bars.png").read_bytes()
    for task, seed in (("cola", 2), ("mrpc", 1)):
        title = f"{task}: the best run, seed {seed}"
        plot_confusion(["1", "0", "0"], ["1", "1", "0"], ["0", "1"], root / "confusion.png", title)
        assert (root / "suite" / f"confusion-{task}.png").read_bytes() == (root / "confusion.png").read_bytes()


def test_only_classification_has_a_confusion_matrix_and_nothing_is_drawn_of_failed_runs(root):
    assert run(root, ("--tasks=sts-b,cola", "--seeds=1"), {"sts-b/seed-0": one(0.5, pearson=0.4, spearman=0.6)}) == 1
    assert sorted(path.name for path in (root / "suite").glob("*.png")) == ["scores.png"]
    assert run(root, ("--tasks=cola", "--seeds=1", "--workdir=other"), {}) == 1
    assert list((root / "other").glob("*.png")) == []
    assert "| cola | – | – | – | – | – | – |" in (root / "other" / "results.md").read_text()


def of_mnli(score: float, matched: float, mismatched: float, predictions=WRONG) -> list:
    splits = {"validation_matched": {"accuracy": matched}, "validation_mismatched": {"accuracy": mismatched}}
    return [score, splits, predictions]


MNLI = {
    "mnli/seed-0": of_mnli(0.7, 0.8, 0.6),
    "mnli/seed-1": of_mnli(0.75, 0.7, 0.8, [["neutral", "neutral"], ["entailment", "neutral"]]),
    "mrpc/seed-0": SCORES["mrpc/seed-1"],
    "mrpc/seed-1": SCORES["mrpc/seed-1"],
    "cola/seed-0": SCORES["cola/seed-2"],
    "cola/seed-1": SCORES["cola/seed-2"],
}
FROM_MNLI = ("--tasks=mrpc,mnli,cola", "--seeds=2", "--mnli_first")


def test_mnli_is_shown_and_drawn_with_both_its_splits(root, capsys):
    run(root, ("--tasks=mnli", "--seeds=2"), MNLI)
    row = "| mnli | accuracy matched / accuracy mismatched | 2 | 75.0 / 70.0 | 7.1 / 14.1 | 70.0 / 80.0 (seed 1) | 0 |"
    assert row in capsys.readouterr().out
    labels, place = ("contradiction", "neutral", "entailment"), root / "confusion.png"
    gold, said = ("neutral", "entailment", "entailment"), ("neutral",) * 3  # of the second split all but the first
    plot_confusion(gold, said, labels, place, "mnli: the best run, seed 1")
    assert (root / "suite" / "confusion-mnli.png").read_bytes() == place.read_bytes()


def test_mnli_first_gives_its_best_run_to_the_tasks_that_published_runs_give_it_to(root, capsys):
    assert run(root, FROM_MNLI, MNLI) == 0
    started = {name: flags.get("config.init_from") for name, flags in ran(root)}
    early = [f"{task}/seed-{seed}" for seed in range(2) for task in ("cola", "mnli")]
    assert started == dict.fromkeys(early) | dict.fromkeys(("mrpc/seed-0", "mrpc/seed-1"), "suite/mnli/seed-1")
    assert list(started) == [*early, "mrpc/seed-0", "mrpc/seed-1"]
    assert "tokenizer tokens; mrpc from mnli/seed-1" in capsys.readouterr().out


def test_all_runs_of_a_task_start_alike_even_if_a_better_mnli_run_is_added(root):
    run(root, FROM_MNLI, MNLI)
    more = {
        "mnli/seed-2": of_mnli(0.9, 0.9, 0.9),
        "mrpc/seed-2": MNLI["mrpc/seed-1"],
        "cola/seed-2": MNLI["cola/seed-1"],
    }
    more["mnli/seed-2"][2] = MNLI["mnli/seed-1"][2]
    assert run(root, (FROM_MNLI[0], "--seeds=3", "--mnli_first"), more) == 0
    assert ran(root)[-1][0] == "mrpc/seed-2"
    assert ran(root)[-1][1]["config.init_from"] == "suite/mnli/seed-1"


def test_without_an_mnli_run_the_tasks_that_need_it_fail(root, capsys):
    assert run(root, FROM_MNLI, {name: MNLI[name] for name in ("cola/seed-0", "cola/seed-1", "mrpc/seed-0")}) == 1
    out, err = capsys.readouterr()
    assert "mrpc/seed-0" not in names(root)
    failed = ["mnli/seed-0", "mnli/seed-1", "mrpc/seed-0", "mrpc/seed-1"]
    assert err.splitlines()[-1] == f"failed: 4 of 6 runs failed: {', '.join(failed)}"
    assert "- mrpc/seed-1: there is no mnli run to start from" in out
    assert "mrpc from nothing: no MNLI run ended well" in out
    assert run(root, FROM_MNLI, MNLI) == 0
    assert names(root)[-2:] == ["mrpc/seed-0", "mrpc/seed-1"]


EIGHT = {
    "boolq": 0.8,
    "cb": 0.9,
    "copa": 0.6,
    "multirc": 0.7,
    "record": 0.5,
    "superglue-rte": 0.55,
    "wic": 0.65,
    "wsc": 0.9,
}
BY = {"cb": "macro_f1", "multirc": "f1a", "record": "f1"}


def test_superglue_has_its_own_tasks_and_an_average_of_all_of_them(root, capsys):
    for folder in ("BoolQ", "CB", "COPA", "MultiRC", "ReCoRD", "RTE", "WiC", "WSC"):
        (root / "data" / folder).mkdir(exist_ok=True)
    predictions = {
        "cb": [["neutral", "neutral"]],
        "superglue-rte": [["entailment", "not_entailment"]],
        "copa": [[0, 1]],
    }
    boolean = [["true", "false"]]
    scores = {
        f"{task}/seed-0": one(score, predictions.get(task, boolean), **{BY.get(task, "accuracy"): score})
        for task, score in EIGHT.items()
    }
    assert run(root, ("--seeds=1",), scores, superglue.main) == 0
    out = capsys.readouterr().out
    assert out.startswith("# SuperGLUE: tiny from random weights")
    assert "| cb | macro_f1 | 1 | 90.0 | – | 90.0 (seed 0) | 0 |" in out
    assert "Average of the medians of the 8 tasks, several of a task as their mean: 70.0" in out
    assert "`python -m deberta_jax.tools.superglue " in out
    assert len(list((root / "suite").glob("confusion-*.png"))) == 7  # COPA's options are no labels
    assert dict(ran(root))["superglue-rte/seed-0"]["config.data.dir"] == "data/RTE"
    assert run(root, ("--seeds=1", "--tasks=cb,copa"), scores, superglue.main) == 0
    assert "Average" not in capsys.readouterr().out


REFUSED = {
    "unknown task": (
        ["--tasks=mrpc,colla"],
        "GLUE has no task 'colla', did you mean 'cola'?; it has cola, sst-2, mrpc",
    ),
    "other benchmark's": (["--tasks=copa"], "GLUE has no task 'copa'"),
    "no folder": (["--tasks=sst-2"], "there is no folder data/SST-2 for task 'sst-2', did you mean 'STS-B'?"),
    "no data": (["--tasks=mrpc", "--data=nowhere"], "there is no folder nowhere/MRPC for task 'mrpc'"),
    "no tokenizer": (["--tasks=mrpc", "--config.data.tokenizer="], "nothing names a tokenizer: give --config.data.tok"),
    "no checkpoint": (["--tasks=mrpc", "--init=data"], "--init: data holds no complete checkpoint"),
    "no workdir": (["--tasks=mrpc", "--init=dada"], "--init: there is no workdir dada, did you mean 'data'?"),
    "no seeds": (["--seeds=0"], "--seeds must be at least 1, got 0"),
    "config file": (["--config=configs/finetune.py:mrpc"], "--config names no file here"),
    "own seed": (["--config.seed=3"], "--config.seed differs between the runs: give --seeds"),
    "own folder": (["--config.data.dir=x"], "give --data"),
    "unknown key": (["--tasks=mrpc", "--config.epoch=3"], "config has no key 'epoch', did you mean 'epochs'?"),
    "bad value": (["--tasks=mrpc", "--config.epochs=0"], "epochs must be positive"),
    "unknown option": (["--tasks=mrpc", "--option=shift"], "no option shift"),
    "unknown size": (["--tasks=mrpc", "--size=v9"], "v9"),
    "mnli first": (["--tasks=mrpc,rte", "--mnli_first"], "--mnli_first needs mnli among --tasks, which are mrpc, rte"),
    "misspelt flag": (["--task=mrpc"], "unknown flag --task, did you mean '--tasks'?"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_and_code_2_before_anything_runs(flags, message, root, capsys):
    assert run(root, flags, SCORES) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("refused: ") and message in line
    assert out == "" and ran(root) == [] and not (root / "suite").exists()


def test_superglue_starts_nothing_from_mnli(root, capsys):
    assert run(root, ("--mnli_first",), {}, superglue.main) == 2
    assert "unknown flag --mnli_first" in capsys.readouterr().err


@pytest.fixture
def converted(root) -> Path:
    """A workdir as tools.convert leaves it, its parameters left out."""
    config = configs.build(load_config([f"--config={ROOT / 'configs' / 'base.py'}:tiny"]).config)
    meta = {"config": configs.to_dict(config), "tokenizer": "", "manifests": [], "top_id": None, "head": "rtd"}
    (root / "converted" / "tokenizer").mkdir(parents=True)
    return save_run(root / "converted", config, {"bias": np.zeros(2)}, meta, step=12)


def test_the_start_is_described_and_must_be_of_that_size(root, converted, capsys):
    from_it = (*RANDOM[2:], "--init=converted", "--tasks=cola", "--seeds=1")
    (root / "scores.json").write_text(json.dumps(MNLI))
    assert errors.run(glue.main, [*from_it, "--size=mini"]) == 2
    refused = "--init: checkpoint converted/checkpoints/12 has model.hidden_size 128, the config says 256"
    assert refused in capsys.readouterr().err
    assert ran(root) == []
    assert errors.run(glue.main, [*from_it]) == 0
    assert ran(root)[0][1]["config.init_from"] == "converted"
    out = capsys.readouterr().out
    assert out.startswith("# GLUE: tiny from converted\n")
    assert "\n- Initialisation: converted, step 12, head rtd, objective mlm\n" in out
    (converted / "tokenizer").rmdir()
    assert errors.run(glue.main, [*from_it, "--workdir=other"]) == 2
    assert "--init: converted has no tokenizer: give --config.data.tokenizer=DIR" in capsys.readouterr().err


TINIER = {
    "epochs": 2,
    "batch_size": 8,
    "model.num_layers": 1,
    "model.hidden_size": 32,
    "model.intermediate_size": 64,
    "model.position_buckets": 8,
    "model.max_relative_positions": 16,
    "data.max_length": 32,
    "data.buckets": (32,),
    "eval.batch_size": 8,
    "optimizer.warmup_steps": 1,
}


def write_files(data: Path, documents: Sequence[str], label: str) -> None:
    """Twenty rows of MRPC and of CoLA to train and to validate on; the last label of CoLA's validation is `label`."""
    lines = [document[:40] for document in documents]
    for number, name in enumerate(("train.tsv", "dev.tsv")):
        rows = lines[20 * number : 20 * number + 20]
        pairs = "".join(f"{row % 2}\t1\t2\t{text}\t{rows[row - 1]}\n" for row, text in enumerate(rows))
        labels = [*("01" * 10)[:19], label if name == "dev.tsv" else "1"]
        texts = "".join(f"x\t{label}\t*\t{text}\n" for label, text in zip(labels, rows, strict=True))
        (data / "MRPC").mkdir(parents=True, exist_ok=True)
        (data / "CoLA").mkdir(parents=True, exist_ok=True)
        (data / "MRPC" / name).write_text(f"Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n{pairs}")
        (data / "CoLA" / name).write_text(texts)


@pytest.mark.two_process
@pytest.mark.slow
def test_a_real_suite_goes_on_where_a_run_failed(documents, spm_dir, launch, tmp_path):
    workdir, data = tmp_path / "suite", tmp_path / "data"
    settings = [f"--config.{key}={value}" for key, value in (TINIER | {"data.tokenizer": spm_dir}).items()]
    flags = ["--init=", f"--data={data}", "--size=tiny", "--tasks=mrpc,cola", "--seeds=1", f"--workdir={workdir}"]

    def suite():
        return finish(launch("-m", "deberta_jax.tools.glue", *flags, *settings))

    write_files(data, documents, label="2")
    first = suite()
    assert first.returncode == 1, first.stderr
    assert first.stderr.splitlines()[-1] == "failed: 1 of 2 runs failed: cola/seed-0"
    assert f"cola/seed-0: refused: {data / 'CoLA' / 'dev.tsv'}, line 20: label '2' is none of 0, 1" in first.stdout
    assert sorted(path.name for path in workdir.glob("*.png")) == ["confusion-mrpc.png", "scores.png"]
    mrpc = json.loads((workdir / "mrpc" / "seed-0" / "validation" / "scores.json").read_text())["scores"]["validation"]
    both = f"{100 * mrpc['accuracy']:.1f} / {100 * mrpc['f1']:.1f}"
    assert f"| mrpc | accuracy / f1 | 1 | {both} | – | {both} (seed 0) | 0 |" in first.stdout
    assert "| mrpc | 2 | 0.001 | 8 | 1 | 0.1 | 32 |" in first.stdout

    written = os.stat(workdir / "mrpc" / "seed-0" / "log.txt").st_mtime_ns
    write_files(data, documents, label="1")
    second = suite()
    assert second.returncode == 0, second.stderr
    assert second.stdout == (workdir / "results.md").read_text()
    assert "| cola | matthews | 1 |" in second.stdout
    assert second.stderr.splitlines() == ["[1/2] cola/seed-0"]
    assert (workdir / "confusion-cola.png").read_bytes().startswith(b"\x89PNG")
    assert os.stat(workdir / "mrpc" / "seed-0" / "log.txt").st_mtime_ns == written
