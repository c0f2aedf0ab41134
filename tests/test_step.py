import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from builders import COMPILE_FAST, LEXICON, packed_batch, scrambled, tiny_config, tiny_pair_config
from configs import meshes
from deberta_jax.dist.axes import batch_sharding, check_rules, shardings_of, unboxed
from deberta_jax.dist.mesh import make_mesh
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.replaced_token import ReplacedTokenDetector
from deberta_jax.objectives import OBJECTIVES, mlm
from deberta_jax.objectives.embedding_sharing import DISCRIMINATOR, GENERATOR
from deberta_jax.objectives.rtd import JUDGING, PREDICTING, Pair, discriminator_loss, generator_loss
from deberta_jax.train.build import build_run
from deberta_jax.train.optimizer import named_leaves, optimizers_of
from deberta_jax.train.state import TrainState, state_init
from deberta_jax.train.step import batch_gradients, make_train_step, merge_rows, split_rows

ROWS = 16
CONFIG = tiny_config()
OBJECTIVE = OBJECTIVES["mlm"](CONFIG, LEXICON)
EVERY_SWITCH = tiny_config(  # what v1 and v2 have and v3 has not, and what nobody published
    conv_kernel_size=3,
    share_att_key=False,
    key_bias=False,
    norm_rel_ebd="none",
    pos_att_type=("c2p", "p2c", "p2p"),
    embedding_size=20,
    type_vocab_size=2,
    stochastic_depth=0.3,
)
SHAPES = jax.eval_shape(OBJECTIVE.init, jax.random.key(0))


@functools.cache
def gradients_on(devices, sizes, rules, micro_batches, config=CONFIG):
    """(params, key) -> (gradients, loss, sums) of the same 16 rows with dropout, on so many devices, as host arrays."""
    mesh = make_mesh(tuple(zip(("data", "fsdp", "tensor"), sizes, strict=True)), jax.devices()[:devices])
    check_rules(rules, mesh)
    objective = OBJECTIVES[config.objective](config, LEXICON)
    compiled = jax.jit(
        functools.partial(batch_gradients, objective, micro_batches=micro_batches), compiler_options=COMPILE_FAST
    )
    shapes = jax.eval_shape(objective.init, jax.random.key(0))

    def gradients(params, key):
        with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
            params = jax.device_put(params, shardings_of(shapes, rules, mesh))
            batch = jax.device_put(packed_batch(ROWS), batch_sharding(rules, mesh))
            return jax.device_get(compiled(params, batch, key))

    return gradients


@functools.cache
def fresh_params(config=CONFIG):
    """As a run starts."""
    objective = OBJECTIVES[config.objective](config, LEXICON)
    init = jax.jit(lambda key: unboxed(objective.init(key)), compiler_options=COMPILE_FAST)
    return jax.device_get(init(jax.random.key(0)))


ONE_DEVICE = (1, (1, 1, 1), meshes.dp, 1)


def assert_same_gradients(one, other, tolerance):
    """Each entry within `tolerance` of the largest entry of the tree; loss and accuracy within 1e-6."""
    (gradients, loss, sums), (other_gradients, other_loss, other_sums) = one, other
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    worst = jax.tree.map(lambda a, b: np.abs(a - b).max() / largest, gradients, other_gradients)
    assert max(jax.tree.leaves(worst)) <= tolerance, worst
    assert loss == pytest.approx(other_loss, rel=1e-6)
    for name, (total, weight) in sums.items():
        assert total == pytest.approx(other_sums[name][0], rel=1e-6)
        assert weight == other_sums[name][1]


def test_the_batch_is_ragged_enough_to_tell_a_mean_of_means_from_a_mean():
    counts = packed_batch(ROWS)["weights"].sum(1)
    assert len(set(counts)) == 7 and counts.min() == 0
    assert len({part.sum() for part in split_rows(counts, 4)}) > 1


