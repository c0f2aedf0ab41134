import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from deberta_jax import errors, flags
from deberta_jax.errors import Refused
from limits import files_no_larger_than

ROOT = Path(__file__).parent.parent

CONFIG = """
from configs_of_test import sizes
from ml_collections import ConfigDict, config_dict

def get_config(size="tiny"):
    c = ConfigDict()
    c.steps = 1000
    c.every = c.get_ref("steps") // 50
    c.name = "run"
    c.shuffle = True
    c.rate = 0.15
    c.start = None
    c.teacher = config_dict.placeholder(str)
    c.layers = sizes.LAYERS[size]
    c.paths = ("one",)
    c.weights = ()
    c.mesh = (("data", -1),)
    c.optimizer = ConfigDict({"learning_rate": 1e-3, "schedule": "linear"})
    return c
"""


@pytest.fixture
def config_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    directory = tmp_path / "configs_of_test"
    directory.mkdir()
    (directory / "sizes.py").write_text('LAYERS = {"tiny": 2, "base": 12}\n')
    (directory / "small.py").write_text(CONFIG)
    yield directory / "small.py"
    sys.modules.pop("configs_of_test", None)
    sys.modules.pop("configs_of_test.sizes", None)


@pytest.fixture
def load(config_file):
    return lambda *words: flags.load_config([f"--config={config_file}", *words])


def test_a_config_is_what_its_file_says_where_nothing_is_overridden(load):
    loaded = load()
    assert loaded.config == loaded.preset
    assert loaded.overrides == {} and loaded.rest == []
    assert loaded.config.steps == 1000 and loaded.config.every == 20 and loaded.config.layers == 2


def test_the_argument_after_the_file_reaches_get_config(config_file):
    assert flags.load_config([f"--config={config_file}:base"]).config.layers == 12


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "7", 7),
        ("steps", "1e5", 100_000),
        ("steps", "-1", -1),
        ("rate", "1", 1.0),
        ("rate", "1e-3", 0.001),
        ("rate", "inf", float("inf")),
        ("shuffle", "false", False),
        ("shuffle", "True", True),
        ("name", "007", "007"),
        ("name", "('a',)", "('a',)"),
        ("name", "", ""),
        ("name", "a=b", "a=b"),
        ("start", "3", 3),
        ("start", "runs/one", "runs/one"),
        ("teacher", "12", "12"),
        ("paths", "('a','b')", ("a", "b")),
        ("paths", "a, b", ("a", "b")),
        ("paths", "1,2", ("1", "2")),
        ("paths", "()", ()),
        ("weights", "0.3,0.7", (0.3, 0.7)),
        ("weights", "[1, 2]", (1, 2)),
        ("mesh", "[['data', 4], ['tensor', 2]]", (("data", 4), ("tensor", 2))),
        ("optimizer.learning_rate", "2e-4", 2e-4),
    ],
)
@pytest.mark.parametrize("glue", [True, False], ids=["equals", "space"])
def test_an_override_has_the_type_of_the_key(load, key, text, value, glue):
    words = [f"--config.{key}={text}"] if glue else [f"--config.{key}", text]
    loaded = load(*words)
    *groups, name = key.split(".")
    group = loaded.config
    for part in groups:
        group = group[part]
    assert group[name] == value and type(group[name]) is type(value)
    assert loaded.overrides == {key: value}


def test_the_last_of_two_overrides_wins(load):
    assert load("--config.steps=1", "--config.steps=2").config.steps == 2


def test_a_referring_field_follows_the_override_of_its_source(load):
    loaded = load("--config.steps=500")
    assert loaded.config.every == 10
    assert loaded.preset.every == 20


def test_a_referring_field_can_be_overridden_itself(load):
    config = load("--config.every=3", "--config.steps=500").config
    assert config.every == 3 and config.steps == 500


