"""What fine-tuning adds to the optimizer: rates by layer, and parameters that stay as they are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from builders import tiny_config
from deberta_jax.dist.axes import unboxed
from deberta_jax.errors import Refused
from deberta_jax.objectives import OBJECTIVES
from deberta_jax.tasks.examples import KINDS
from deberta_jax.train.optimizer import (
    finetuning,
    frozen_mask,
    layer_rates,
    make_optimizer,
    named_leaves,
    optimizers_of,
)
from task_builders import LABELS, task_config

RATE = 0.1
LAYERS = 4
BELOW = {"embeddings/word": 1 / 32, "embeddings/norm/scale": 1 / 32, "relative": 1 / 32, "relative_norm/bias": 1 / 32}
FACTORS = {  # by hand: half the rate of the layer above, for every layer
    "without a convolution": BELOW | {"blocks/mlp/kernel": [1 / 16, 1 / 8, 1 / 4], "last/mlp/kernel": 1 / 2},
    "with a convolution": BELOW
    | {"first/mlp/kernel": 1 / 16, "convolution/norm/scale": 1 / 16}
    | {"blocks/mlp/kernel": [1 / 8, 1 / 4], "last/mlp/kernel": 1 / 2},
}
HEAD = {"pooler/dense/kernel": 1, "pooler/dense/bias": 1, "classifier/kernel": 1}
EITHER = pytest.mark.parametrize("which", FACTORS)


def model(which: str):
    kernel = 3 if which == "with a convolution" else 0
    return task_config(model={"num_layers": LAYERS, "conv_kernel_size": kernel}).model


def factors(which: str) -> dict[str, np.ndarray]:
    """Path -> factor of each parameter."""
    return {f"encoder/{path}": np.array(value) for path, value in FACTORS[which].items()} | {
        path: np.array(value) for path, value in HEAD.items()
    }


def nested(leaves: dict) -> dict:
    tree = {}
    for path, leaf in leaves.items():
        *modules, name = path.split("/")
        place = tree
        for module in modules:
            place = place.setdefault(module, {})
        place[name] = leaf
    return tree


def parameters(which: str, seed: int = 0) -> dict:
    """A tree of random parameters; those of stacked layers have an axis of layers."""
    rng = np.random.default_rng(seed)
    shapes = {path: (*factor.shape, 2, 3) for path, factor in factors(which).items()}
    return nested({path: np.float32(rng.normal(size=shape)) for path, shape in shapes.items()})


def settings(**changes):
    """AdamW with a decay that cannot be overlooked, and a clip that most of the gradients here exceed."""
    plain = {"weight_decay": 0.3, "no_decay": ("bias$", "norm/scale$"), "clip_norm": 1.0}
    return dataclasses.replace(task_config().optimizer, **plain | changes)


def after(tx, start: dict, gradients: list[dict]) -> dict:
    """Parameters after an update with each of the gradients, as the train step makes them."""
    params, state = jax.tree.map(jnp.asarray, start), tx.init(start)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params, finite=jnp.array(True))
        params = optax.apply_updates(params, jax.tree.map(lambda update: -RATE * update, updates))
    return jax.device_get(params)


def adamw(gradients: list[np.ndarray], param: np.ndarray, cfg, norms: list[float], rate, decayed: bool) -> np.ndarray:
    """NumPy: one parameter after these gradients, clipped by the norms of whole trees."""
    param, m, v = np.float64(param), np.zeros_like(param), np.zeros_like(param)
    for t, (gradient, norm) in enumerate(zip(gradients, norms, strict=True), 1):
        clipped = gradient * min(1, cfg.clip_norm / norm)
        m = cfg.b1 * m + (1 - cfg.b1) * clipped
        v = cfg.b2 * v + (1 - cfg.b2) * clipped**2
        update = (m / (1 - cfg.b1**t)) / (np.sqrt(v / (1 - cfg.b2**t)) + cfg.eps)
        param = param - rate * (update + cfg.weight_decay * param * decayed)
    return param


def by_hand(start: dict, gradients: list[dict], cfg, factor_of, is_frozen) -> dict[str, np.ndarray]:
    """Path -> parameter after the updates; a frozen one has no part in the norms."""
    every = [dict(named_leaves(gradient)) for gradient in gradients]
    norms = [np.sqrt(sum((g**2).sum() for path, g in one.items() if not is_frozen(path))) for one in every]
    result = {}
    for path, param in named_leaves(start):
        decayed = not path.endswith(("bias", "norm/scale"))
        factor = np.reshape(factor_of(path), (-1, 1, 1)) if np.ndim(factor_of(path)) else factor_of(path)
        moved = adamw([one[path] for one in every], param, cfg, norms, RATE * factor, decayed)
        result[path] = param if is_frozen(path) else moved
    return result


def assert_close(found: dict, expected: dict[str, np.ndarray]) -> None:
    for path, leaf in named_leaves(found):
        np.testing.assert_allclose(leaf, expected[path], rtol=0, atol=1e-5, err_msg=path)


@EITHER
def test_each_layer_has_a_share_of_the_rate_of_the_one_above(which):
    found = layer_rates(parameters(which), 0.5, model(which))
    expected = factors(which)
    for path, rate in named_leaves(found):
        shape = (*expected[path].shape, 1, 1) if expected[path].ndim else ()
        np.testing.assert_allclose(rate, expected[path].reshape(shape), rtol=1e-6, err_msg=path)
    assert len(named_leaves(found)) == len(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"conv_kernel_size": 3, "num_layers": 2}, {"norm_rel_ebd": "none", "share_att_key": False}],
    ids=["v3", "v2 of two layers", "v1"],
)
def test_every_parameter_of_every_model_has_a_rate(kind, changes):
    run = task_config(kind, model={"num_layers": 3} | changes)
    params = unboxed(jax.eval_shape(OBJECTIVES[kind](run, LABELS[kind]).init, jax.random.key(0)))
    rates = dict(named_leaves(layer_rates(params, 0.5, run.model)))
    for path, leaf in named_leaves(params):
        in_order = [1.0] if not path.startswith("encoder/") else np.ravel(rates[path])
        assert len(in_order) == (leaf.shape[0] if path.startswith("encoder/blocks") else 1), path
        assert np.broadcast_shapes(np.shape(rates[path]), leaf.shape) == leaf.shape, path
    depth = run.model.num_layers
    head = [rates[path] for path in rates if not path.startswith("encoder/")]
    assert head and set(head) == {1.0}
    assert {rate for path in rates for rate in np.ravel(rates[path]).tolist()} == {0.5**n for n in range(depth + 2)}
    assert rates["encoder/embeddings/word"] == rates["encoder/relative"] == 0.5 ** (depth + 1)


@EITHER
def test_updates_are_those_of_adamw_at_each_layers_rate(which):
    cfg = settings(layer_decay=0.5)
    start, gradients = parameters(which), [parameters(which, seed) for seed in (1, 2)]
    found = after(finetuning(make_optimizer(cfg), cfg, model(which)), start, gradients)
    assert_close(found, by_hand(start, gradients, cfg, factors(which).get, lambda path: False))


@EITHER
def test_the_first_step_of_each_layer_is_its_share_of_the_heads(which):
    """Adam's first step is the gradient's sign, whatever its size."""
    cfg = settings(layer_decay=0.5, weight_decay=0.0)
    start = parameters(which)
    found = after(finetuning(make_optimizer(cfg), cfg, model(which)), start, [parameters(which, 1)])
    for path, factor in factors(which).items():
        moved = np.abs(dict(named_leaves(found))[path] - dict(named_leaves(start))[path]).mean((-1, -2))
        np.testing.assert_allclose(moved, RATE * factor, rtol=1e-3, err_msg=path)


@EITHER
def test_with_neither_it_is_the_plain_optimizer_bit_for_bit(which):
    cfg = settings(layer_decay=1.0, freeze=())
    start, gradients = parameters(which), [parameters(which, seed) for seed in (1, 2, 3)]
    plain = after(make_optimizer(cfg), start, gradients)
    found = after(finetuning(make_optimizer(cfg), cfg, model(which)), start, gradients)
    jax.tree.map(np.testing.assert_array_equal, found, plain)


FROZEN = ("embeddings", "^encoder/relative", "blocks/")


def is_frozen(path: str) -> bool:
    return path.split("/")[1] in ("embeddings", "relative", "relative_norm", "blocks")


@EITHER
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_what_is_frozen_stays_and_has_no_part_in_clipping(which, decay):
    cfg = settings(layer_decay=decay, freeze=FROZEN)
    start, gradients = parameters(which), [parameters(which, seed) for seed in (1, 2, 3)]
    start["encoder"]["embeddings"]["word"][0, 0] = -0.0
    found = after(finetuning(make_optimizer(cfg), cfg, model(which)), start, gradients)
    before = dict(named_leaves(start))
    for path, leaf in named_leaves(found):
        assert (leaf.tobytes() == before[path].tobytes()) == is_frozen(path), path
    factor_of = factors(which).get if decay == 0.5 else lambda path: 1.0
    assert_close(found, by_hand(start, gradients, cfg, factor_of, is_frozen))


def test_huge_gradients_of_what_is_frozen_change_nothing():
    which, cfg = "without a convolution", settings(freeze=FROZEN)
    start, gradients = parameters(which), [parameters(which, 1)]
    huge = [jax.tree_util.tree_map_with_path(lambda path, g: g * (1e6 if is_frozen(at(path)) else 1), gradients[0])]
    tx = finetuning(make_optimizer(cfg), cfg, model(which))
    jax.tree.map(np.testing.assert_array_equal, after(tx, start, gradients), after(tx, start, huge))


def at(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def test_patterns_are_searched_in_whole_paths():
    tree = nested(dict.fromkeys(("encoder/last/kernel", "encoder/last/bias", "pooler/bias"), np.zeros(1)))

    def frozen(*patterns: str) -> list[str]:
        return [path for path, value in named_leaves(frozen_mask(tree, patterns)) if value]

    assert frozen() == []
    assert frozen("bias$") == ["encoder/last/bias", "pooler/bias"]
    assert frozen("^encoder/") == ["encoder/last/bias", "encoder/last/kernel"]
    assert frozen("^pooler", "kernel") == ["encoder/last/kernel", "pooler/bias"]


@pytest.mark.parametrize("patterns", [("gamma",), ("embeddings", "gamma"), ("^embeddings", "gamma")])
def test_a_pattern_that_matches_nothing_is_refused_by_name(patterns):
    unmatched = "'^embeddings'" if "^embeddings" in patterns else "'gamma'"
    with pytest.raises(Refused) as refused:
        frozen_mask(parameters("with a convolution"), patterns)
    assert str(refused.value) == f"optimizer.freeze: {unmatched} matches no parameter"


@pytest.mark.parametrize("patterns", [("",), ("^encoder", "^pooler", "^classifier")])
def test_a_run_that_would_train_nothing_is_refused(patterns):
    with pytest.raises(Refused, match="^optimizer.freeze: every parameter is frozen$"):
        frozen_mask(parameters("with a convolution"), patterns)


def test_a_wrong_pattern_is_refused_before_anything_is_trained():
    cfg, start = settings(freeze=("gamma",)), parameters("with a convolution")
    with pytest.raises(Refused, match="'gamma' matches no parameter"):
        jax.eval_shape(finetuning(make_optimizer(cfg), cfg, model("with a convolution")).init, start)


def first_updates(**changes) -> dict[str, float]:
    """Path -> largest entry of the update, before the rate, of parameters of ones by gradients of ones."""
    run = task_config(model={"num_layers": LAYERS}, optimizer=changes)
    tx, schedule = optimizers_of(run, ("",))[""]
    assert float(schedule(jnp.array(0))) == pytest.approx(run.optimizer.learning_rate / run.optimizer.warmup_steps)
    ones = jax.tree.map(np.ones_like, parameters("without a convolution"))
    updates, _ = tx.update(ones, tx.init(ones), ones, finite=jnp.array(True))
    return {path: float(np.abs(leaf).max()) for path, leaf in named_leaves(jax.device_get(updates))}


def test_a_runs_optimizer_is_what_its_config_says():
    plain, both = first_updates(), first_updates(layer_decay=0.5, freeze=("^encoder/embeddings",))
    assert all(size > 0.9 for size in plain.values())
    for path, factor in factors("without a convolution").items():
        share = 0 if "embeddings" in path else factor.max()
        assert both[path] == pytest.approx(share * plain[path], rel=1e-3), path


def test_pretraining_has_neither():
    tx = optimizers_of(tiny_config(), ("",))[""].tx
    plain = make_optimizer(tiny_config().optimizer)
    tree = nested(dict.fromkeys(("anything/bias", "anything/norm/scale", "anything/kernel"), np.ones(2, np.float32)))
    assert jax.tree.structure(tx.init(tree)) == jax.tree.structure(plain.init(tree))
    jax.tree.map(np.testing.assert_array_equal, after(tx, tree, [tree]), after(plain, tree, [tree]))
