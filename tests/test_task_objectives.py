"""What each kind of task costs: against NumPy on the model's own logits, and however the batch is computed."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from builders import COMPILE_FAST, scrambled
from configs import meshes
from deberta_jax.dist.axes import batch_sharding, shardings_of, unboxed
from deberta_jax.dist.mesh import make_mesh
from deberta_jax.model.heads import MultipleChoice, QuestionAnswering, SequenceClassifier, TokenClassifier
from deberta_jax.objectives import OBJECTIVES
from deberta_jax.objectives.tasks import NOT_OFFERED, head_of_task
from deberta_jax.tasks.examples import KINDS
from deberta_jax.train.optimizer import named_leaves
from deberta_jax.train.step import batch_gradients
from task_builders import CHOICES, LABELS, task_batch, task_config

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
CLASSIFYING = {"classification": SequenceClassifier, "regression": SequenceClassifier, "tagging": TokenClassifier}
OUT = {"classification": 3, "regression": 1, "multiple_choice": 1, "tagging": 3, "span": 2}  # of the last layer
KEY = jax.random.key(7)


@functools.cache
def objective(kind):
    return OBJECTIVES[kind](task_config(kind), LABELS[kind])


@functools.cache
def shapes(kind):
    return jax.eval_shape(objective(kind).init, jax.random.key(0))


@functools.cache
def params(kind):
    return scrambled(shapes(kind))


@functools.cache
def model(kind):
    run = task_config(kind)
    if kind == "span":
        return QuestionAnswering(run.model)
    names = LABELS[kind] or ("score",)
    return CLASSIFYING.get(kind, MultipleChoice)(run.model, run.head.with_labels(names))


@functools.cache
def compiled(kind):
    """(params, batch) -> everything these tests ask of a kind, in one program."""

    def everything(params, batch):
        run, weights = objective(kind), objective(kind).weights(batch)
        inputs = ({"params": params}, batch["input_ids"], batch["documents"])
        loss, (sums, found) = run.parts[0].loss(params, batch, KEY, weights)
        noise = {"deterministic": False, "rows": batch["rows"], "rngs": {"dropout": KEY}}
        return {
            "evaluated": run.evaluate(params, batch),
            "predicted": run.predict(params, batch),
            "logits": model(kind).apply(*inputs, deterministic=True),
            "loss": loss,
            "sums": sums,
            "found": found,
            "noisy_logits": model(kind).apply(*inputs, **noise),
        }

    return jax.jit(everything, compiler_options=COMPILE_FAST)


def results(kind, batch, changed=None):
    return jax.device_get(compiled(kind)(params(kind) if changed is None else changed, batch))


def log_of_probability(logits, index) -> float:
    """Of one distribution, in float64."""
    logits = np.asarray(logits, np.float64)
    return float(logits[index] - logits.max() - np.log(np.exp(logits - logits.max()).sum()))


def items(kind, logits, batch):
    """(loss, whether it is right) of all that counts in the batch, one at a time; right is None of a regression."""
    for row in range(len(batch["examples"])):
        if kind == "tagging":
            for place in np.flatnonzero(batch["weights"][row]):
                label = batch["labels"][row, place]
                yield -log_of_probability(logits[row, place], label), label == np.argmax(logits[row, place])
            continue
        if batch["weights"][row] == 0:
            continue
        if kind == "regression":
            yield (float(logits[row, 0]) - float(batch["values"][row])) ** 2, None
        elif kind == "span":
            real = np.flatnonzero(batch["documents"][row])
            gold = batch["starts"][row], batch["ends"][row]
            both = [each[row][real] for each in logits]
            losses = [-log_of_probability(each, place) for each, place in zip(both, gold, strict=True)]
            yield sum(losses) / 2, all(np.argmax(each) == place for each, place in zip(both, gold, strict=True))
        else:
            yield -log_of_probability(logits[row], batch["labels"][row]), batch["labels"][row] == np.argmax(logits[row])


def slow_sums(kind, logits, batch) -> dict:
    losses, right = zip(*items(kind, logits, batch), strict=True)
    sums = {"loss": (sum(losses), len(losses))}
    return sums if kind == "regression" else sums | {"accuracy": (sum(right), len(right))}


def assert_sums(found, expected):
    assert found.keys() == expected.keys()
    for name, (total, weight) in expected.items():
        assert found[name][0] == pytest.approx(total, rel=2e-5), name
        assert found[name][1] == weight, name


def with_right_answers(kind, batch):
    """The batch with the model's own guesses as the gold of its first six rows, so that accuracy is neither 0 nor 1."""
    logits, guessed = results(kind, batch)["logits"], {}
    if kind == "span":
        masked = [np.where(batch["documents"] > 0, each, -np.inf).argmax(-1) for each in logits]
        guessed = dict(zip(("starts", "ends"), masked, strict=True))
    elif kind != "regression":
        guessed = {"labels": np.argmax(logits, axis=-1)}
    batch = {name: values.copy() for name, values in batch.items()}
    for name, values in guessed.items():
        batch[name][:6] = values[:6]
    if kind == "span":
        batch["ends"][5] = batch["documents"][5].sum() - 1 - batch["ends"][5]  # one of two right is not right
    return batch


