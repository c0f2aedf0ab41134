"""What a task starts from, and what it is predicted with: pretrained, converted and fine-tuned workdirs."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from builders import LEXICON, VOCABULARY, scrambled, tiny_config, tiny_pair_config
from configs import finetune
from deberta_jax import config as configs
from deberta_jax.config import FinetuneConfig, HeadConfig
from deberta_jax.errors import Refused
from deberta_jax.objectives.models import init_of
from deberta_jax.train.build import Run, build_run
from deberta_jax.train.initial import pretrained_vocabulary, starting_state, task_params
from runs import save_run

TOKENIZER = "f" * 64
LABELS = ("contradiction", "neutral", "entailment")
THEIRS = ("ENTAILMENT", "CONTRADICTION", "NEUTRAL")  # the same ones as another code base had them


def task_config(kind: str = "classification", **changes: Any) -> FinetuneConfig:
    """A run of a tiny model; `changes` are model keys."""
    c = finetune.get_config("custom", "tiny")
    model = configs.to_dict(tiny_config(num_layers=2).model) | {"decoder": "none"} | changes
    c.model = ConfigDict(model)
    c.objective, c.data.dir, c.steps, c.optimizer.warmup_steps = kind, "nowhere", 0, 0
    return configs.build(c)


def meta_of(config: Any, **changes: Any) -> dict[str, Any]:
    meta = {"config": configs.to_dict(config), "tokenizer": TOKENIZER, "manifests": ["m"], "top_id": None}
    return json.loads(json.dumps(meta | changes))


def head_of(labels: tuple[str, ...], activation: str = "gelu") -> HeadConfig:
    return HeadConfig(labels=labels, pooler_activation=activation, pooler_dropout=0.0, classifier_dropout=0.1)


@functools.cache
def drawn(head: str, labels: tuple[str, ...] = ()) -> Any:
    config = tiny_config(num_layers=2) if head in ("mlm", "encoder") else task_config()
    shapes = jax.eval_shape(init_of(head, config.model, head_of(labels) if labels else None), jax.random.key(0))
    return scrambled(shapes, seed=len(labels) + len(head))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory) -> Path:
    """A pretraining run "run" and a pair "pair"; converted "encoder"; fine-tuned "mnli", and "theirs" converted from it
    with its labels in another order; "tanh" with another pooler; "tags"."""
    root, single, task = tmp_path_factory.mktemp("workdirs"), tiny_config(num_layers=2), task_config()
    pair = tiny_pair_config()
    save_run(root / "run", single, drawn("mlm"), meta_of(single))
    save_run(root / "pair", pair, scrambled(build_run(pair, LEXICON).abstract.params, seed=3), meta_of(pair))
    save_run(root / "encoder", single, drawn("encoder"), meta_of(single, head="encoder", head_config=None))
    for name, head, head_cfg in [
        ("mnli", "sequence_classification", head_of(LABELS)),
        ("theirs", "sequence_classification", head_of(THEIRS)),
        ("tanh", "sequence_classification", head_of(LABELS, "tanh")),
        ("tags", "token_classification", head_of(("O", "B-X"))),
    ]:
        said = {"head": head, "head_config": dataclasses.asdict(head_cfg)}
        save_run(root / name, task, drawn(head, head_cfg.labels), meta_of(task, **said))
    return root


@functools.cache
def run_of(config: FinetuneConfig, labels: tuple[str, ...]) -> Run:
    """A run whose fresh parameters are drawn."""
    run = build_run(dataclasses.replace(config, steps=10), labels)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), run.abstract)
    state = zeros.replace(params=scrambled(run.abstract.params, seed=9))
    return dataclasses.replace(run, fresh=lambda: state)


def started(workdirs: Path, name: str, tmp_path: Path, config: FinetuneConfig, labels: tuple[str, ...]) -> Any:
    """The parameters that a run starts with from a workdir."""
    run = run_of(config, labels)
    config = dataclasses.replace(run.config, init_from=str(workdirs / name))
    return starting_state(dataclasses.replace(run, config=config), tmp_path, meta_of(config)).params


def same(tree: Any, other: Any) -> bool:
    """Whether two trees are equal bit for bit; the first may lack what the second has."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    wanted = dict(jax.tree_util.tree_leaves_with_path(other))
    return all(np.array_equal(leaf, wanted[path]) for path, leaf in flat)


def without_positions(encoder: Any) -> Any:
    """A decoder's table is of no use to a task."""
    return encoder | {"embeddings": {k: v for k, v in encoder["embeddings"].items() if k != "position"}}


@pytest.mark.parametrize("name", ["run", "encoder"])
def test_a_pretrained_encoder_is_taken_and_the_head_is_fresh(name, workdirs, tmp_path, caplog):
    params = started(workdirs, name, tmp_path, task_config(), LABELS)
    source = drawn("mlm")["encoder"] if name == "run" else drawn("encoder")
    assert same(params["encoder"], without_positions(source))
    fresh = run_of(task_config(), LABELS).fresh().params
    assert same({k: params[k] for k in ("pooler", "classifier")}, {k: fresh[k] for k in ("pooler", "classifier")})
    assert "the rest of the head starts afresh" in caplog.text


def test_of_a_pair_the_discriminator_is_taken_with_its_whole_word_table(workdirs, tmp_path):
    pair = scrambled(build_run(tiny_pair_config(), LEXICON).abstract.params, seed=3)
    config = task_config(**{"num_layers": tiny_pair_config().model.num_layers})
    params = started(workdirs, "pair", tmp_path, config, LABELS)
    own = pair["discriminator"]["encoder"]["embeddings"]
    word = pair["generator"]["encoder"]["embeddings"]["word"] + own["word_delta"]
    np.testing.assert_array_equal(params["encoder"]["embeddings"]["word"], word)
    assert same(params["encoder"]["last"], pair["discriminator"]["encoder"]["last"])


