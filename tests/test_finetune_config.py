"""Configs of fine-tuning: what is refused, what older runs have written, and the published recipes."""

import copy
import itertools
import json
import math

import pytest

from configs import base, finetune, meshes, rtd, sizes
from deberta_jax import config
from deberta_jax.config import Config, FinetuneConfig
from deberta_jax.errors import Refused
from deberta_jax.flags import load_config
from deberta_jax.tasks.examples import KINDS
from deberta_jax.tasks.registry import TASKS
from runs import ROOT
from task_builders import task_config

SIFT = {"weight": 5.0, "learning_rate": 1e-4, "initial": 1e-2, "steps": 1, "loss": "symmetric-kl"}


@pytest.fixture
def values() -> dict:
    """A valid run of a custom task, as plain values."""
    return config.to_dict(task_config(model={"num_layers": 2})) | {"sift": dict(SIFT)}


def changed(values: dict, changes: dict) -> dict:
    """`values` with the entries at dotted paths set."""
    values = copy.deepcopy(values)
    for path, value in changes.items():
        *groups, name = path.split(".")
        group = values
        for part in groups:
            group = group[part]
        group[name] = value
    return values


def test_the_kinds_are_those_of_the_tasks():
    assert config.KINDS == KINDS == tuple(OF_KIND)


OF_KIND = {
    "classification": "rte",
    "regression": "sts-b",
    "multiple_choice": "swag",
    "tagging": "conll2003",
    "span": "squad",
}


def of_task(task: str, size: str = "v3_base", *options: str) -> FinetuneConfig:
    c = finetune.get_config(task, size, *options)
    c.data.dir = "files"
    return config.build(c)


@pytest.mark.parametrize("kind", KINDS)
def test_the_objective_of_a_task_makes_a_run_that_fine_tunes(kind, values):
    built = config.build(changed(values, {"objective": kind}))
    assert type(built) is FinetuneConfig and built.rtd is None
    assert type(of_task(OF_KIND[kind])) is FinetuneConfig and of_task(OF_KIND[kind]).objective == kind


def test_the_objectives_of_pretraining_make_a_run_that_pretrains():
    assert config.PRETRAINING == ("mlm", "rtd")
    assert type(config.build(base.get_config("tiny"))) is Config
    assert type(config.build(rtd.get_config("v3_xsmall"))) is Config


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sift", [None, SIFT])
def test_a_config_survives_the_round_trip_through_json(kind, sift, values):
    built = config.build(changed(values, {"objective": kind, "sift": sift}))
    assert config.build(config.to_dict(built)) == built
    assert config.build(json.loads(json.dumps(config.to_dict(built)))) == built
    assert hash(built) == hash(config.build(config.to_dict(built)))


def test_a_task_of_the_registry_survives_it_too():
    built = of_task("squad-v2", "v2_xxlarge", "fsdp", "sift")
    assert config.build(json.loads(json.dumps(config.to_dict(built)))) == built
    assert built.data.columns is None


def test_a_config_json_from_before_there_was_sift_still_builds(values):
    old = config.to_dict(config.build(base.get_config("tiny")))
    assert old.pop("sift") is None
    assert config.build(old) == config.build(base.get_config("tiny"))
    pair = config.to_dict(config.build(rtd.get_config("v3_xsmall")))
    del pair["sift"]
    assert config.build(pair) == config.build(rtd.get_config("v3_xsmall"))
    del values["sift"]
    assert config.build(values).sift is None