@EVERY_KIND
def test_sums_are_those_of_numpy_on_the_models_logits(kind):
    batch = with_right_answers(kind, task_batch(kind))
    found = results(kind, batch)
    expected = slow_sums(kind, found["logits"], batch)
    assert_sums(found["evaluated"], expected)
    assert expected["loss"][1] == batch["weights"].sum() and expected["loss"][1] > 10
    if kind != "regression":
        assert 0 < expected["accuracy"][0] < expected["accuracy"][1]


@EVERY_KIND
def test_training_drops_out_and_divides_by_the_weights_of_the_batch(kind):
    batch = task_batch(kind)
    found = results(kind, batch)
    expected = slow_sums(kind, found["noisy_logits"], batch)
    assert_sums(found["sums"], expected)
    assert found["loss"] == pytest.approx(expected["loss"][0] / batch["weights"].sum(), rel=2e-5)
    assert abs(found["loss"] - found["evaluated"]["loss"][0] / batch["weights"].sum()) > 1e-4
    assert found["found"] == {}


@EVERY_KIND
def test_the_weight_of_a_batch_is_what_counts_in_it_and_at_least_one(kind):
    batch = task_batch(kind)
    assert objective(kind).weights(batch) == {"task": batch["weights"].sum()}
    assert objective(kind).weights(batch | {"weights": np.zeros_like(batch["weights"])}) == {"task": 1}


@EVERY_KIND
def test_predictions_are_outputs_of_the_rows_by_their_numbers(kind):
    batch = task_batch(kind)
    found = results(kind, batch)
    (numbers, outputs), sums = found["predicted"]
    np.testing.assert_array_equal(numbers, batch["examples"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), sums, found["evaluated"])
    logits, offered = found["logits"], batch["documents"] > 0
    expected = {
        "classification": lambda: logits,
        "regression": lambda: logits[:, 0],
        "multiple_choice": lambda: np.where(offered[:, :, 0], logits, NOT_OFFERED),
        "tagging": lambda: logits,
        "span": lambda: tuple(np.where(offered, each, NOT_OFFERED) for each in logits),
    }[kind]()
    assert jax.tree.structure(outputs) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True):
        assert one.dtype == np.float32 and one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def garbled(kind, batch):
    """The batch with other tokens where there are none, and other golds and tokens where nothing counts."""
    rng = np.random.default_rng(1)
    other = {name: values.copy() for name, values in batch.items()}
    drawn = rng.integers(5, 100, batch["input_ids"].shape).astype(np.int32)
    without = batch["weights"].reshape(len(batch["weights"]), -1).sum(1) == 0
    assert without.sum() >= 5
    other["input_ids"] = np.where(batch["documents"] > 0, batch["input_ids"], drawn)
    other["input_ids"][without] = drawn[without]
    for name in {"labels", "starts", "ends"} & batch.keys():
        uncounted = batch["weights"] == 0 if batch[name].shape == batch["weights"].shape else without
        other[name] = np.where(uncounted, (batch[name] + 1) % 3, batch[name]).astype(np.int32)
    if kind == "regression":
        other["values"] = np.where(without, np.float32(50), batch["values"])
    return other