def test_the_config_is_locked(load):
    with pytest.raises(AttributeError, match="locked"):
        load().config.optimizer.learnin_rate = 1.0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "--config.optimizer.learnin_rate=1",
            "no key 'optimizer.learnin_rate', did you mean 'optimizer.learning_rate'",
        ),
        ("--config.learning_rate=1", "did you mean 'optimizer.learning_rate'"),
        ("--config.steps.more=1", "no key 'steps.more'"),
        ("--config.=1", "no key ''"),
        ("--config.optimizer=adam", "optimizer is a group of keys: set one of optimizer.learning_rate"),
        ("--config.steps=1.5", "config.steps expects int, got '1.5'"),
        ("--config.steps=inf", "config.steps expects int, got 'inf'"),
        ("--config.steps=True", "config.steps expects int, got 'True'"),
        ("--config.steps=", "config.steps expects int, got ''"),
        ("--config.rate=half", "config.rate expects float, got 'half'"),
        ("--config.shuffle=1", "config.shuffle expects bool, got '1'"),
        ("--config.mesh=(('data',", "config.mesh expects a tuple"),
        ("--config.shuffle", "--config.shuffle needs a value"),
        ("config.steps=3", "needs two dashes, did you mean '--config.steps=3'"),
        ("-config.steps=3", "needs two dashes, did you mean '--config.steps=3'"),
    ],
)
def test_a_wrong_override_is_refused_by_name(load, word, message):
    with pytest.raises(Refused) as refusal:
        load(word)
    assert message in str(refusal.value)


def test_an_override_does_not_swallow_the_next_flag(load):
    with pytest.raises(Refused, match=r"--config\.shuffle needs a value"):
        load("--config.shuffle", "--workdir=w")


def test_what_is_no_config_flag_is_handed_back_in_order(load):
    assert load("--workdir", "w", "--config.steps=3", "--print_config").rest == ["--workdir", "w", "--print_config"]


def test_a_program_that_knows_where_its_config_is_reads_it_with_the_overrides(config_file):
    taken = flags.split_config_flags(["--workdir=w", "--config.steps=3"])
    assert taken == (None, [("steps", "3")], ["--workdir=w"])
    loaded = flags.read_config(str(config_file), taken.assignments)
    assert loaded.config.steps == 3 and loaded.rest == []


def test_a_missing_config_file_is_refused_with_the_nearest_one(config_file):
    with pytest.raises(Refused, match=r"samll\.py does not exist, did you mean 'small\.py'\?"):
        flags.load_config([f"--config={config_file.parent / 'samll.py'}:base"])
    with pytest.raises(Refused, match=r"nowhere/x\.py does not exist$"):
        flags.load_config(["--config=nowhere/x.py"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config=PATH.py is missing"),
        (["--confg=configs/quickstart.py"], "--config=PATH.py is missing, did you mean '--config'?"),
        (["--config"], "--config needs a value"),
        (["--config=quickstart"], "expects a .py file or a run's config.json"),
    ],
)
def test_a_command_line_without_a_config_is_refused(argv, message):
    with pytest.raises(Refused) as refusal:
        flags.load_config(argv)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "argument", "message"),
    [
        ("x = 1", "", "defines no get_config"),
        ("def get_config(:", "", "cannot be loaded: .* line 1"),
        ("import no_such_module", "", "cannot be loaded: No module named 'no_such_module'"),
        ("def get_config(): return None", ":base", "takes no :ARG"),
        ("def get_config(size): return None", "", "needs an argument"),
        ("def get_config(size): return {'a': 1}[size]", ":b", "KeyError 'b'"),
    ],
)
def test_a_config_file_that_gives_no_config_is_refused(tmp_path, monkeypatch, content, argument, message):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "bad.py").write_text(content)
    with pytest.raises(Refused, match=message):
        flags.load_config([f"--config={tmp_path}/bad.py{argument}"])


def test_the_config_a_run_left_is_read_back_equal_and_overridable(load, tmp_path):
    config = load("--config.mesh=[['data', 4], ['tensor', 2]]", "--config.rate=inf").config
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(config.to_dict()))
    assert flags.load_config([f"--config={saved}"]).config == config
    assert flags.load_config([f"--config={saved}", "--config.optimizer.learning_rate=3"]).overrides == {
        "optimizer.learning_rate": 3.0
    }


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_saved_config_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(Refused, match=r"config\.json"):
        flags.load_config([f"--config={tmp_path}/config.json"])