@pytest.mark.parametrize(
    ("devices", "sizes", "rules", "micro_batches"),
    [
        (8, (8, 1, 1), meshes.dp, 1),
        (8, (2, 2, 2), meshes.fsdp_tp, 1),
        (8, (2, 2, 2), meshes.fsdp_tp, 2),
        (1, (1, 1, 1), meshes.dp, 4),
    ],
    ids=["data over 8", "data, fsdp and tensor over 8", "and as many rows as devices", "4 micro-batches"],
)
def test_loss_and_gradients_do_not_depend_on_how_the_batch_is_computed(devices, sizes, rules, micro_batches):
    one, other = gradients_on(*ONE_DEVICE), gradients_on(devices, sizes, rules, micro_batches)
    key = jax.random.key(1)
    assert_same_gradients(one(fresh_params(), key), other(fresh_params(), key), 1e-6)
    # Where each part of the model weighs as much as the next, float32 itself is coarser: two compilations of the same
    # program for one device differ by 3e-6.
    assert_same_gradients(one(scrambled(SHAPES), key), other(scrambled(SHAPES), key), 1e-5)


def test_the_layout_does_not_matter_to_any_switch_of_the_model():
    one = gradients_on(*ONE_DEVICE, EVERY_SWITCH)
    other = gradients_on(8, (2, 2, 2), meshes.fsdp_tp, 2, EVERY_SWITCH)
    params, key = fresh_params(EVERY_SWITCH), jax.random.key(1)
    assert_same_gradients(one(params, key), other(params, key), 1e-6)


def test_that_comparison_would_notice_other_dropout_bits():
    gradients = gradients_on(*ONE_DEVICE)
    one, other = (gradients(fresh_params(), jax.random.key(seed)) for seed in (1, 2))
    with pytest.raises(AssertionError):
        assert_same_gradients(one, other, 1e-3)


def test_the_loss_is_the_mean_over_the_predictions_of_the_whole_batch():
    _, loss, sums = gradients_on(*ONE_DEVICE)(fresh_params(), jax.random.key(1))
    total, count = sums["loss"]
    assert count == packed_batch(ROWS)["weights"].sum()
    assert loss == pytest.approx(total / count, rel=1e-6)


def test_rows_are_dealt_so_that_each_device_keeps_its_own():
    parts = split_rows(np.arange(16), 4)
    assert parts.tolist() == [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]
    assert split_rows(np.zeros((16, 3)), 4).shape == (4, 4, 3)


@pytest.mark.parametrize("parts", [1, 2, 4, 16])
@pytest.mark.parametrize("shape", [(16,), (16, 3), (16, 3, 2)], ids=str)
def test_merging_undoes_splitting(parts, shape):
    x = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(merge_rows(split_rows(x, parts)), x)


def batch_with(weights):
    batch = packed_batch(ROWS)
    return batch | {"weights": np.broadcast_to(np.float32(weights), batch["weights"].shape).copy()}


STEPS = (packed_batch(ROWS), batch_with(np.nan), packed_batch(ROWS), batch_with(0), packed_batch(ROWS))
GOOD, BAD, GOOD_AGAIN, EMPTY, _ = range(len(STEPS))


@dataclasses.dataclass
class History:
    """What a run of five steps left: host copies of the states (one more than steps) and of the sums."""

    states: list
    sums: list
    compilations: list[str]
    donated: bool
    placed_as_planned: bool