REFUSED = [
    ("objective", "clasification", "objective must be one of mlm, rtd, classification, regression, multiple_choice"),
    ("objective", "clasification", "got 'clasification', did you mean 'classification'"),
    (
        "data.dir",
        "gs://bucket/RTE",
        "data.dir: gs://bucket/RTE is a bucket, this must be files: mount it (gcsfuse) or copy",
    ),
    ("data.train", "gs://b/a.tsv", "data.train: gs://b/a.tsv is a bucket, this must be files"),
    ("data.validation", ("gs://b/a.tsv",), "data.validation: gs://b/a.tsv is a bucket, this must be files"),
    ("init_from", "gs://b/run", "init_from: gs://b/run is a bucket, this must be files: mount it (gcsfuse) or copy it"),
    ("data.tokenizer", "gs://b/spm", "data.tokenizer: gs://b/spm is a bucket, this must be files"),
    ("objective", 3, "objective expects str, got 3"),
    ("objective", "mlm", "config has no key"),
    ("batch_size", 0, "batch_size must be positive, got 0"),
    ("micro_batches", 0, "micro_batches must be positive, got 0"),
    ("micro_batches", 3, "batch_size 16 is not a multiple of micro_batches 3"),
    ("log_every", 0, "log_every must be positive, got 0"),
    ("seed", -1, "seed must lie in [0, 2**32), got -1"),
    ("max_bad_steps", -1, "max_bad_steps must not be negative, got -1"),
    ("profile_steps", (5, 5), "profile_steps must be () or (first, end), got (5, 5)"),
    ("epochs", 0, "epochs must be positive and finite, got 0.0"),
    ("epochs", -1.5, "epochs must be positive and finite, got -1.5"),
    ("epochs", math.inf, "epochs must be positive and finite, got inf"),
    ("epochs", math.nan, "epochs must be positive and finite, got nan"),
    ("epochs", "3", "epochs expects float, got '3'"),
    ("steps", -1, "steps must be 0 (as epochs say), got -1"),
    ("model.decoder", "emd", "model.decoder must be 'none': a task predicts no masked tokens"),
    ("model.num_layers", 0, "model.num_layers must be at least 1, got 0"),
    ("optimizer.warmup_steps", 11, "optimizer.warmup_steps 11 exceeds steps 10"),
    ("optimizer.warmup_steps", -1, "optimizer.warmup_steps must not be negative, got -1"),
    ("optimizer.layer_decay", 0, "optimizer.layer_decay must lie in (0, 1], got 0.0"),
    ("optimizer.layer_decay", 1.01, "optimizer.layer_decay must lie in (0, 1], got 1.01"),
    ("optimizer.layer_decay", math.nan, "optimizer.layer_decay must lie in (0, 1], got nan"),
    ("optimizer.learning_rate", 0, "optimizer.learning_rate must be positive, got 0.0"),
    ("optimizer.schedule", "lineal", "optimizer.schedule must be one of linear, cosine, constant; got 'lineal'"),
    ("optimizer.freeze", "encoder", "optimizer.freeze expects a tuple, got 'encoder'"),
    ("data.dir", "", "data.dir is empty: name the folder of the task's files"),
    ("data.train", "", "data.train is empty: name a split of the task or a file"),
    ("data.max_train", -1, "data.max_train must not be negative, got -1"),
    ("data.stride", -1, "data.stride must not be negative, got -1"),
    ("data.max_query", -1, "data.max_query must not be negative, got -1"),
    ("data.buckets", (), "data.buckets must ascend to data.max_length 64, got ()"),
    ("data.buckets", (32, 16, 64), "data.buckets must ascend to data.max_length 64, got (32, 16, 64)"),
    ("data.buckets", (16, 16, 64), "data.buckets must ascend to data.max_length 64"),
    ("data.buckets", (0, 64), "data.buckets must ascend to data.max_length 64"),
    ("data.buckets", (16, 32), "data.buckets must ascend to data.max_length 64"),
    ("data.buckets", (64, 128), "data.buckets must ascend to data.max_length 64"),
    ("data.max_length", 63, "data.buckets must ascend to data.max_length 63, got (16, 32, 64)"),
    ("data.read_threads", 0, "data.read_threads must be at least 1, got 0"),
    ("data.columns", None, "data.task 'custom' names no columns: set data.columns"),
    ("data.task", "rte", "data.task 'rte' has its own columns: leave data.columns out"),
    ("data.columns.segments", "text", "data.columns.segments expects a tuple, got 'text'"),
    ("data.columns.segmens", (), "config has no key 'data.columns.segmens', did you mean 'segments'"),
    ("data.paths", (), "config has no key 'data.paths'"),
    ("head.pooler_activation", "gleu", "head.pooler_activation must be one of"),
    ("head.pooler_activation", "gleu", "did you mean 'gelu'"),
    ("head.pooler_dropout", 1.0, "head.pooler_dropout must lie in [0, 1), got 1.0"),
    ("head.classifier_dropout", -0.1, "head.classifier_dropout must lie in [0, 1), got -0.1"),
    ("head.labels", (), "config has no key 'head.labels'"),
    ("eval.batch_size", 0, "eval.batch_size must be positive, got 0"),
    ("eval.n_best", 0, "eval.n_best must be positive, got 0"),
    ("eval.max_answer_length", 0, "eval.max_answer_length must be positive, got 0"),
    ("eval.null_threshold", math.nan, "eval.null_threshold must be finite, got nan"),
    ("optimizer.freeze", ("encoder", "["), "optimizer.freeze: '[' is no regular expression: unterminated character"),
    ("optimizer.no_decay", ("(",), "optimizer.no_decay: '(' is no regular expression: missing )"),
    ("eval.every", -1, "eval.every must not be negative, got -1"),
    ("eval.patience", -1, "eval.patience must not be negative, got -1"),
    ("sift.weight", -1, "sift.weight must be finite and not negative, got -1.0"),
    ("sift.weight", math.inf, "sift.weight must be finite and not negative, got inf"),
    ("sift.learning_rate", 0, "sift.learning_rate must be positive and finite, got 0.0"),
    ("sift.learning_rate", math.inf, "sift.learning_rate must be positive and finite, got inf"),
    ("sift.initial", 0, "sift.initial must be positive and finite, got 0.0"),
    ("sift.steps", 0, "sift.steps must be at least 1, got 0"),
    ("sift.loss", "symetric-kl", "sift.loss must be one of symmetric-kl, kl, mse; got 'symetric-kl', did you mean"),
    ("sift", 3, "sift must be a group of keys"),
    ("rtd", None, "config has no key 'rtd'"),
    ("epoch", 3.0, "config has no key 'epoch', did you mean 'epochs'"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_by_its_key(values, path, value, message):
    with pytest.raises(Refused) as refused:
        config.build(changed(values, {path: value}))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_labels_are_of_custom_tasks(values):
    labelled = changed(values, {"data.labels": ("a", "b")})
    assert config.build(labelled).data.labels == ("a", "b")
    with pytest.raises(Refused, match="^data.labels are of custom tasks; 'rte' has its own$"):
        config.build(changed(labelled, {"data.task": "rte", "data.columns": None}))
    with pytest.raises(Refused, match="^data.labels are of classification and tagging; the objective is 'regression'$"):
        config.build(changed(labelled, {"objective": "regression"}))


def test_where_epochs_say_the_steps_the_warm_up_is_checked_later(values):
    assert config.build(changed(values, {"steps": 0, "optimizer.warmup_steps": 10**6})).steps == 0
    assert config.build(changed(values, {"optimizer.warmup_steps": 10})).optimizer.warmup_steps == 10


def test_bounds_that_are_allowed(values):
    edges = {
        "optimizer.layer_decay": 1,
        "sift.weight": 0,
        "head.classifier_dropout": 0,
        "eval.n_best": 1,
        "data.buckets": (64,),
        "model.num_layers": 1,
        "optimizer.clip_norm": math.inf,
    }
    built = config.build(changed(values, edges))
    assert (built.optimizer.layer_decay, built.sift.weight, built.data.buckets) == (1.0, 0.0, (64,))


@pytest.mark.parametrize(
    "path", ["objective", "epochs", "head", "data.columns.id", "data.buckets", "optimizer.freeze", "eval.patience"]
)
def test_a_missing_key_is_refused_by_name(values, path):
    *groups, name = path.split(".")
    group = values
    for part in groups:
        group = group[part]
    del group[name]
    with pytest.raises(Refused, match=f"^config lacks the key '{path}'$"):
        config.build(values)


def test_a_run_that_trains_two_models_has_no_sift():
    pair = config.to_dict(config.build(rtd.get_config("v3_xsmall"))) | {"sift": dict(SIFT)}
    with pytest.raises(Refused, match="^sift compares the outputs of one model with itself"):
        config.build(pair)
    assert config.build(base.get_config("tiny")).sift is None
    alone = config.to_dict(config.build(base.get_config("tiny"))) | {"sift": dict(SIFT)}
    assert config.build(alone).sift.weight == 5.0


def test_a_head_is_its_settings_and_labels():
    head = task_config(head={"classifier_dropout": 0.25, "pooler_dropout": 0.125}).head.with_labels(("a", "b"))
    assert head == config.HeadConfig(("a", "b"), "gelu", 0.125, 0.25)


EVALUATED_ONLY = {"ax", "ax-b", "ax-g"}  # diagnostic sets


def test_every_task_that_can_be_trained_has_a_recipe_of_its_kind():
    assert set(finetune.TASKS) == (set(TASKS) - EVALUATED_ONLY) | {"custom"}
    assert all("train" not in TASKS[name].files for name in EVALUATED_ONLY)
    for name, (kind, _, like) in finetune.TASKS.items():
        assert name == "custom" or kind == TASKS[name].kind, name
        assert like in finetune.TASKS


@pytest.mark.parametrize("task", finetune.TASKS)
def test_every_task_builds_at_every_kind_of_size(task):
    for size in ("v1_base", "v2_xxlarge", "v3_large", "mini"):
        built = of_task(task, size)
        assert (built.data.task, built.objective) == (task, finetune.TASKS[task][0])
        assert built.data.buckets[-1] == built.data.max_length <= 512
        assert (built.model.decoder, built.steps, built.sift) == ("none", 0, None)
        assert (built.data.columns is None) == (task != "custom")


@pytest.mark.parametrize("size", [size for size in sizes.SIZES if not size.endswith("_generator")])
def test_every_size_fine_tunes(size):
    built = of_task("mrpc", size)
    model = config.to_dict(built)["model"]
    assert {key: model[key] for key in sizes.architecture(size)} == sizes.architecture(size) | {"decoder": "none"}


@pytest.mark.parametrize(
    ("length", "buckets"),
    [(64, (16, 32, 64)), (136, (32, 64, 136)), (320, (80, 160, 320)), (24, (16, 24)), (16, (16,))],
)
def test_buckets_are_a_quarter_half_and_the_whole(length, buckets):
    assert finetune.buckets_of(length) == buckets


# The released scripts as a survey of them has written them down: epochs / rate / batch / dropout / warm-up.
COLUMNS = ("v1_base", "v1_large", "v1_xlarge", "v2_xlarge", "v2_xxlarge", "v3_large")
PUBLISHED = """
cola       64  | 6/2e-5/32/.15/100 | 6/7e-6/32/.15/100 | 8/5e-6/32/.2/100  | 8/3e-6/32/.2/100   | 10/2.5e-6/32/.2/100 | 10/5.5e-6/32/.1/50
mnli       256 | 3/3e-5/64/.1/1000 | 3/1e-5/64/.2/1000 | 3/5e-6/64/.3/1000 | 3/4e-6/64/.25/1000 | 3/3e-6/64/.3/1000   | 2/7e-6/64/.3/500
mrpc       128 | 6/2e-5/32/.15/50  | 6/1e-5/32/.15/50  | 8/7e-6/32/.3/50   | 6/3.5e-6/32/.2/50  | 6/2e-6/32/.2/50     | 6/6e-6/32/.2/50
qnli       512 | 4/2e-5/32/.15/500 | 4/1e-5/32/.15/500 | 4/7e-6/32/.2/500  | 4/4e-6/64/.2/500   | 4/3e-6/64/.2/500    | 6/7e-6/64/.2/200
qqp        320 | 8/2e-5/64/.15/500 | 8/1e-5/64/.15/500 | 8/7e-6/64/.2/500  | 10/4e-6/64/.2/1000 | 10/3e-6/64/.2/1000  | 6/1e-5/64/.2/1000
rte        320 | 6/2e-5/32/.2/100  | 6/1e-5/32/.2/50   | 6/5e-6/48/.2/50   | 6/4e-6/48/.2/50    | 6/3e-6/48/.2/50     | 6/1e-5/32/.3/50
sst-2      128 | 6/2e-5/32/.15/500 | 6/1e-5/32/.15/500 | 6/3e-6/32/.2/500  | 4/4e-6/32/.2/500   | 4/3e-6/32/.2/500    | 8/6e-6/32/.1/500
sts-b      128 | 6/2e-5/32/.15/100 | 4/7e-6/32/.15/100 | 4/7e-6/32/.2/100  | 4/4e-6/32/.2/100   | 4/3e-6/32/.2/100    | 4/7e-6/32/.1/50
conll2003  512 | 15/2e-5/16/0/0.1  | 15/1e-5/16/0/0.1  | 15/7e-6/16/0/0.1  | 15/4e-6/16/0/0.1   | 15/2.5e-6/16/0/0.1  | 10/9e-6/16/0/10
record     512 | 3/2e-5/64/.3/1000 | 3/1e-5/64/.3/1000 | 3/7e-6/64/.3/1000 | 3/5e-6/64/.15/1000 | 3/3e-6/64/.15/1000  | 3/7e-6/64/.1/500
copa       136 | 3/1e-5/32/.1/50   | 4/5e-6/16/.1/30   | 4/3e-6/24/.1/30   | 4/2e-6/24/.1/30    | 8/1e-6/24/.1/30     | -
race       320 | 6/2e-5/32/.2/100  | 6/8e-6/32/.2/100  | 6/7e-6/48/.2/100  | 6/4e-6/48/.2/100   | 6/3e-6/48/.2/100    | -
"""  # noqa: E501
MORE = {
    "v3_xsmall": "3/4.5e-5/64/.1/1000",
    "v3_small": "3/4.5e-5/64/.2/1500",
    "v3_base": "3/1.5e-5/64/.1/1000",
}
WITH_SIFT = {
    "v3_xsmall": ("10/5e-5/64/.1/1500", 3),
    "v3_small": ("6/3.5e-5/64/.1/1000", 5),
    "v3_base": ("6/1.5e-5/64/.1/1000", 5),
    "v1_base": ("6/1.5e-5/64/.1/1000", 5),
    "v2_xxlarge": ("6/3e-6/64/.3/1000", 5),
}
SENTENCES = 14_041  # of the training file of CoNLL-2003


def recipes() -> list[tuple[str, str, int, str]]:
    """(task, size, length, cell) of the table."""
    found = []
    for line in PUBLISHED.strip().splitlines():
        (task, length), *cells = (part.split() for part in line.split("|"))
        found += [(task, size, int(length), cell) for size, (cell,) in zip(COLUMNS, cells, strict=True) if cell != "-"]
    return found


def meant(cell: str) -> tuple:
    """What a cell of the table says; a warm-up below 1 is a share of the steps of CoNLL-2003."""
    epochs, rate, batch, dropout, warmup = map(float, cell.split("/"))
    steps = round(warmup * epochs * math.ceil(SENTENCES / batch)) if warmup < 1 else warmup
    return epochs, rate, batch, dropout, steps


def recipe(built: FinetuneConfig) -> tuple:
    optimizer = built.optimizer
    head = built.head.classifier_dropout
    return built.epochs, optimizer.learning_rate, built.batch_size, head, optimizer.warmup_steps


def test_the_table_has_every_cell_of_the_survey():
    assert len(recipes()) == 12 * 6 - 2


@pytest.mark.parametrize(("task", "size", "length", "cell"), recipes())
def test_every_published_recipe_is_what_the_config_says(task, size, length, cell):
    built = of_task(task, size)
    epochs, rate, batch, *others = meant(cell)
    batch = batch / 2 if task == "copa" else batch  # the script counts choices, a batch of ours questions
    assert recipe(built) == (epochs, rate, batch, *others)
    assert built.data.max_length == length


# Training examples of the small tasks, as the data sets have them.
SMALL = {"cb": 250, "copa": 400, "wsc": 554, "wnli": 635, "rte": 2490, "mrpc": 3668, "wic": 5428, "sts-b": 5749}


@pytest.mark.parametrize("size", [*COLUMNS, "v3_xsmall", "v3_small", "v3_base", "mdeberta_base", *finetune.OWN])
def test_the_warm_up_ends_before_the_training_does(size):
    for task, examples in SMALL.items():
        built = of_task(task, size)
        steps = built.epochs * math.ceil(examples / built.batch_size)
        assert built.optimizer.warmup_steps <= steps * 2 / 3, task  # COPA's own script: 50 of 75


@pytest.mark.parametrize(("size", "cell"), MORE.items())
def test_the_small_sizes_of_mnli(size, cell):
    assert recipe(of_task("mnli", size)) == meant(cell)


@pytest.mark.parametrize(("size", "published"), WITH_SIFT.items())
def test_the_scripts_of_mnli_with_sift(size, published):
    cell, weight = published
    built = of_task("mnli", size, "sift")
    assert recipe(built) == meant(cell)
    assert config.to_dict(built.sift) == SIFT | {"weight": weight}


def test_sift_elsewhere_keeps_the_recipe_of_the_task():
    for task, size in (("mnli", "v3_large"), ("rte", "v3_base"), ("sts-b", "v2_xxlarge"), ("squad", "tiny")):
        built, plain = of_task(task, size, "sift"), of_task(task, size)
        assert recipe(built) == recipe(plain)
        assert config.to_dict(built.sift) == SIFT and plain.sift is None
    assert of_task("rte", "v3_xsmall", "sift").sift.weight == 3


def test_sift_is_computed_in_float32():
    """An ascent step of 1e-4 on vectors of about 1 would be lost in bfloat16."""
    assert [of_task("rte", "v3_base", *options).model.dtype for options in ((), ("sift",))] == ["bfloat16", "float32"]


def test_all_scripts_share_one_optimizer():
    for size in ("v1_base", "v3_large", "mini"):
        built = of_task("mrpc", size).optimizer
        assert (built.weight_decay, built.b1, built.b2, built.eps, built.clip_norm) == (0.01, 0.9, 0.999, 1e-6, 1.0)
        assert (built.schedule, built.end_fraction, built.layer_decay, built.freeze) == ("linear", 0.0, 1.0, ())


@pytest.mark.parametrize("size", finetune.OWN)
def test_a_size_of_our_own_has_one_recipe_and_no_dropout_below_the_head(size):
    runs = [of_task(task, size) for task in ("mnli", "squad", "conll2003", "race")]
    assert len({recipe(run) for run in runs}) == 1 and runs[0].optimizer.learning_rate == finetune.OWN[size]
    assert {(run.model.hidden_dropout, run.model.attention_dropout) for run in runs} == {(0, 0)}
    published = of_task("mnli", "v3_base").model
    assert (published.hidden_dropout, published.attention_dropout) == (0.1, 0.1)


def test_tasks_without_a_script_take_that_of_a_like_task():
    like = {"boolq": "rte", "multirc": "qnli", "swag": "race", "xnli": "mnli"}
    for task, other in (like | {"squad-v2": "squad", "race-high": "race", "custom": "rte"}).items():
        for size in COLUMNS:
            assert recipe(of_task(task, size)) == recipe(of_task(other, size)), (task, size)
    for task, size in itertools.product(("cb", "wsc", "wnli"), COLUMNS):
        assert recipe(of_task(task, size))[:-1] == recipe(of_task("rte", size))[:-1], "but for the warm-up"
    for size in ("v3_small", "mdeberta_base"):
        assert recipe(of_task("rte", size)) == recipe(of_task("rte", "v1_base"))


@pytest.mark.parametrize("options", [(), ("dp",), ("fsdp",), ("fsdp_tp",), ("sift", "fsdp"), ("fsdp_tp", "sift")])
def test_options_come_in_any_order(options):
    built = of_task("mrpc", "v3_base", *options)
    tables = {"fsdp": meshes.fsdp, "fsdp_tp": meshes.fsdp_tp}
    assert built.rules == next((tables[option] for option in options if option in tables), meshes.dp)
    assert (built.sift is not None) == ("sift" in options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mrcp", "v3_base"), "no recipe for task 'mrcp'; there are cola, sst-2, mrpc,"),
        (("ax", "v3_base"), "no recipe for task 'ax'; there are"),
        (("mrpc", "v3_bas"), "no size 'v3_bas'; sizes are v1_base"),
        (("mrpc", "v3_base_generator"), "no recipe for size 'v3_base_generator'; there are v1_base"),
        (("mrpc", "v3_base", "sfit"), "no option sfit; options are sift, dp, fsdp, fsdp_tp"),
        (("mrpc", "v3_base", "sift", "tp", "sfit"), "no option sfit, tp; options are"),
    ],
)
def test_an_unknown_task_size_or_option_is_named(arguments, message):
    with pytest.raises(ValueError) as error:
        finetune.get_config(*arguments)
    assert str(error.value).startswith(message)


def test_a_custom_task_is_described_on_the_command_line():
    flags = {"objective": "tagging", "data.dir": "mine", "data.columns.words": "w", "data.columns.tags": "t"}
    flags |= {"data.labels": "('O', 'B-X')", "optimizer.freeze": "('^encoder/embeddings',)", "data.max_train": "100"}
    source = f"--config={ROOT / 'configs' / 'finetune.py'}:custom,mini,sift"
    loaded = load_config([source, *(f"--config.{key}={value}" for key, value in flags.items())])
    built = config.build(loaded.config)
    assert (built.objective, built.data.columns.words, built.data.columns.tags) == ("tagging", "w", "t")
    assert (built.data.labels, built.optimizer.freeze) == (("O", "B-X"), ("^encoder/embeddings",))
    assert (built.data.max_train, built.sift.weight) == (100, 5.0)
