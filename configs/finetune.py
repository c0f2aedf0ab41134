"""Fine-tuning for a task: GLUE, SuperGLUE, SQuAD, RACE, SWAG, CoNLL-2003, XNLI, or a file of your own.

    python train.py --config=configs/finetune.py:mrpc,v3_base --config.data.dir=glue/MRPC \
        --config.init_from=CONVERTED --workdir=runs/mrpc
    python eval.py --workdir=runs/mrpc --split=test

The arguments are a task of deberta_jax/tasks/registry.py (or "custom") and a size of configs/sizes.py; behind them, in
any order, "sift" for scale-invariant fine-tuning, and a rule table of configs/meshes.py ("fsdp", "fsdp_tp").
`init_from` is a workdir: of tools.convert, of pretraining, or of another task, as the published RTE, MRPC, STS-B, COPA
and RACE runs start from a model of MNLI. Without it the model starts from random weights (name data.tokenizer then).

The settings are those of the released scripts where there is one for the pair (docs/finetuning.md lists them with the
published scores and times; those were eight V100s, 0.5 to 6 hours). Other pairs take the script of the nearest size,
tasks without a script those of a like task: `recipe_of` says which. No score of ours is given at these sizes because
none has been measured yet; those of "mini" are in docs/results.md.
"""

from ml_collections import ConfigDict

from configs import base, meshes

RULES = {"dp": meshes.dp, "fsdp": meshes.fsdp, "fsdp_tp": meshes.fsdp_tp}
SIFT = "sift"


def recipe(epochs: int, learning_rate: float, batch_size: int, dropout: float, warmup_steps: int) -> dict:
    """What the released scripts set for each task and size; `dropout` is that before the classifier."""
    return {
        "epochs": float(epochs),
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "dropout": dropout,
        "warmup_steps": warmup_steps,
    }


# task: kind, tokens of a row, and the task whose script it takes.
TASKS = {
    "cola": ("classification", 64, "cola"),
    "sst-2": ("classification", 128, "sst-2"),
    "mrpc": ("classification", 128, "mrpc"),
    "sts-b": ("regression", 128, "sts-b"),
    "qqp": ("classification", 320, "qqp"),
    "mnli": ("classification", 256, "mnli"),
    "qnli": ("classification", 512, "qnli"),
    "rte": ("classification", 320, "rte"),
    "wnli": ("classification", 128, "rte"),
    "boolq": ("classification", 512, "rte"),
    "cb": ("classification", 320, "rte"),
    "copa": ("multiple_choice", 136, "copa"),
    "multirc": ("classification", 512, "qnli"),
    "record": ("classification", 512, "record"),
    "superglue-rte": ("classification", 320, "rte"),
    "wic": ("classification", 128, "rte"),
    "wsc": ("classification", 128, "rte"),
    "squad": ("span", 384, "squad"),
    "squad-v2": ("span", 384, "squad"),
    "race": ("multiple_choice", 320, "race"),
    "race-middle": ("multiple_choice", 320, "race"),
    "race-high": ("multiple_choice", 320, "race"),
    "swag": ("multiple_choice", 128, "race"),
    "conll2003": ("tagging", 512, "conll2003"),
    "xnli": ("classification", 256, "mnli"),
    "custom": ("classification", 256, "rte"),
}
SMALL = ("cb", "copa", "wsc", "wnli")  # 250 to 635 examples: other warm-ups would be most of the training
OWN = {
    "tiny": 1e-3,
    "mini": 5e-4,
}  # sizes of our own: their peak rates. As in their pretraining, no dropout below the head

