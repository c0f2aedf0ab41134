import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from builders import LEXICON, tiny_config, tiny_pair_config
from deberta_jax.errors import Refused
from deberta_jax.objectives import OBJECTIVES
from deberta_jax.train.optimizer import decay_mask, make_optimizer, make_schedule, named_leaves, optimizers_of

STEPS, WARMUP, PEAK = 100, 10, 0.5


def optimizer_config(**changes):
    settings = {"learning_rate": PEAK, "warmup_steps": WARMUP, "schedule": "linear", "end_fraction": 0.1}
    return dataclasses.replace(tiny_config().optimizer, **(settings | changes))


def rates(**changes):
    return np.asarray(make_schedule(optimizer_config(**changes), STEPS)(jnp.arange(STEPS + 1)))


SHAPES = pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])


@SHAPES
def test_no_update_is_spent_at_rate_zero(schedule):
    values = rates(schedule=schedule, end_fraction=0.0)[:STEPS]
    assert (values > 0).all()
    assert values[0] == pytest.approx(PEAK / WARMUP)


@SHAPES
def test_warm_up_rises_in_equal_steps_to_the_peak(schedule):
    np.testing.assert_allclose(rates(schedule=schedule)[:WARMUP], PEAK * np.arange(1, WARMUP + 1) / WARMUP, rtol=1e-6)


@SHAPES
def test_the_rate_does_not_jump_where_warm_up_ends(schedule):
    values = rates(schedule=schedule)
    assert values[WARMUP - 1] == values[WARMUP] == pytest.approx(PEAK)
    assert np.abs(np.diff(values)).max() <= PEAK / WARMUP * 1.0001
    assert values[WARMUP] - values[WARMUP + 1] < 0.02 * PEAK


@pytest.mark.parametrize(
    ("schedule", "end", "half"), [("linear", 0.1, 0.55), ("cosine", 0.1, 0.55), ("constant", 1, 1)]
)
def test_the_decay_ends_where_it_should_and_stays_there(schedule, end, half):
    schedule = make_schedule(optimizer_config(schedule=schedule), STEPS)
    assert float(schedule(STEPS)) == pytest.approx(end * PEAK)
    assert float(schedule(10 * STEPS)) == pytest.approx(end * PEAK)
    assert float(schedule((STEPS + WARMUP) // 2)) == pytest.approx(half * PEAK)


def test_cosine_is_flat_at_both_ends_and_linear_is_a_line():
    linear, cosine = rates(schedule="linear")[WARMUP:], rates(schedule="cosine")[WARMUP:]
    np.testing.assert_allclose(np.diff(linear), -0.9 * PEAK / (STEPS - WARMUP), rtol=1e-3)
    assert cosine[0] - cosine[1] < 0.1 * (linear[0] - linear[1])
    assert cosine[-2] - cosine[-1] < 0.1 * (linear[-2] - linear[-1])


def test_without_warm_up_the_first_update_has_the_peak():
    assert rates(warmup_steps=0)[0] == pytest.approx(PEAK)


def test_a_run_may_be_warm_up_alone():
    values = rates(warmup_steps=STEPS)[:STEPS]
    np.testing.assert_allclose(values, PEAK * np.arange(1, STEPS + 1) / STEPS, rtol=1e-6)


@pytest.fixture(scope="module")
def boxed():
    cfg = tiny_config()
    return jax.eval_shape(OBJECTIVES["mlm"](cfg, LEXICON).init, jax.random.key(0))


def test_kernels_and_tables_are_decayed_biases_and_norms_are_not(boxed):
    mask = dict(named_leaves(decay_mask(boxed, tiny_config().optimizer.no_decay)))
    assert len(mask) == len(jax.tree.leaves(boxed))
    by_path = {path.removesuffix("/value"): decayed for path, decayed in mask.items()}
    for path, decayed in by_path.items():
        last = path.split("/")[-1]
        assert decayed == (last in ("kernel", "word", "position", "relative")), path
    assert not by_path["head/bias"] and not by_path["encoder/relative_norm/scale"]


def test_paths_name_the_modules(boxed):
    paths = [path for path, _ in named_leaves({"encoder": {"last": {"mlp_in": {"kernel": 1}}}, "head": 2})]
    assert paths == ["encoder/last/mlp_in/kernel", "head"]


def test_a_pattern_that_matches_nothing_is_refused(boxed):
    with pytest.raises(Refused, match="'gamma' matches no parameter"):
        decay_mask(boxed, ("bias$", "gamma"))


def adamw(gradients, param, cfg, norms, decayed):
    """NumPy: the value of one parameter after these gradients, clipped by the whole tree's norms."""
    m, v = np.zeros_like(param), np.zeros_like(param)
    for t, (gradient, norm) in enumerate(zip(gradients, norms, strict=True), 1):
        clipped = gradient * min(1, cfg.clip_norm / norm)
        m = cfg.b1 * m + (1 - cfg.b1) * clipped
        v = cfg.b2 * v + (1 - cfg.b2) * clipped**2
        update = (m / (1 - cfg.b1**t)) / (np.sqrt(v / (1 - cfg.b2**t)) + cfg.eps)
        param = param - 0.1 * (update + cfg.weight_decay * param * decayed)
    return param


@pytest.mark.parametrize("clip_norm", [1.0, float("inf")])
def test_updates_are_those_of_adamw_after_a_global_clip(clip_norm):
    cfg = optimizer_config(clip_norm=clip_norm, weight_decay=0.3, no_decay=("bias$",))
    rng = np.random.default_rng(0)
    start = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
    gradients = [{name: rng.normal(size=p.shape) * size for name, p in start.items()} for size in (5.0, 0.01, 2.0)]
    tx = make_optimizer(cfg)
    params = jax.tree.map(jnp.float32, start)
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update(jax.tree.map(jnp.float32, gradient), state, params, finite=jnp.array(True))
        params = jax.tree.map(lambda p, u: p - 0.1 * u, params, updates)
    norms = [np.sqrt(sum((g**2).sum() for g in gradient.values())) for gradient in gradients]
    for name, param in params.items():
        expected = adamw([g[name] for g in gradients], start[name], cfg, norms, decayed=name == "kernel")
        np.testing.assert_allclose(param, expected, rtol=0, atol=1e-5)


def test_a_pattern_that_the_generator_lacks_is_refused_by_its_own_key():
    config = tiny_pair_config(optimizer={"no_decay": ("word_delta$",)})
    optimizers = optimizers_of(config, ("generator", "discriminator"))
    with pytest.raises(Refused, match="^rtd.optimizer.no_decay: 'word_delta"):
        optimizers["generator"].tx.init({"kernel": jnp.zeros(1)})
