import importlib
from pathlib import Path

import pytest

from benchmarks import suite
from deberta_jax.errors import Failed, Refused


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_command_is_one_that_its_benchmark_takes(platform, monkeypatch):
    """Its flags are parsed by the benchmark itself, which then finds that there is nothing to do."""

    class Enough(Exception):
        pass

    def stop(parser, argv=None, **_):
        known = parse(parser, argv)
        assert known.json.name.endswith(".json")
        raise Enough

    found = suite.commands(Path("out"), (), platform)
    parse = suite.Arguments.parse_args
    monkeypatch.setattr(suite.Arguments, "parse_args", stop)
    for name, (_, _, module, *flags) in found.items():
        with pytest.raises(Enough):
            importlib.import_module(module).main(flags)
        assert flags[-1] == f"--json=out/{name}.json"


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(Refused, match="no 'train_step' on this cpu, did you mean 'train_step_cpu'"):
        suite.commands(Path("out"), ("train_step",), "cpu")


def test_what_fails_is_named_after_the_others_have_run(monkeypatch, capfd, tmp_path):
    broken = {"first": ("no_such_benchmark",), "second": ("compile", "--help")}
    monkeypatch.setattr(suite, "ON_CPU", broken)
    with pytest.raises(Failed, match="^first: see above"):
        suite.main([f"--output={tmp_path}"])
    out, err = capfd.readouterr()
    assert "usage: python -m benchmarks.compile" in out and "no_such_benchmark" in err
