import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from builders import COMPILE_FAST, LEXICON, packed_batch, scrambled, tiny_pair_config
from deberta_jax.model.replaced_token import ReplacedTokenDetector
from deberta_jax.objectives import OBJECTIVES, Lexicon, mlm
from deberta_jax.objectives.embedding_sharing import DISCRIMINATOR, GENERATOR
from deberta_jax.objectives.rtd import DRAWING, JUDGING, PREDICTING, Pair, corrupted, judgement_sums

CONFIG = tiny_pair_config()
OBJECTIVE = OBJECTIVES["rtd"](CONFIG, LEXICON)
evaluate = jax.jit(OBJECTIVE.evaluate, compiler_options=COMPILE_FAST)
predicting = jax.jit(OBJECTIVE.parts[0].loss, compiler_options=COMPILE_FAST)
judging = jax.jit(OBJECTIVE.parts[1].loss, compiler_options=COMPILE_FAST)
KEY = jax.random.key(1)
WEIGHTS = {"mlm": np.float32(20), "rtd": np.float32(200)}


@functools.cache
def params():
    return scrambled(jax.eval_shape(OBJECTIVE.init, jax.random.key(0)))


def drawn_in(batch, key=KEY, of=params):
    return np.asarray(predicting(of(), batch, key, WEIGHTS)[1][1]["drawn"])


def rows_of(batch, rows):
    return {name: values[rows] for name, values in batch.items()}


def batch_with_lucky_draws():
    """Drawn ids of which every third is the label; row 0 masks its first position, row 1 leaves all slots empty."""
    batch = packed_batch(8)
    rng = np.random.default_rng(0)
    batch["masked_positions"][0, :2], batch["weights"][0], batch["labels"][0, :2] = [0, 3], 0, [8, 9]
    batch["weights"][0, :2] = 1
    batch["masked_positions"][0, 2:], batch["weights"][1], batch["masked_positions"][1] = 0, 0, 0
    drawn = rng.integers(5, 100, batch["labels"].shape).astype(np.int32)
    return batch, np.where(rng.random(drawn.shape) < 1 / 3, batch["labels"], drawn)


def slow_corrupted(batch, drawn):
    """A row as a list: the original tokens, those drawn, and where they differ."""
    filled, differs = batch["input_ids"].copy(), np.zeros(batch["input_ids"].shape, bool)
    for row, slot in zip(*np.nonzero(batch["weights"]), strict=True):
        place = batch["masked_positions"][row, slot]
        filled[row, place] = drawn[row, slot]
        differs[row, place] = drawn[row, slot] != batch["labels"][row, slot]
    return filled, differs


def test_a_token_is_replaced_where_another_than_its_own_was_drawn():
    batch, drawn = batch_with_lucky_draws()
    filled, is_replaced = (np.asarray(x) for x in corrupted(batch, drawn))
    expected = slow_corrupted(batch, drawn)
    np.testing.assert_array_equal(filled, expected[0])
    np.testing.assert_array_equal(is_replaced, expected[1])
    used = batch["weights"] > 0
    lucky = used & (drawn == batch["labels"])
    assert lucky.sum() > 0 and is_replaced.sum() == used.sum() - lucky.sum() > 0
    assert filled[0, 0] == drawn[0, 0] and not is_replaced[1].any()


def test_a_mask_token_that_stays_is_judged_by_what_was_drawn_not_by_what_stood_there():
    batch, _ = batch_with_lucky_draws()
    filled, is_replaced = corrupted(batch, batch["labels"])
    assert not is_replaced.any()
    assert (np.asarray(filled) != batch["input_ids"]).any()


def test_what_stands_in_unused_slots_changes_nothing():
    batch, drawn = batch_with_lucky_draws()
    before = corrupted(batch, drawn)
    unused = batch["weights"] == 0
    for place in (0, 5):
        batch["masked_positions"][unused], batch["labels"][unused], drawn[unused] = place, 50, 60
        jax.tree.map(np.testing.assert_array_equal, corrupted(batch, drawn), before)