# The released scripts (experiments/glue, superglue, ner): batch sizes are global, warm-up in steps.
_COLUMNS = (
    "v1_base",
    "v1_large",
    "v1_xlarge",
    "v2_xlarge",
    "v2_xxlarge",
    "v3_large",
)
_LIKE_BASE = ("v3_xsmall", "v3_small", "v3_base", "mdeberta_base")
NEAREST = dict(zip(_COLUMNS, _COLUMNS, strict=True)) | dict.fromkeys(_LIKE_BASE, "v1_base")
_SCRIPTS = {
    "cola": (
        recipe(6, 2e-5, 32, 0.15, 100),
        recipe(6, 7e-6, 32, 0.15, 100),
        recipe(8, 5e-6, 32, 0.2, 100),
        recipe(8, 3e-6, 32, 0.2, 100),
        recipe(10, 2.5e-6, 32, 0.2, 100),
        recipe(10, 5.5e-6, 32, 0.1, 50),
    ),
    "mnli": (
        recipe(3, 3e-5, 64, 0.1, 1000),
        recipe(3, 1e-5, 64, 0.2, 1000),
        recipe(3, 5e-6, 64, 0.3, 1000),
        recipe(3, 4e-6, 64, 0.25, 1000),
        recipe(3, 3e-6, 64, 0.3, 1000),
        recipe(2, 7e-6, 64, 0.3, 500),
    ),
    "mrpc": (
        recipe(6, 2e-5, 32, 0.15, 50),
        recipe(6, 1e-5, 32, 0.15, 50),
        recipe(8, 7e-6, 32, 0.3, 50),
        recipe(6, 3.5e-6, 32, 0.2, 50),
        recipe(6, 2e-6, 32, 0.2, 50),
        recipe(6, 6e-6, 32, 0.2, 50),
    ),
    "qnli": (
        recipe(4, 2e-5, 32, 0.15, 500),
        recipe(4, 1e-5, 32, 0.15, 500),
        recipe(4, 7e-6, 32, 0.2, 500),
        recipe(4, 4e-6, 64, 0.2, 500),
        recipe(4, 3e-6, 64, 0.2, 500),
        recipe(6, 7e-6, 64, 0.2, 200),
    ),
    "qqp": (
        recipe(8, 2e-5, 64, 0.15, 500),
        recipe(8, 1e-5, 64, 0.15, 500),
        recipe(8, 7e-6, 64, 0.2, 500),
        recipe(10, 4e-6, 64, 0.2, 1000),
        recipe(10, 3e-6, 64, 0.2, 1000),
        recipe(6, 1e-5, 64, 0.2, 1000),
    ),
    "rte": (
        recipe(6, 2e-5, 32, 0.2, 100),
        recipe(6, 1e-5, 32, 0.2, 50),
        recipe(6, 5e-6, 48, 0.2, 50),
        recipe(6, 4e-6, 48, 0.2, 50),
        recipe(6, 3e-6, 48, 0.2, 50),
        recipe(6, 1e-5, 32, 0.3, 50),
    ),
    "sst-2": (
        recipe(6, 2e-5, 32, 0.15, 500),
        recipe(6, 1e-5, 32, 0.15, 500),
        recipe(6, 3e-6, 32, 0.2, 500),
        recipe(4, 4e-6, 32, 0.2, 500),
        recipe(4, 3e-6, 32, 0.2, 500),
        recipe(8, 6e-6, 32, 0.1, 500),
    ),
    "sts-b": (
        recipe(6, 2e-5, 32, 0.15, 100),
        recipe(4, 7e-6, 32, 0.15, 100),
        recipe(4, 7e-6, 32, 0.2, 100),
        recipe(4, 4e-6, 32, 0.2, 100),
        recipe(4, 3e-6, 32, 0.2, 100),
        recipe(4, 7e-6, 32, 0.1, 50),
    ),
    # Warm-up was a tenth of the steps; 14,041 sentences give 878 steps an epoch. (The scripts put several sentences
    # into a row, so theirs had fewer, longer steps.)
    "conll2003": (
        recipe(15, 2e-5, 16, 0.0, 1317),
        recipe(15, 1e-5, 16, 0.0, 1317),
        recipe(15, 7e-6, 16, 0.0, 1317),
        recipe(15, 4e-6, 16, 0.0, 1317),
        recipe(15, 2.5e-6, 16, 0.0, 1317),
        recipe(10, 9e-6, 16, 0.0, 10),
    ),
    # The scripts count queries, and judge all names in a passage at once; here each name is a row, so a batch holds
    # fewer queries, and the epochs have more steps.
    "record": (
        recipe(3, 2e-5, 64, 0.3, 1000),
        recipe(3, 1e-5, 64, 0.3, 1000),
        recipe(3, 7e-6, 64, 0.3, 1000),
        recipe(3, 5e-6, 64, 0.15, 1000),
        recipe(3, 3e-6, 64, 0.15, 1000),
        recipe(3, 7e-6, 64, 0.1, 500),
    ),
    # The scripts count each of the two choices as an example: half their batch is as many questions. No script for v3:
    # the last is that of v1's large.
    "copa": (
        recipe(3, 1e-5, 16, 0.1, 50),
        recipe(4, 5e-6, 8, 0.1, 30),
        recipe(4, 3e-6, 12, 0.1, 30),
        recipe(4, 2e-6, 12, 0.1, 30),
        recipe(8, 1e-6, 12, 0.1, 30),
        recipe(4, 5e-6, 8, 0.1, 30),
    ),
    "race": (  # no script for v3: the last is that of v1's large
        recipe(6, 2e-5, 32, 0.2, 100),
        recipe(6, 8e-6, 32, 0.2, 100),
        recipe(6, 7e-6, 48, 0.2, 100),
        recipe(6, 4e-6, 48, 0.2, 100),
        recipe(6, 3e-6, 48, 0.2, 100),
        recipe(6, 8e-6, 32, 0.2, 100),
    ),
    # No script exists; within what the paper searched (its appendix: rates of 5e-6 to 1e-5 for large, batches of 16 to
    # 64).
    "squad": (
        recipe(3, 3e-5, 32, 0.0, 500),
        recipe(3, 1e-5, 32, 0.0, 500),
        recipe(3, 8e-6, 32, 0.0, 500),
        recipe(3, 8e-6, 32, 0.0, 500),
        recipe(3, 5e-6, 32, 0.0, 500),
        recipe(3, 1e-5, 32, 0.0, 500),
    ),
}
_MORE_SCRIPTS = {
    ("mnli", "v3_xsmall"): recipe(3, 4.5e-5, 64, 0.1, 1000),
    ("mnli", "v3_small"): recipe(3, 4.5e-5, 64, 0.2, 1500),
    ("mnli", "v3_base"): recipe(3, 1.5e-5, 64, 0.1, 1000),
}
_SIFT_SCRIPTS = {  # of MNLI: the recipe and the weight of the adversarial loss
    "v3_xsmall": (recipe(10, 5e-5, 64, 0.1, 1500), 3.0),
    "v3_small": (recipe(6, 3.5e-5, 64, 0.1, 1000), 5.0),
    "v3_base": (recipe(6, 1.5e-5, 64, 0.1, 1000), 5.0),
    "v1_base": (recipe(6, 1.5e-5, 64, 0.1, 1000), 5.0),
    "v2_xxlarge": (recipe(6, 3e-6, 64, 0.3, 1000), 5.0),
}


