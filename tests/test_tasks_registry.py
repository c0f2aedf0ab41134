"""Tasks by name."""

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks import conll, glue, race, squad, superglue, swag, xnli
from deberta_jax.tasks.examples import KINDS
from deberta_jax.tasks.registry import GLUE, SUPERGLUE, TASKS, task_named

MODULES = (glue, xnli, superglue, squad, race, swag, conll)


def test_every_task_of_every_module_has_a_name_of_its_own():
    assert len(TASKS) == sum(len(module.TASKS) for module in MODULES)
    for module in MODULES:
        for name, task in module.TASKS.items():
            assert task_named(name) is task


@pytest.mark.parametrize(
    ("name", "near"),
    [("sst2", "sst-2"), ("multi-rc", "multirc"), ("squadv2", "squad-v2"), ("conll2002", "conll2003"), ("Race", "race")],
)
def test_a_wrong_name_is_refused_with_the_nearest(name: str, near: str):
    with pytest.raises(Refused, match=f"no task '{name}', did you mean '{near}'"):
        task_named(name)


def test_a_name_like_no_other_is_refused_with_all():
    with pytest.raises(Refused, match="no task 'zzzz'; there are cola, "):
        task_named("zzzz")


def test_benchmarks_are_made_of_tasks_that_can_be_trained():
    assert len(GLUE) == 9 and len(SUPERGLUE) == 8
    assert set(GLUE) <= glue.TASKS.keys() and set(SUPERGLUE) <= superglue.TASKS.keys()
    for name in (*GLUE, *SUPERGLUE):
        assert "train" in TASKS[name].files and TASKS[name].validation


@pytest.mark.parametrize("name", list(TASKS))
def test_tasks_are_consistent(name: str):
    task = TASKS[name]
    assert task.kind in KINDS
    assert bool(task.labels) == (task.kind not in ("multiple_choice", "span"))
    assert (task.labels == ("score",)) == (task.kind == "regression")
    assert len(set(task.labels)) == len(task.labels)
    assert set(task.validation) <= set(task.files)
    assert not any(split.startswith("test") for split in task.validation)
    assert bool(task.selection) == bool(task.validation)
    assert task.prepared is None or set(task.prepared.splits) <= set(task.files)