def test_draws_follow_the_key_and_the_rows_number():
    batch, order = packed_batch(8), np.array([2, 0, 3, 1, 7, 6, 4, 5])
    before = drawn_in(batch)
    np.testing.assert_array_equal(drawn_in(rows_of(batch, order)), before[order])
    assert (drawn_in(batch, jax.random.key(2)) != before).mean() > 0.5
    assert (drawn_in(batch | {"rows": batch["rows"] + 100}) != before).mean() > 0.5
    alike = rows_of(batch, np.zeros(8, int))
    assert (drawn_in(alike) == before[0]).all()
    assert (drawn_in(alike | {"rows": batch["rows"]})[1:] != before[0]).mean() > 0.5


CALM = tiny_pair_config(model={"hidden_dropout": 0.0, "attention_dropout": 0.0})
SHORT_LEXICON = Lexicon(
    top_id=7, size=90, special_ids=LEXICON.special_ids, mask_id=4
)  # the table has 100 ids, and 28 rows more
without_dropout = jax.jit(OBJECTIVES["rtd"](CALM, SHORT_LEXICON).parts[0].loss, compiler_options=COMPILE_FAST)


def test_no_special_id_and_none_beyond_the_tokenizers_is_ever_drawn():
    """However probable the generator finds them."""
    bias = np.zeros(128, np.float32)
    bias[list(LEXICON.special_ids)] = bias[90:] = 50
    generator = params()[GENERATOR] | {"head": params()[GENERATOR]["head"] | {"bias": bias}}
    tempted, batch = params() | {GENERATOR: generator}, packed_batch(8)
    found = [without_dropout(tempted, batch, jax.random.key(seed), WEIGHTS)[1][1] for seed in range(20)]
    ids = np.stack([each["drawn"] for each in found])
    assert ids.min() >= 5 and ids.max() < 90
    assert len(np.unique(ids)) > 40


def test_each_slot_of_each_row_has_draws_of_its_own():
    """Equal rows, each slot at the same place, no dropout: nothing but the draws can differ."""
    alike = rows_of(packed_batch(8), np.zeros(8, int)) | {"rows": packed_batch(8)["rows"]}
    alike["masked_positions"][:] = 3
    ids = np.asarray(without_dropout(params(), alike, KEY, WEIGHTS)[1][1]["drawn"])
    assert np.unique(ids, axis=0).shape == np.unique(ids, axis=1).shape == ids.shape == (8, 6)


def test_draws_are_from_the_generators_training_distribution_at_its_temperature():
    """Near temperature 0 only its best allowed id is left, dropout included."""
    cold = tiny_pair_config(temperature=1e-4)
    pair, batch = Pair.of(cold, LEXICON), packed_batch(8)
    loss = jax.jit(OBJECTIVES["rtd"](cold, LEXICON).parts[0].loss, compiler_options=COMPILE_FAST)
    logits = jax.jit(functools.partial(mlm.table_logits, pair.generator), compiler_options=COMPILE_FAST)
    logits_bpv = np.asarray(logits(params()[GENERATOR], batch, jax.random.fold_in(KEY, PREDICTING)))
    best = np.where(pair.drawn_v, logits_bpv, -np.inf).argmax(-1)
    np.testing.assert_array_equal(loss(params(), batch, KEY, WEIGHTS)[1][1]["drawn"], best)
    assert (best != drawn_in(batch)).mean() > 0.2


def test_the_uses_of_a_steps_key_are_different():
    assert len({PREDICTING, DRAWING, JUDGING}) == 3


def test_no_gradient_flows_through_the_draws():
    """The generator learns what it would learn alone."""
    alone = dataclasses.replace(CONFIG, objective="mlm", model=CONFIG.rtd.generator, rtd=None)
    compiled = [
        jax.jit(jax.grad(objective.parts[0].loss, has_aux=True), compiler_options=COMPILE_FAST)
        for objective in (OBJECTIVE, OBJECTIVES["mlm"](alone, LEXICON))
    ]
    batch = packed_batch(8)
    of_pair, _ = compiled[0](params(), batch, KEY, WEIGHTS)
    expected, _ = compiled[1](params()[GENERATOR], batch, jax.random.fold_in(KEY, PREDICTING), WEIGHTS)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), of_pair[GENERATOR], expected
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_pair[DISCRIMINATOR]))


def test_the_generators_loss_is_divided_by_the_weight_it_is_given():
    batch = packed_batch(8)
    loss, (sums, _) = predicting(params(), batch, KEY, WEIGHTS)
    total, count = sums["generator/loss"]
    assert count == batch["weights"].sum()
    assert float(loss) == pytest.approx(float(total) / 20, rel=1e-6)


