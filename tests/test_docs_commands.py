"""What the pages say to do works, as it is written, in the order of the pages.

Blocks that say what they need (tests/pages.py) are left out; train.py's runs are made short (tests/short_train.py).
"""

import pytest

import train
from deberta_jax import config as configs
from newcomer import Newcomer, to_do
from pages import ROOT, pages
from short_train import MODEL, shortened

PAGES = [page for page in pages() if to_do(page.read_text())]
PAGE = """
```bash
make one   # and why
# nothing

make two \\
    --more='a b'
```
```python
x = 1
```
```bash needs=tpu
make three
```
```text
output
```
```bash
make four
```
```python needs=gpu
x = 2
```
```python
x = 3
```
"""


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory, spm_dir) -> Newcomer:
    return Newcomer(tmp_path_factory.mktemp("newcomer"), tmp_path_factory.mktemp("compiled"), spm_dir)


@pytest.mark.slow
@pytest.mark.two_process
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_the_page_says_to_do_works(page, newcomer):
    assert "\n".join(newcomer.read_until(page)) == ""


def test_what_needs_nothing_is_to_do_and_python_comes_last():
    assert [command[-1] for command in to_do(PAGE)] == [
        "make one",
        "make two --more='a b'",
        "make four",
        "x = 1\n\nx = 3\n",
    ]


def test_what_does_not_work_is_told_and_what_was_done_is_not_done_again(newcomer, tmp_path, monkeypatch):
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    first.write_text("```bash\necho once >> note\nls nowhere | cat\n```\n")
    second.write_text(
        "```bash\necho once >> note\n```\n```python\nassert open('note').read() == 'once\\n'\n1 / 0\n```\n"
    )
    monkeypatch.setattr("newcomer.pages", lambda: [first, second])
    (failure,) = newcomer.read_until(second)
    assert "1 / 0" in failure and "ended with 1" in failure and "ZeroDivisionError" in failure
    (failure,) = newcomer.read_until(first)
    assert failure.startswith("ls nowhere | cat\nended with 2:")


@pytest.mark.parametrize(
    "source",
    [
        ("--config=configs/laptop.py",),
        ("--config=configs/laptop_rtd.py",),
        ("--config=configs/mlm.py:v2_xlarge",),
        ("--config=configs/finetune.py:squad,v3_base", "--config.data.dir=squad"),
    ],
    ids=lambda source: source[0],
)
def test_runs_of_the_pages_are_short_and_otherwise_what_they_say(source, monkeypatch):
    monkeypatch.chdir(ROOT)
    flags = [*source, "--config.seed=5", "--config.batch_size=1024", "--workdir=w"]
    short = shortened(flags)
    assert short[: len(flags)] == flags
    config = configs.build(train.parse(short)[0].config)
    said = configs.build(train.parse(flags)[0].config)
    assert (config.seed, config.batch_size, config.model.num_layers) == (5, 8, MODEL["num_layers"])
    assert config.optimizer.learning_rate == said.optimizer.learning_rate
    assert config.model.conv_kernel_size == said.model.conv_kernel_size
    assert (config.objective, config.data.read_threads) == (said.objective, said.data.read_threads)


def test_flags_that_are_refused_stay_as_they_are(monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong = ["--config=configs/laptop.py", "--config.step=5"]
    assert shortened(wrong) == wrong