@pytest.fixture(scope="module")
def history():
    """Of a run in 4 micro-batches over (2, 2, 2) devices."""
    mesh = (("data", 2), ("fsdp", 2), ("tensor", 2))
    run = build_run(dataclasses.replace(CONFIG, mesh=mesh, rules=meshes.fsdp_tp, micro_batches=4), LEXICON)
    state = run.fresh()
    result = History([jax.device_get(state)], [], [], [], False)
    listener = logging.Handler()
    listener.emit = lambda record: result.compilations.append(record.getMessage())
    logging.getLogger("jax").addHandler(listener)
    with jax.log_compiles():
        for batch in STEPS:
            state, sums = run.train_step(state, run.place(batch))
            result.states.append(jax.device_get(state))
            result.sums.append(jax.device_get(sums))
        unread, _ = run.train_step(state, run.place(batch))  # a host copy may share its buffer, which then stays
        state, _ = run.train_step(unread, run.place(batch))
    result.donated = all(leaf.is_deleted() for leaf in jax.tree.leaves(unread))
    logging.getLogger("jax").removeHandler(listener)
    places = jax.tree.map(lambda leaf: leaf.sharding, (state, run.abstract))
    result.placed_as_planned = places[0] == places[1]
    return result


def assert_equal_trees(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_step_compiles_once(history):
    finished = [line for line in history.compilations if "Finished XLA compilation" in line and "train_step" in line]
    assert len(finished) == 1, history.compilations


def test_the_state_is_donated_and_stays_where_it_belongs(history):
    assert history.donated
    assert history.placed_as_planned


def test_a_non_finite_batch_is_skipped_and_counted_and_changes_nothing_else(history):
    before, after, sums = history.states[BAD], history.states[BAD + 1], history.sums[BAD]
    assert_equal_trees(after.params, before.params)
    assert_equal_trees(after.opt_state, before.opt_state)
    assert (after.step, after.skipped) == (2, 1)
    assert sums["skipped_steps"][0] == 1
    assert sums["update_norm"][0] == 0
    assert not np.isfinite(sums["loss"][0])


def test_the_step_after_a_skipped_one_trains_again(history):
    after, sums = history.states[GOOD_AGAIN + 1], history.sums[GOOD_AGAIN]
    assert (after.step, after.skipped) == (3, 1)
    assert sums["update_norm"][0] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, sums)))
    assert sums["loss"][0] < history.sums[GOOD]["loss"][0]


def test_a_batch_without_any_prediction_has_loss_zero_and_is_no_accident(history):
    after, sums = history.states[EMPTY + 1], history.sums[EMPTY]
    assert after.skipped == 1
    assert sums["loss"] == (0, 0)
    assert sums["gradient_norm"][0] == 0


def test_the_first_update_goes_down_the_gradient_as_far_as_it_says(history):
    start, sums = history.states[GOOD].params, history.sums[GOOD]
    key = jax.random.fold_in(jax.random.key(CONFIG.seed), 0)
    gradients, loss, _ = gradients_on(*ONE_DEVICE)(start, key)
    assert sums["loss"][0] / sums["loss"][1] == pytest.approx(loss, rel=1e-6)
    assert sums["gradient_norm"][0] == pytest.approx(norm_of(gradients), rel=1e-5)
    assert sums["learning_rate"][0] == pytest.approx(CONFIG.optimizer.learning_rate / CONFIG.optimizer.warmup_steps)
    moved = jax.tree.map(lambda new, old: np.float64(new) - old, history.states[GOOD + 1].params, start)
    assert sums["update_norm"][0] == pytest.approx(norm_of(moved), rel=1e-3)
    assert sums["parameter_norm"][0] == pytest.approx(norm_of(history.states[GOOD + 1].params), rel=1e-5)
    # Adam's first update is the gradient's sign, where the gradient is not lost beside epsilon.
    kernel, slope = (tree["head"]["dense"]["kernel"] for tree in (moved, gradients))
    clear = np.abs(slope) > 1e-3
    assert clear.any() and (np.sign(kernel[clear]) == -np.sign(slope[clear])).all()


def norm_of(tree):
    return np.sqrt(sum((np.float64(leaf) ** 2).sum() for leaf in jax.tree.leaves(tree)))


PAIR = tiny_pair_config(model={"num_layers": 1}, generator={"num_layers": 1, "decoder": "none"})