def test_the_discriminators_loss_is_that_of_the_filled_rows_weighed_and_divided():
    batch, drawn = batch_with_lucky_draws()
    loss, (sums, found) = judging(params(), batch | {"drawn": drawn}, KEY, WEIGHTS)
    filled, is_replaced = slow_corrupted(batch, drawn)
    whole = Pair.of(CONFIG, LEXICON).sharing.discriminator(params())
    judge = jax.jit(
        functools.partial(ReplacedTokenDetector(CONFIG.model).apply, deterministic=False), compiler_options=COMPILE_FAST
    )
    inputs, key = (filled, batch["documents"], batch["positions"]), jax.random.fold_in(KEY, JUDGING)
    logit = judge({"params": whole}, *inputs, rows=batch["rows"], rngs={"dropout": key})
    signed = np.where(is_replaced, -1, 1) * np.float64(logit)
    expected = np.logaddexp(0, signed)[batch["documents"] > 0].sum()
    assert float(sums["discriminator/loss"][0]) == pytest.approx(expected, rel=1e-5)
    assert float(loss) == pytest.approx(CONFIG.rtd.loss_weight * expected / 200, rel=1e-5)
    assert found == {}


def test_the_weights_are_the_predictions_and_the_real_tokens_of_the_whole_batch():
    batch = packed_batch(8)
    weights = OBJECTIVE.weights(batch)
    assert weights == {"mlm": batch["weights"].sum(), "rtd": (batch["documents"] > 0).sum()}
    empty = {name: np.zeros_like(values) for name, values in batch.items()}
    assert OBJECTIVE.weights(empty) == {"mlm": 1, "rtd": 1}


def test_the_evaluation_of_two_halves_is_the_evaluation_of_the_whole():
    """A row is filled the same way wherever it stands."""
    batch = packed_batch(8)
    halves = [
        rows_of(batch, rows) | {"rows": np.arange(4, dtype=np.int32)} for rows in (slice(0, 8, 2), slice(1, 8, 2))
    ]
    whole, parts = evaluate(params(), batch), [evaluate(params(), half) for half in halves]
    for name, (total, weight) in whole.items():
        assert float(total) == pytest.approx(sum(float(part[name][0]) for part in parts), rel=1e-5), name
        assert weight == sum(part[name][1] for part in parts), name
    counted = {name for name in whole if not name.endswith("/loss")}
    assert all(whole[name][0] == sum(part[name][0] for part in parts) for name in counted)
    assert whole["replaced"][0] > 0


def test_an_evaluation_is_the_same_each_time_and_fills_by_the_examples_number():
    batch = packed_batch(8)
    one, again = evaluate(params(), batch), evaluate(params(), batch | {"rows": batch["rows"] + 9})
    jax.tree.map(np.testing.assert_array_equal, one, again)
    other = evaluate(params(), batch | {"examples": batch["examples"] + 100})
    assert other["generator/loss"][0] == one["generator/loss"][0]
    assert other["discriminator/loss"][0] != one["discriminator/loss"][0]


def judged_case():
    """A quarter of the tokens replaced, logits near the truth where they are real and near its opposite elsewhere."""
    rng = np.random.default_rng(0)
    is_replaced = rng.random((6, 40)) < 0.25
    real = np.arange(40)[None] < rng.integers(20, 40, (6, 1))
    return np.float32(rng.normal(size=(6, 40)) + np.where(is_replaced == real, 0.5, -0.5)), is_replaced, real


def slow_scores(logit_bl, is_replaced_bl, real_bl):
    """The table of a judge's answers, token by token, and the scores read off it."""
    table = dict.fromkeys(((called, truth) for called in (False, True) for truth in (False, True)), 0)
    loss = 0.0
    for logit, truth, real in zip(logit_bl.flat, is_replaced_bl.flat, real_bl.flat, strict=True):
        if real:
            table[bool(logit > 0), bool(truth)] += 1
            loss += math.log1p(math.exp(-logit if truth else logit))
    right, wrong, missed = table[True, True], table[True, False], table[False, True]
    precision = right / (right + wrong) if right + wrong else 0
    recall = right / (right + missed)
    count = sum(table.values())
    return {
        "loss": loss / count,
        "accuracy": (right + table[False, False]) / count,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if right else 0,
    }