@EVERY_KIND
def test_padding_fillers_and_what_has_no_gold_do_not_count(kind):
    batch = task_batch(kind)
    one, two = results(kind, batch), results(kind, garbled(kind, batch))
    for name in ("evaluated", "sums", "loss"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one[name], two[name])


@EVERY_KIND
def test_a_batch_without_any_gold_costs_nothing(kind):
    batch = task_batch(kind)
    found = results(kind, batch | {"weights": np.zeros_like(batch["weights"])})
    assert found["loss"] == 0 and all(pair == (0, 0) for pair in found["evaluated"].values())


def test_an_option_that_is_not_there_has_no_probability():
    batch = task_batch("multiple_choice")
    batch["documents"][:6, 2], batch["labels"][:6] = 0, np.arange(6) % 2
    found = results("multiple_choice", batch)
    (_, outputs), _ = found["predicted"]
    assert (np.exp(outputs[:6] - outputs[:6].max(-1, keepdims=True))[:, 2] == 0).all()
    assert (outputs[batch["documents"][:, :, 0] > 0] > -100).all()
    expected = [
        -log_of_probability(logits[: 2 if row < 6 else CHOICES], label)
        for row, (logits, label) in enumerate(zip(found["logits"], batch["labels"], strict=True))
    ]
    total = sum(loss * weight for loss, weight in zip(expected, batch["weights"], strict=True))
    assert found["evaluated"]["loss"][0] == pytest.approx(total, rel=2e-5)


def test_a_place_of_padding_has_no_probability():
    batch = task_batch("span")
    (_, outputs), _ = results("span", batch)["predicted"]
    for each in outputs:
        shares = np.exp(each - each.max(-1, keepdims=True))
        real = batch["documents"] > 0
        assert (shares[~real & (real.any(1, keepdims=True))] == 0).all()
        assert (each[real] > -100).all()


@EVERY_KIND
def test_a_head_that_knows_nothing_costs_what_guessing_does(kind):
    batch = task_batch(kind)
    last = "outputs" if kind == "span" else "classifier"
    blank = {**params(kind), last: jax.tree.map(np.zeros_like, params(kind)[last])}
    total, weight = results(kind, batch, blank)["evaluated"]["loss"]
    expected = {
        "classification": lambda: math.log(3) * weight,
        "regression": lambda: (batch["values"].astype(np.float64) ** 2 * batch["weights"]).sum(),
        "multiple_choice": lambda: math.log(CHOICES) * weight,
        "tagging": lambda: math.log(3) * weight,
        "span": lambda: (np.log(np.maximum(batch["documents"].sum(1), 1)) * batch["weights"]).sum(),
    }[kind]()
    assert total == pytest.approx(expected, rel=1e-6)


@EVERY_KIND
def test_fresh_parameters_are_those_of_the_head(kind):
    head, settings = head_of_task(task_config(kind), LABELS[kind])
    tree = dict(named_leaves(unboxed(shapes(kind))))
    last = "outputs" if kind == "span" else "classifier"
    assert tree[f"{last}/kernel"].shape == (32, OUT[kind]) and tree[f"{last}/bias"].shape == (OUT[kind],)
    assert ("pooler/dense/kernel" in tree) == (kind in ("classification", "regression", "multiple_choice"))
    assert (settings is None) == (kind == "span") == (head == "question_answering")
    if settings:
        assert settings.labels == (LABELS[kind] or ("score",))
        assert settings.classifier_dropout == task_config(kind).head.classifier_dropout > 0


def test_every_kind_has_an_objective():
    assert set(OBJECTIVES) == {"mlm", "rtd", *KINDS}
    for kind in KINDS:
        assert objective(kind).groups == ("",) and not objective(kind).joint
        summary = objective(kind).summary({"loss": (3.0, 2.0), "accuracy": (1.0, 0.0)})
        assert summary == {"loss": 1.5} and objective(kind).conclusion(summary) == "loss 1.5000"