@pytest.mark.parametrize(
    ("sizes", "rules", "micro_batches"),
    [
        ((8, 1, 1), meshes.dp, 1),
        ((8, 1, 1), meshes.dp, 2),
        ((2, 2, 2), meshes.fsdp_tp, 1),
        ((2, 2, 2), meshes.fsdp_tp, 2),
    ],
    ids=["data", "data, 2 micro-batches", "data, fsdp and tensor", "data, fsdp and tensor, 2 micro-batches"],
)
def test_a_pair_draws_and_learns_the_same_however_the_batch_is_computed(sizes, rules, micro_batches):
    one, other = gradients_on(*ONE_DEVICE, PAIR), gradients_on(8, sizes, rules, micro_batches, PAIR)
    key = jax.random.key(1)
    for params, tolerance in ((fresh_params(PAIR), 1e-6), (scrambled_pair(), 1e-5)):
        expected, got = one(params, key), other(params, key)
        assert expected[2]["replaced"] == got[2]["replaced"]  # the same ids were drawn
        assert expected[2]["replaced"][0] > 0
        for group in (GENERATOR, DISCRIMINATOR):
            assert_same_gradients((expected[0][group], *expected[1:]), (got[0][group], *got[1:]), tolerance)


@functools.cache
def scrambled_pair():
    return scrambled(jax.eval_shape(OBJECTIVES["rtd"](PAIR, LEXICON).init, jax.random.key(0)))


BATCH = packed_batch(ROWS)
WEIGHTS = {"mlm": BATCH["weights"].sum(), "rtd": np.float32((BATCH["documents"] > 0).sum())}
UPDATES = 3  # that the state of a run under way has behind it


@functools.cache
def small_pair(sharing, scheme):
    """The smallest models that share a word and a position table; the generator learns three times as fast."""
    config = tiny_pair_config(
        embedding_sharing=sharing,
        scheme=scheme,
        loss_weight=7.0,
        model={"num_layers": 1, "pos_att_type": (), "position_biased_input": True},
        generator={"num_layers": 1, "decoder": "none"},
        optimizer={"learning_rate": 0.03, "weight_decay": 0.02},
    )
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.01, clip_norm=2))


@functools.cache
def under_way(config):
    """The state of a run after some updates, its moments as large as clipped gradients: what comes next depends on how
    large a gradient is, not only on its sign."""
    objective = OBJECTIVES[config.objective](config, LEXICON)
    state = jax.eval_shape(state_init(objective, optimizers_of(config, objective.groups)), jax.random.key(0))
    rng = np.random.default_rng(0)

    def moment(path, leaf):
        name = jax.tree_util.keystr(path)
        if name.endswith(".count"):
            return np.int32(UPDATES)
        values = rng.normal(size=leaf.shape) if ".mu" in name else rng.uniform(0.5, 1.5, leaf.shape) / 100
        return np.float32(values / 100)

    opt_state = jax.tree_util.tree_map_with_path(moment, unboxed(state.opt_state))
    return TrainState(np.int32(UPDATES), np.int32(0), scrambled(state.params), opt_state)


@functools.cache
def step_of(config):
    objective = OBJECTIVES[config.objective](config, LEXICON)
    optimizers = optimizers_of(config, objective.groups)
    step = make_train_step(objective, optimizers, seed=config.seed, micro_batches=1)
    return jax.jit(step, compiler_options=COMPILE_FAST)


@functools.cache
def after_one_step(config):
    return jax.device_get(step_of(config)(under_way(config), BATCH))


@functools.cache
def parts_of(sharing):
    """(params, batch) -> gradients for the whole pair of (the generator's loss, the discriminator's)."""
    config = small_pair(sharing, "joint")
    pair, key = Pair.of(config, LEXICON), next_key(config)

    def compiled(loss):
        gradient = jax.grad(lambda params, batch: loss(pair, params, batch, key, WEIGHTS), has_aux=True)
        return jax.jit(gradient, compiler_options=COMPILE_FAST)

    return compiled(generator_loss), compiled(discriminator_loss)


