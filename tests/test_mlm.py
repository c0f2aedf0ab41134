import functools

import jax
import numpy as np
import pytest

from builders import COMPILE_FAST, LEXICON, packed_batch, scrambled, tiny_config
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.objectives import OBJECTIVES, mlm

TOP_ID = LEXICON.top_id
OBJECTIVE = OBJECTIVES["mlm"](tiny_config(), LEXICON)
evaluate = jax.jit(OBJECTIVE.evaluate, compiler_options=COMPILE_FAST)
predict = jax.jit(
    functools.partial(mlm.predict, MaskedLM(tiny_config().model)), static_argnums=2, compiler_options=COMPILE_FAST
)
loss_of = jax.jit(OBJECTIVE.parts[0].loss, compiler_options=COMPILE_FAST)


@functools.cache
def params():
    return scrambled(jax.eval_shape(OBJECTIVE.init, jax.random.key(0)))


def batch_with_known_answers():
    """A batch in which the label is the best guess in slots 0 and 2, and TOP_ID in slot 1."""
    batch = packed_batch()
    best = np.asarray(predict(params(), batch, 1)[0])[..., 0]
    batch["labels"][:, [0, 2]] = best[:, [0, 2]]
    batch["labels"][:, 1] = TOP_ID
    batch["labels"][:, 3:] = (best[:, 3:] + 1) % 100
    return batch, best


def test_sums_count_each_used_slot_once():
    batch, best = batch_with_known_answers()
    sums = evaluate(params(), batch)
    used = batch["weights"] > 0
    assert set(sums) == {"loss", "accuracy", "baseline_accuracy"}
    assert all(weight == used.sum() for _, weight in sums.values())
    assert sums["accuracy"][0] == (best == batch["labels"])[used].sum() > 0
    assert sums["baseline_accuracy"][0] == (batch["labels"] == TOP_ID)[used].sum() > 0


def test_the_loss_is_minus_the_log_probability_of_the_labels():
    batch, _ = batch_with_known_answers()
    ids, probabilities = (np.asarray(x) for x in predict(params(), batch, 100))
    of_label = (probabilities * (ids == batch["labels"][..., None])).sum(-1)
    expected = -(np.log(of_label) * batch["weights"]).sum()
    assert evaluate(params(), batch)["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_what_stands_in_unused_slots_does_not_matter():
    batch = packed_batch()
    unused = batch["weights"] == 0
    other = {name: values.copy() for name, values in batch.items()}
    other["masked_positions"][unused] = 5
    other["labels"][unused] = TOP_ID
    one, two = evaluate(params(), batch), evaluate(params(), other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, two)


def test_sums_of_parts_add_to_the_sums_of_the_batch():
    batch = packed_batch(rows=6)
    whole = evaluate(params(), batch)
    parts = [
        evaluate(params(), {name: values[part] for name, values in batch.items()}) for part in (slice(3), slice(3, 6))
    ]
    total = jax.tree.map(lambda a, b: a + b, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, total)


def test_predictions_are_the_best_ids_with_their_probabilities():
    ids, probabilities = (np.asarray(x) for x in predict(params(), packed_batch(), 100))
    assert ids.shape == probabilities.shape == (4, 6, 100)
    assert (np.diff(probabilities, axis=-1) <= 0).all()
    assert (np.sort(ids, axis=-1) == np.arange(100)).all()  # every id, and none of the 28 rows that are no token
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


def test_training_drops_out_and_divides_by_the_weights_it_is_given():
    batch = packed_batch()
    weights = OBJECTIVE.weights(batch)
    assert weights == {"mlm": batch["weights"].sum()}
    run = lambda seed, weights: jax.device_get(loss_of(params(), batch, jax.random.key(seed), weights))  # noqa: E731
    (loss, (sums, _)), (other, _) = run(0, weights), run(1, weights)
    assert loss == pytest.approx(sums["loss"][0] / batch["weights"].sum(), rel=1e-6)
    assert loss != other
    half, _ = run(0, {"mlm": 2 * weights["mlm"]})
    assert half == pytest.approx(loss / 2, rel=1e-6)


def test_a_batch_without_predictions_weighs_one_rather_than_nothing():
    batch = packed_batch()
    assert OBJECTIVE.weights(batch | {"weights": np.zeros_like(batch["weights"])}) == {"mlm": 1}


def test_the_mask_tokens_row_is_looked_up_by_itself():
    batch = packed_batch()
    program = jax.make_jaxpr(OBJECTIVE.parts[0].loss)(params(), batch, jax.random.key(0), OBJECTIVE.weights(batch))
    assert str(program).count("name=lookup") == 1