def test_another_task_of_the_same_labels_gives_its_whole_head(workdirs, tmp_path, caplog):
    params = started(workdirs, "mnli", tmp_path, task_config(), LABELS)
    assert same(params, drawn("sequence_classification", LABELS))
    assert "afresh" not in caplog.text


def test_labels_in_another_order_and_case_are_put_in_ours(workdirs, tmp_path):
    params, theirs = (
        started(workdirs, "theirs", tmp_path, task_config(), LABELS),
        drawn("sequence_classification", THEIRS),
    )
    for name in ("kernel", "bias"):
        found, wanted = np.asarray(params["classifier"][name]), np.asarray(theirs["classifier"][name])
        for place, label in enumerate(LABELS):
            np.testing.assert_array_equal(found[..., place], wanted[..., THEIRS.index(label.upper())])
    assert same(params["pooler"], theirs["pooler"])


CASED = ("Yes", "No", "yes")  # a messy column of labels


@pytest.mark.parametrize("order", [CASED, CASED[::-1], ("No", "yes", "Yes")])
def test_labels_that_differ_in_case_alone_are_kept_apart(order, tmp_path):
    said = {"head": "sequence_classification", "head_config": dataclasses.asdict(head_of(CASED))}
    theirs = drawn("sequence_classification", CASED)
    save_run(tmp_path / "cased", task_config(), theirs, meta_of(task_config(), **said))
    found = started(tmp_path, "cased", tmp_path / "run", task_config(), order)["classifier"]
    for place, label in enumerate(order):
        for name, leaf in found.items():
            np.testing.assert_array_equal(leaf[..., place], theirs["classifier"][name][..., CASED.index(label)])


def test_labels_that_differ_in_case_are_others_where_they_may_be_mistaken(tmp_path, caplog):
    said = {"head": "sequence_classification", "head_config": dataclasses.asdict(head_of(CASED))}
    save_run(tmp_path / "cased", task_config(), drawn("sequence_classification", CASED), meta_of(task_config(), **said))
    started(tmp_path, "cased", tmp_path / "run", task_config(), ("YES", "no", "yes"))
    assert "has the labels Yes, No, yes, the task YES, no, yes" in caplog.text


def test_the_one_output_of_a_regression_may_have_any_name(tmp_path):
    said = {"head": "sequence_classification", "head_config": dataclasses.asdict(head_of(("LABEL_0",)))}
    theirs = drawn("sequence_classification", ("LABEL_0",))
    save_run(tmp_path / "unnamed", task_config("regression"), theirs, meta_of(task_config("regression"), **said))
    assert same(started(tmp_path, "unnamed", tmp_path / "run", task_config("regression"), ("score",)), theirs)


def test_other_labels_start_a_fresh_classifier_behind_the_pooler(workdirs, tmp_path, caplog):
    params = started(workdirs, "mnli", tmp_path, task_config(), ("entailment", "not_entailment"))
    assert same(params["pooler"], drawn("sequence_classification", LABELS)["pooler"])
    assert params["classifier"]["bias"].shape == (2,)
    assert "has the labels contradiction, neutral, entailment, the task entailment, not_entailment" in caplog.text


def test_multiple_choice_takes_the_pooler_of_a_classifier(workdirs, tmp_path):
    params = started(workdirs, "mnli", tmp_path, task_config("multiple_choice"), ())
    assert same(params["pooler"], drawn("sequence_classification", LABELS)["pooler"])
    assert params["classifier"]["bias"].shape == (1,)


@pytest.mark.parametrize("kind", ["tagging", "span"])
def test_kinds_without_a_pooler_take_the_encoder_of_a_classifier(kind, workdirs, tmp_path):
    params = started(workdirs, "mnli", tmp_path, task_config(kind), ("O", "B-X") if kind == "tagging" else ())
    assert same(params["encoder"], drawn("sequence_classification", LABELS)["encoder"])
    assert "pooler" not in params


def test_another_pooler_is_refused(workdirs, tmp_path):
    with pytest.raises(Refused, match="has a pooler with 'tanh', head.pooler_activation is 'gelu'"):
        started(workdirs, "tanh", tmp_path, task_config(), LABELS)


def test_another_architecture_is_refused_by_the_key(workdirs, tmp_path):
    with pytest.raises(Refused, match="model.position_buckets 8, the config says 4"):
        started(workdirs, "run", tmp_path, task_config(position_buckets=4), LABELS)


def test_a_task_is_predicted_with_its_own_head(workdirs):
    _, params = task_params(run_of(task_config(), LABELS), workdirs / "mnli")
    assert same(params, drawn("sequence_classification", LABELS))


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("mnli", ("0", "1"), "its head has the labels contradiction, neutral, entailment, the task 0, 1"),
        ("run", LABELS, "its head is 'mlm', the task's 'sequence_classification'"),
        ("tags", LABELS, "its head is 'token_classification', the task's 'sequence_classification'"),
        ("nothing", LABELS, "holds no complete checkpoint"),
    ],
)
def test_what_has_another_head_cannot_predict(name, labels, message, workdirs):
    with pytest.raises(Refused, match=message):
        task_params(run_of(task_config(), labels), workdirs / name)


def test_the_word_table_has_as_many_rows_as_that_of_the_source(workdirs):
    assert pretrained_vocabulary(str(workdirs / "run")) == VOCABULARY
    assert pretrained_vocabulary("") == 0