def next_key(config):
    return jax.random.fold_in(jax.random.key(config.seed), UPDATES)


def both_gradients(sharing):
    """Those of both losses at the parameters of a run under way."""
    predicting, judging = parts_of(sharing)
    params = under_way(small_pair(sharing, "joint")).params
    of_generator, (_, found) = predicting(params, BATCH)
    of_discriminator, _ = judging(params, BATCH | found)
    return jax.device_get((of_generator, of_discriminator))


def adamw(cfg, gradients, params, opt_state):
    """NumPy: a model's parameters after the next update of 10, of which 2 warm up."""
    (adam,) = (part for part in opt_state if hasattr(part, "mu"))
    rate, t = cfg.learning_rate * (1 - (UPDATES - 2) / 8), UPDATES + 1
    clip = min(1, cfg.clip_norm / norm_of(gradients))

    def update(path, param, gradient, m, v):
        m = cfg.b1 * np.float64(m) + (1 - cfg.b1) * clip * gradient
        v = cfg.b2 * np.float64(v) + (1 - cfg.b2) * (clip * gradient) ** 2
        decayed = path[-1].key not in ("bias", "scale")
        direction = (m / (1 - cfg.b1**t)) / (np.sqrt(v / (1 - cfg.b2**t)) + cfg.eps)
        return np.float32(param - rate * (direction + cfg.weight_decay * param * decayed))

    return jax.tree_util.tree_map_with_path(update, params, gradients, adam.mu, adam.nu)


def updated(config, gradients, group):
    """A group's parameters after the next update, by hand."""
    state = under_way(config)
    cfg = {GENERATOR: config.rtd.optimizer, DISCRIMINATOR: config.optimizer}[group]
    return adamw(cfg, gradients, state.params[group], state.opt_state[group])


def assert_same_move(got, expected, start):
    """Each leaf within 1e-6 of the parameters' size, and all of them elsewhere than they were."""
    for (path, leaf), (_, other), (_, before) in zip(*map(named_leaves, (got, expected, start)), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=1e-6, err_msg=path)
        assert np.abs(leaf - before).max() > 1e-3, path


@pytest.mark.parametrize("sharing", ["gdes", "none"])
def test_decoupled_the_discriminator_steps_after_the_generator_has(sharing):
    """On the ids that the generator drew before its step, with the tables it has after it."""
    config = small_pair(sharing, "decoupled")
    start = under_way(config).params
    predicting, judging = parts_of(sharing)
    of_generator, (_, found) = predicting(start, BATCH)
    between = start | {GENERATOR: updated(config, jax.device_get(of_generator[GENERATOR]), GENERATOR)}
    of_discriminator, _ = judging(between, BATCH | found)
    expected = between | {
        DISCRIMINATOR: updated(config, jax.device_get(of_discriminator[DISCRIMINATOR]), DISCRIMINATOR)
    }
    state, sums = after_one_step(config)
    assert_same_move(state.params, expected, start)
    assert (state.step, state.skipped) == (UPDATES + 1, 0)
    norms = {
        group: norm_of(gradients[group])
        for group, gradients in ((GENERATOR, of_generator), (DISCRIMINATOR, of_discriminator))
    }
    for group, norm in norms.items():
        assert sums[f"{group}/gradient_norm"][0] == pytest.approx(norm, rel=1e-5)
    assert norms[DISCRIMINATOR] > 2  # it is clipped


@pytest.mark.parametrize(("sharing", "scheme"), [("gdes", "joint"), ("shared", "joint"), ("shared", "decoupled")])
def test_together_both_models_step_along_the_sum_of_both_gradients(sharing, scheme):
    config = small_pair(sharing, scheme)
    total = jax.tree.map(np.add, *both_gradients(sharing))
    expected = {group: updated(config, total[group], group) for group in (GENERATOR, DISCRIMINATOR)}
    state, _ = after_one_step(config)
    assert_same_move(state.params, expected, under_way(config).params)