def test_a_description_is_sorted_and_marks_what_differs_from_the_preset():
    config = ConfigDict({"steps": 5, "optimizer": {"schedule": "cosine", "b1": 0.9}, "paths": ("a",)})
    preset = ConfigDict({"steps": 5, "optimizer": {"schedule": "linear", "b1": 0.9}, "paths": ()})
    assert flags.describe(config, preset).splitlines() == [
        "optimizer.b1 = 0.9",
        "optimizer.schedule = 'cosine'  # preset: 'linear'",
        "paths = ('a',)  # preset: ()",
        "steps = 5",
    ]


@pytest.fixture
def parser() -> flags.Arguments:
    parser = flags.Arguments(prog="prepare")
    parser.add_argument("--input", required=True)
    parser.add_argument("--length", type=flags.whole_number, default=128)
    parser.add_argument("--unit", choices=["token", "word"], default="token")
    return parser


def test_arguments_parse_what_they_know(parser):
    values = parser.parse_args(["--input=a", "--length", "1e3", "--unit=word"])
    assert values == argparse.Namespace(input="a", length=1000, unit="word")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--inptu=a"], "unknown flag --inptu, did you mean '--input'?"),
        (["--input=a", "--len=3"], "unknown flag --len"),
        (["--input=a", "stray"], "unrecognized arguments: stray"),
        ([], "required: --input"),
        (["--input=a", "--length=1.5"], "argument --length: expects a whole number, got '1.5'"),
        (["--input=a", "--length=many"], "argument --length: expects a whole number, got 'many'"),
        (["--input=a", "--unit=wrd"], "argument --unit: invalid choice: 'wrd'"),
    ],
)
def test_arguments_refuse_what_they_do_not_know(parser, argv, message):
    with pytest.raises(Refused) as refusal:
        parser.parse_args(argv)
    assert message in str(refusal.value)


def test_a_refusal_is_one_line_and_exit_code_two(parser, capsys):
    assert errors.run(lambda argv: parser.parse_args(argv), ["--inptu=a"]) == 2
    assert capsys.readouterr().err == "refused: unknown flag --inptu, did you mean '--input'?\n"


def test_a_full_disk_is_one_line_and_exit_code_one_but_another_error_of_the_system_is_a_bug(tmp_path, capsys):
    def write(argv):
        with files_no_larger_than(1 << 18):
            (tmp_path / "plan.json").write_bytes(bytes(1 << 20))

    assert errors.run(write, []) == 1
    assert capsys.readouterr().err == "failed: File too large: a file that was being written\n"
    with pytest.raises(FileNotFoundError):
        errors.run(lambda argv: Path("nowhere").read_text(), [])


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_enough_ends_a_command_in_one_line(lines):
    """As in `... | head -1`: what is printed is more than a pipe holds, or is still in Python's own buffer."""
    printing = f"lambda _: print(*range({lines}), sep=chr(10))"
    code = f"import sys; from deberta_jax import errors; sys.stdin.read(); sys.exit(errors.run({printing}, []))"
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        process.stdout.close()
        process.stdin.close()  # only now does it write
        said = process.stderr.read()
    assert (process.returncode, said) == (1, "failed: Broken pipe: whoever reads the output has closed it\n")


def test_ctrl_c_ends_a_command_in_one_line(capsys):
    def interrupted(argv):
        signal.raise_signal(signal.SIGINT)

    assert errors.run(interrupted, []) == 130
    assert capsys.readouterr().err == "failed: interrupted; what was not saved is lost\n"


def test_reading_a_config_imports_no_jax(config_file):
    code = "import sys; from deberta_jax import flags; flags.load_config(sys.argv[1:]); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, f"--config={config_file}"], cwd=ROOT, check=True)


def test_a_misspelt_key_ends_training_in_one_line_before_jax_is_imported():
    command = [sys.executable, "train.py", "--config=configs/quickstart.py", "--config.optimizer.learnin_rate=1"]
    begin = time.monotonic()
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert time.monotonic() - begin < 2
    assert ended.returncode == 2 and ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1 and "optimizer.learning_rate" in ended.stderr