@functools.cache
def gradients_on(kind, devices, sizes, rules, micro_batches):
    """(params, key) -> (gradients, loss, sums) of the same 16 rows with dropout, on so many devices."""
    mesh = make_mesh(tuple(zip(("data", "fsdp", "tensor"), sizes, strict=True)), jax.devices()[:devices])
    function = functools.partial(batch_gradients, objective(kind), micro_batches=micro_batches)
    program = jax.jit(function, compiler_options=COMPILE_FAST)

    def gradients(params, key):
        with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
            params = jax.device_put(params, shardings_of(shapes(kind), rules, mesh))
            batch = jax.device_put(task_batch(kind), batch_sharding(rules, mesh))
            return jax.device_get(program(params, batch, key))

    return gradients


ONE_DEVICE = (1, (1, 1, 1), meshes.dp, 1)
EIGHT_DEVICES = (8, (8, 1, 1), meshes.dp, 2)  # in two micro-batches of a row for each
SPLIT_MODEL = (8, (2, 2, 2), meshes.fsdp_tp, 2)


@functools.cache
def fresh(kind):
    init = jax.jit(lambda key: unboxed(objective(kind).init(key)), compiler_options=COMPILE_FAST)
    return jax.device_get(init(jax.random.key(0)))


@pytest.mark.parametrize(
    ("kind", "layout"),
    [*((kind, EIGHT_DEVICES) for kind in KINDS), ("multiple_choice", SPLIT_MODEL)],
    ids=[*KINDS, "multiple_choice, the model split"],
)
def test_loss_and_gradients_do_not_depend_on_how_the_batch_is_computed(kind, layout):
    one, other = gradients_on(kind, *ONE_DEVICE), gradients_on(kind, *layout)
    for key in (1, 2):
        (gradients, loss, sums), (others, other_loss, other_sums) = (
            each(fresh(kind), jax.random.key(key)) for each in (one, other)
        )
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
        worst = jax.tree.map(lambda a, b, largest=largest: np.abs(a - b).max() / largest, gradients, others)
        assert largest > 1e-4 and max(jax.tree.leaves(worst)) <= 1e-6, worst
        assert loss == pytest.approx(other_loss, rel=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), sums, other_sums)
        assert loss == pytest.approx(sums["loss"][0] / task_batch(kind)["weights"].sum(), rel=1e-6)


def test_that_comparison_would_notice_other_dropout_bits():
    for kind in KINDS:
        losses = [gradients_on(kind, *ONE_DEVICE)(fresh(kind), jax.random.key(key))[1] for key in (1, 2)]
        assert abs(losses[0] - losses[1]) > 1e-5 * abs(losses[0])


def test_the_batches_are_ragged_enough_to_tell_a_mean_of_means_from_a_mean():
    for kind in KINDS:
        counts = task_batch(kind)["weights"].reshape(16, -1).sum(1)
        assert counts[:13].min() == 0 and not counts[13:].any()
        assert counts[::2].sum() != counts[1::2].sum()


SIFT = {"weight": 2.0, "learning_rate": 0.05, "initial": 0.02, "steps": 1, "loss": "symmetric-kl"}


def test_scale_invariant_fine_tuning_pushes_each_option_of_each_row():
    """With a random start and noise of its own: however the batch is split, they are the same."""
    run = OBJECTIVES["multiple_choice"](task_config("multiple_choice", sift=SIFT), ())
    batch = task_batch("multiple_choice")

    def of_rows(rows):
        part = {name: jnp.asarray(values[rows]) for name, values in batch.items()}
        return run.parts[0].loss(params("multiple_choice"), part, KEY, {"task": jnp.float32(1)})[1][0]

    both = jax.jit(lambda: [of_rows(slice(None, None, 2)), of_rows(slice(1, None, 2))], compiler_options=COMPILE_FAST)
    whole = jax.jit(lambda: of_rows(slice(None)), compiler_options=COMPILE_FAST)
    parts, sums = jax.device_get(both()), jax.device_get(whole())
    assert set(sums) == {"loss", "accuracy", "adversarial_loss"} and sums["adversarial_loss"][0] > 0
    for name, (total, weight) in sums.items():
        assert total == pytest.approx(parts[0][name][0] + parts[1][name][0], rel=1e-5), name
        assert weight == parts[0][name][1] + parts[1][name][1]