def test_where_the_table_is_one_the_schemes_are_the_same():
    one, other = (after_one_step(small_pair("shared", scheme)) for scheme in ("joint", "decoupled"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), one, other)


def test_where_it_is_not_they_differ():
    one, other = (after_one_step(small_pair("gdes", scheme))[0].params for scheme in ("joint", "decoupled"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), one[GENERATOR], other[GENERATOR])
    tables = (params[DISCRIMINATOR]["encoder"]["embeddings"]["word_delta"] for params in (one, other))
    assert np.abs(np.subtract(*tables)).max() > 1e-5  # ten times what counts as the same


def one_loss(config, params, filled, is_replaced, key):
    """Both models' losses as one formula; the filled rows are given."""
    real, used = BATCH["documents"] > 0, BATCH["weights"] > 0
    options = {"deterministic": False, "rows": BATCH["rows"]}
    context = BATCH["documents"], BATCH["positions"]
    logits = MaskedLM(config.rtd.generator).apply(
        {"params": params[GENERATOR]},
        BATCH["input_ids"],
        *context,
        masked_positions=BATCH["masked_positions"],
        rngs={"dropout": jax.random.fold_in(key, PREDICTING)},
        **options,
    )
    log_probability = jnp.take_along_axis(jax.nn.log_softmax(logits), BATCH["labels"][..., None], axis=-1)[..., 0]
    theirs, own = (params[group]["encoder"]["embeddings"] for group in (GENERATOR, DISCRIMINATOR))
    tables = {table: jax.lax.stop_gradient(theirs[table]) + own[table + "_delta"] for table in ("word", "position")}
    embeddings = tables | {"norm": own["norm"]}
    encoder = params[DISCRIMINATOR]["encoder"] | {"embeddings": embeddings}
    logit = ReplacedTokenDetector(config.model).apply(
        {"params": params[DISCRIMINATOR] | {"encoder": encoder}},
        filled,
        *context,
        rngs={"dropout": jax.random.fold_in(key, JUDGING)},
        **options,
    )
    predicted = -jnp.where(used, log_probability, 0).sum() / used.sum()
    judged = -jnp.where(real, jax.nn.log_sigmoid(jnp.where(is_replaced, logit, -logit)), 0).sum() / real.sum()
    return predicted + config.rtd.loss_weight * judged


def test_joint_gradients_are_those_of_one_loss_written_out():
    config = small_pair("gdes", "joint")
    params, key = under_way(config).params, next_key(config)
    drawn = np.asarray(parts_of("gdes")[0](params, BATCH)[1][1]["drawn"])
    filled, is_replaced = BATCH["input_ids"].copy(), np.zeros(BATCH["input_ids"].shape, bool)
    for row, slot in zip(*np.nonzero(BATCH["weights"]), strict=True):
        place = BATCH["masked_positions"][row, slot]
        filled[row, place], is_replaced[row, place] = drawn[row, slot], drawn[row, slot] != BATCH["labels"][row, slot]
    explicit = jax.jit(jax.value_and_grad(one_loss, argnums=1), static_argnums=0, compiler_options=COMPILE_FAST)
    expected_loss, expected = explicit(config, params, filled, is_replaced, key)
    gradients, loss, _ = gradients_on(*ONE_DEVICE, config)(params, key)
    assert loss == pytest.approx(float(expected_loss), rel=1e-6)
    total = jax.tree.map(np.add, *both_gradients("gdes"))
    for group in (GENERATOR, DISCRIMINATOR):
        for other in (expected[group], total[group]):
            assert_same_gradients((gradients[group], loss, {}), (other, loss, {}), 1e-5)


