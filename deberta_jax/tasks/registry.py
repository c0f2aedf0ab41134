"""All tasks by name."""

from deberta_jax.errors import Refused, nearest
from deberta_jax.tasks import conll, glue, race, squad, superglue, swag, xnli
from deberta_jax.tasks.task import Task

TASKS: dict[str, Task] = {
    name: task for module in (glue, xnli, superglue, squad, race, swag, conll) for name, task in module.TASKS.items()
}

# in the order of the benchmarks' tables
GLUE = ("cola", "sst-2", "mrpc", "sts-b", "qqp", "mnli", "qnli", "rte", "wnli")
SUPERGLUE = ("boolq", "cb", "copa", "multirc", "record", "superglue-rte", "wic", "wsc")


def task_named(name: str) -> Task:
    """The task of that name. Raises Refused, with the nearest name, where there is none."""
    if name not in TASKS:
        raise Refused(f"no task {name!r}{nearest(name, TASKS)}; there are {', '.join(TASKS)}")
    return TASKS[name]
