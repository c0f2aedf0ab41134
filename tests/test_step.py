import dataclasses
import functools
import logging

import jax
import numpy as np
import pytest
from flax import linen as nn

from builders import COMPILE_FAST, LEXICON, packed_batch, scrambled, tiny_config
from configs import meshes
from deberta_jax.dist.axes import batch_sharding, check_rules, shardings_of, unboxed
from deberta_jax.dist.mesh import make_mesh
from deberta_jax.objectives import OBJECTIVES
from deberta_jax.train.build import build_run
from deberta_jax.train.step import batch_gradients, split_rows

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
    objective = OBJECTIVES["mlm"](config, LEXICON)
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
    objective = OBJECTIVES["mlm"](config, LEXICON)
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