def test_scores_are_those_of_a_table_of_answers_without_padding():
    logit, is_replaced, real = judged_case()
    sums = judgement_sums(logit, is_replaced, real)
    slow = slow_scores(logit, is_replaced, real)
    for name, value in slow.items():
        total, weight = sums["discriminator/" + name]
        assert float(total / weight) == pytest.approx(value, rel=1e-6), name
    assert len(set(slow.values())) == len(slow)
    assert sums["replaced"] == ((is_replaced & real).sum(), real.sum())
    assert sums["discriminator/loss"][1] == real.sum()
    everywhere = slow_scores(logit, is_replaced, np.ones_like(real))
    assert all(abs(everywhere[name] - slow[name]) > 1e-3 for name in slow)


@pytest.mark.parametrize(("judge", "opinion"), [("always_original", -1), ("always_replaced", 1)])
def test_the_judges_without_eyes_score_as_constant_answers_do(judge, opinion):
    logit, is_replaced, real = judged_case()
    sums = judgement_sums(logit, is_replaced, real)
    slow = slow_scores(np.full_like(logit, opinion), is_replaced, real)
    scores = {name.split("/")[1]: float(total / weight) for name, (total, weight) in sums.items() if judge in name}
    assert scores.pop("accuracy") == pytest.approx(slow["accuracy"], rel=1e-6)
    assert scores.pop("f1", 0) == pytest.approx(slow["f1"], rel=1e-6)
    assert not scores


def test_a_logit_of_zero_says_original():
    sums = judgement_sums(np.zeros((1, 4), np.float32), np.array([[True, False, False, False]]), np.ones((1, 4), bool))
    assert sums["discriminator/accuracy"] == (3, 4)
    assert sums["discriminator/precision"] == (0, 0)


def test_a_summary_adds_both_losses_as_training_weighs_them():
    sums = jax.device_get(evaluate(params(), packed_batch(8)))
    values = OBJECTIVE.summary(sums)
    generator, discriminator = (np.divide(*sums[f"{model}/loss"]) for model in (GENERATOR, DISCRIMINATOR))
    assert values["loss"] == pytest.approx(generator + CONFIG.rtd.loss_weight * discriminator, rel=1e-6)
    assert values["generator/perplexity"] == pytest.approx(np.exp(generator), rel=1e-5)
    assert values["predictions"] == packed_batch(8)["weights"].sum()
    assert values["judgements"] == (packed_batch(8)["documents"] > 0).sum()
    assert "generator/baseline_accuracy" in values and values["loss"] > values["generator/loss"]


def test_a_batch_without_predictions_has_no_loss_to_show():
    batch = packed_batch(8)
    values = OBJECTIVE.summary(evaluate(params(), batch | {"weights": np.zeros_like(batch["weights"])}))
    assert "loss" not in values and "generator/loss" not in values
    assert values["replaced"] == 0 and values["discriminator/loss"] > 0


@pytest.mark.parametrize("opinion", [-1, 1], ids=["all called original", "all called replaced"])
def test_a_conclusion_about_rows_without_a_replacement_is_still_a_line(opinion):
    logit, is_replaced, real = judged_case()
    judged = judgement_sums(np.full_like(logit, opinion), np.zeros_like(is_replaced), real)
    sums = jax.device_get(evaluate(params(), packed_batch(8))) | judged
    line = OBJECTIVE.conclusion(OBJECTIVE.summary(sums))
    assert line and "\n" not in line


def test_a_conclusion_compares_with_the_judges_without_eyes():
    logit, is_replaced, real = judged_case()
    slow = slow_scores(logit, is_replaced, real)
    blind = slow_scores(np.ones_like(logit), is_replaced, real)
    sums = jax.device_get(evaluate(params(), packed_batch(8))) | judgement_sums(logit, is_replaced, real)
    line = OBJECTIVE.conclusion(OBJECTIVE.summary(sums))
    assert f"F1 {slow['f1']:.3f}, {slow['f1'] / blind['f1']:.2f} times the {blind['f1']:.3f}" in line
    assert f"accuracy {slow['accuracy']:.1%} (always original: {1 - blind['accuracy']:.1%})" in line
    assert line.endswith(f"({real.sum()} tokens)")