def test_the_generators_forward_runs_once():
    """Counted in operations of the traced program: each loss takes what its model takes, and both no more together."""
    config = small_pair("gdes", "joint")
    objective, pair, params = OBJECTIVES["rtd"](config, LEXICON), Pair.of(config, LEXICON), under_way(config).params
    judged, key = BATCH | {"drawn": BATCH["labels"]}, next_key(config)

    def operations(function, *arguments):
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"]

    def discriminate(params, batch):
        inputs = (batch["input_ids"], batch["documents"], batch["positions"])
        whole = pair.sharing.discriminator(params)
        return pair.discriminator.apply({"params": whole}, *inputs, deterministic=False, rngs={"dropout": key})

    predict = functools.partial(mlm.table_logits, pair.generator)
    forward = operations(predict, params[GENERATOR], BATCH, key)
    predicting = operations(functools.partial(generator_loss, pair), params, BATCH, key, WEIGHTS)
    judging = operations(functools.partial(discriminator_loss, pair), params, judged, key, WEIGHTS)
    assert 0 < predicting - forward < 0.5 * forward
    assert 0 < judging - operations(discriminate, params, BATCH) < 0.5 * forward
    gradients = [
        operations(jax.grad(functools.partial(loss, pair), has_aux=True), params, batch, key, WEIGHTS)
        for loss, batch in ((generator_loss, BATCH), (discriminator_loss, judged))
    ]
    together = operations(functools.partial(batch_gradients, objective, micro_batches=1), params, BATCH, key)
    assert abs(together - sum(gradients)) < 0.01 * forward


def test_a_generators_accident_leaves_both_models_as_they_were():
    config = small_pair("gdes", "decoupled")
    before = under_way(config)
    after, sums = jax.device_get(step_of(config)(before, BATCH | {"weights": batch_with(np.nan)["weights"]}))
    assert not np.isfinite(sums["generator/loss"][0]) and np.isfinite(sums["discriminator/loss"][0])
    assert_equal_trees((after.params, after.opt_state), (before.params, before.opt_state))
    assert (after.step, after.skipped, sums["skipped_steps"][0]) == (UPDATES + 1, 1, 1)


def with_a_broken_discriminator(state):
    discriminator = state.params[DISCRIMINATOR]
    head = discriminator["head"] | {"classifier": discriminator["head"]["classifier"] | {"bias": np.float32([np.nan])}}
    return state.replace(params=state.params | {DISCRIMINATOR: discriminator | {"head": head}})


@pytest.mark.parametrize(
    ("sharing", "scheme", "spared"),
    [
        ("gdes", "decoupled", [DISCRIMINATOR]),
        ("gdes", "joint", [GENERATOR, DISCRIMINATOR]),
        ("shared", "decoupled", [GENERATOR, DISCRIMINATOR]),
    ],
)
def test_a_discriminators_accident_stops_what_its_gradient_would_have_moved(sharing, scheme, spared):
    """Or, of a joint step, all of it; decoupled, the generator has taken its step by then."""
    config = small_pair(sharing, scheme)
    before = with_a_broken_discriminator(under_way(config))
    after, sums = jax.device_get(step_of(config)(before, BATCH))
    assert np.isfinite(sums["generator/loss"][0]) and not np.isfinite(sums["discriminator/loss"][0])
    for group in spared:
        one, other = ((state.params[group], state.opt_state[group]) for state in (after, before))
        assert_equal_trees(one, other)
        assert sums[f"{group}/update_norm"][0] == 0
    assert (after.step, after.skipped, sums["skipped_steps"][0]) == (UPDATES + 1, 1, 1)
    if GENERATOR not in spared:
        whole, _ = after_one_step(config)
        assert_equal_trees(after.params[GENERATOR], whole.params[GENERATOR])
        assert_equal_trees(after.opt_state[GENERATOR], whole.opt_state[GENERATOR])