def get_config(task: str = "mnli", size: str = "v3_base", *options: str) -> ConfigDict:
    """The config of a task and a size; `options` are "sift" and the name of a rule table."""
    if task not in TASKS:
        raise ValueError(f"no recipe for task {task!r}; there are {', '.join(TASKS)}")
    if unknown := set(options) - {SIFT, *RULES}:
        raise ValueError(f"no option {', '.join(sorted(unknown))}; options are {', '.join((SIFT, *RULES))}")
    kind, length, _ = TASKS[task]
    c = base.get_config(size)
    rules = [RULES[option] for option in options if option in RULES]
    if len(rules) > 1:
        raise ValueError(f"more than one rule table: {', '.join(options)}")
    c.rules = rules[0] if rules else meshes.dp
    del c.rtd
    c.objective = kind
    c.steps = 0  # as epochs say
    c.model.decoder = "none"
    c.data = data(task, length)
    c.eval = ConfigDict(dict(every=0, batch_size=64, patience=0, n_best=20, max_answer_length=30, null_threshold=0.0))
    c.optimizer.update(ConfigDict(dict(layer_decay=1.0, freeze=())))
    with_recipe(c, recipe_of(task, size))
    if size in OWN:
        c.model.hidden_dropout, c.model.attention_dropout = 0.0, 0.0
    if SIFT in options:
        with_sift(c, task, size)
    return c


def data(task: str, length: int) -> ConfigDict:
    """Where the examples are and how they are cut."""
    texts = ("id", "label", "words", "tags", "question", "context", "answers", "answer_start")
    columns = dict.fromkeys(texts, "") | {"segments": (), "options": ()}
    return ConfigDict(
        dict(
            task=task,
            dir="",  # the folder of the task's files, or a prepared set
            train="train",
            validation=(),  # the task's own
            max_train=0,
            tokenizer="",  # that of init_from
            labels=(),
            columns=ConfigDict(columns) if task == "custom" else None,
            max_length=length,
            buckets=buckets_of(length),
            stride=128,
            max_query=64,
            read_threads=2,
        )
    )


def buckets_of(length: int) -> tuple[int, ...]:
    """A quarter, half and the whole, in lengths that the hardware likes."""
    return tuple(sorted({max(length // 4 // 8 * 8, 16), max(length // 2 // 8 * 8, 16), length}))


def recipe_of(task: str, size: str) -> dict:
    """The script of the task, or of the one like it, for the size, or for the nearest."""
    like = TASKS[task][2]
    if size in OWN:
        return recipe(3, OWN[size], 32, 0.1, 10 if task in SMALL else 50)
    if task in SMALL and task != like:
        return recipe_of(like, size) | {"warmup_steps": 10}
    if (like, size) in _MORE_SCRIPTS:
        return _MORE_SCRIPTS[like, size]
    if size not in NEAREST:
        raise ValueError(f"no recipe for size {size!r}; there are {', '.join((*NEAREST, *OWN))}")
    return _SCRIPTS[like][_COLUMNS.index(NEAREST[size])]


def with_recipe(c: ConfigDict, values: dict) -> None:
    """Sets what a recipe says."""
    c.epochs, c.batch_size = values["epochs"], values["batch_size"]
    c.optimizer.learning_rate, c.optimizer.warmup_steps = values["learning_rate"], values["warmup_steps"]
    c.head = ConfigDict(dict(pooler_activation="gelu", pooler_dropout=0.0, classifier_dropout=values["dropout"]))


def with_sift(c: ConfigDict, task: str, size: str) -> None:
    """Scale-invariant fine-tuning with the released settings; on MNLI with the scripts of its own.

    In float32: an ascent step of 1e-4 on vectors of about 1 is lost in bfloat16, which has three digits.
    """
    c.model.dtype = "float32"
    weight = 3.0 if size == "v3_xsmall" else 5.0
    c.sift = ConfigDict(dict(weight=weight, learning_rate=1e-4, initial=1e-2, steps=1, loss="symmetric-kl"))
    if task == "mnli" and size in _SIFT_SCRIPTS:
        values, c.sift.weight = _SIFT_SCRIPTS[size]
        with_recipe(c, values)
