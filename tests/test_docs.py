"""Every command that the README and docs/ show is one that the programs take."""

from pathlib import Path

import pytest

import train
from commands import Command, commands_in, parsed
from deberta_jax import config as configs
from deberta_jax.errors import Refused

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_programs_take_the_commands_of_every_page(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands_in(page.read_text()):
        parsed(command, monkeypatch)
        if command.module == "train":
            configs.build(train.parse(list(command.flags))[0].config)


def test_commands_are_found_where_people_see_them():
    text = (
        "Run `python train.py`:\n\n    python train.py --config=a.py \\\n        --workdir='b c'   # why\n"
        "#   launch/tpu_vm.sh run NAME --config=a.py\n#   launch/tpu_vm.sh stop NAME\n"
        "    python eval.py --workdir=b    the held-out rows\n    python -m deberta_jax.tools.prepare --input=x ...\n"
        "    sbatch --nodes=4 launch/slurm.sh --config=a.py\n    python -m pytest tests\n    pip install x"
    )
    assert list(commands_in(text)) == [
        Command("train", ("--config=a.py", "--workdir=b c")),
        Command("train", ("--config=a.py",)),
        Command("eval", ("--workdir=b",)),
        Command("deberta_jax.tools.prepare", ("--input=x",)),
        Command("train", ("--config=a.py",)),
    ]


@pytest.mark.parametrize(
    "command",
    [
        Command("train", ("--config=configs/mlm.py", "--workdri=x")),
        Command("train", ("--config=configs/mlm.py:v3_huge", "--workdir=x")),
        Command("train", ("--config=configs/mlm.py", "--config.optimizer.lr=1")),
        Command("deberta_jax.tools.prepare", ("--input=x", "--tokenizer=t", "--length=many", "--output=o")),
        Command("deberta_jax.tools.glue", ("--init=x", "--data=glue", "--workdir=y", "--seed=5")),
    ],
    ids=lambda command: command.flags[-1],
)
def test_a_wrong_command_is_found(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(Refused):
        parsed(command, monkeypatch)
