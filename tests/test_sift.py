import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from builders import COMPILE_FAST, LEXICON, packed_batch, scrambled, tiny_config, tiny_model
from configs import meshes
from deberta_jax.config import HeadConfig, SiFTConfig
from deberta_jax.dist.axes import batch_sharding, shardings_of, unboxed
from deberta_jax.dist.mesh import make_mesh
from deberta_jax.model.encoder import Embeddings
from deberta_jax.model.heads import SequenceClassifier
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.objectives import OBJECTIVES, mlm
from deberta_jax.objectives.base import Part
from deberta_jax.objectives.scored import Scored, plain_loss
from deberta_jax.objectives.sift import FIRST_PASS, START, adversary, sift
from deberta_jax.ops.perturbation import random_start
from deberta_jax.train.step import part_gradients

WIDTH, HIDDEN, CLASSES, IDS = 3, 4, 3, 7
LARGE = SiFTConfig(weight=3.0, learning_rate=0.3, initial=0.4, steps=1, loss="symmetric-kl")
KEY = jax.random.key(5)


def toy_keep(key, row_b):
    """Which hidden units a row keeps, [b, 1, h]."""
    return jax.vmap(lambda row: jax.random.bernoulli(jax.random.fold_in(key, row), 0.7, (1, HIDDEN)))(row_b)


def toy_outputs(kind, np_or_jnp, params, batch, keep, delta):
    """Word vectors through a tanh layer with dropout; read per row or per token."""
    real = (batch["documents"] > 0)[..., None]
    h_blh = np_or_jnp.tanh((params["words"][batch["input_ids"]] + delta) @ params["mix"]) * real * keep
    pooled_bc, tokens_blc = h_blh.mean(1) @ params["out"], h_blh @ params["out"]
    offered_blc = np_or_jnp.where(real, tokens_blc, -1e9)
    return {
        "classification": pooled_bc,
        "regression": pooled_bc[:, 0],
        "tagging": tokens_blc,
        "span": (offered_blc[..., 0], offered_blc[..., 1]),
    }[kind]


def toy_compared(kind, outputs, batch):
    weights = batch["weights"] if kind == "tagging" else batch["weights"][:, 0]
    return [(each, weights) for each in (outputs if kind == "span" else [outputs])]


def toy_sums(kind, outputs, batch):
    pairs = toy_compared(kind, outputs, batch)
    costs = [each**2 if kind == "regression" else -jax.nn.log_softmax(each)[..., 0] for each, _ in pairs]
    total = sum((cost * weight).sum() for cost, (_, weight) in zip(costs, pairs, strict=True))
    return {"loss": (total, pairs[0][1].sum())}


def toy(kind, used_keys=None):
    def apply(params, batch, key, variables):
        if used_keys is not None:
            used_keys.append(key)
        delta = 0.0
        if variables:
            params = params | {"words": jax.lax.stop_gradient(params["words"])}
            delta = variables["perturbation"]["encoder"]["embeddings"]["words"]
        return toy_outputs(kind, jnp, params, batch, toy_keep(key, batch["rows"]), delta)

    return Scored(
        apply=apply,
        sums=functools.partial(toy_sums, kind),
        compared=functools.partial(toy_compared, kind),
        regression=kind == "regression",
        perturbed=lambda batch: (batch["rows"], batch["documents"] > 0),
    )


def toy_case(seed=0):
    """(params, batch) of 4 rows of 5 tokens, ragged; some weights are 0 and some are not 1."""
    rng = np.random.default_rng(seed)
    shapes = {"words": (IDS, WIDTH), "mix": (WIDTH, HIDDEN), "out": (HIDDEN, CLASSES)}
    params = {name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    real = np.arange(5)[None] < np.array([5, 3, 4, 2])[:, None]
    batch = {
        "input_ids": rng.integers(0, IDS, (4, 5)),
        "documents": real.astype(np.int32),
        "weights": np.float32(real * rng.choice([0.0, 1.0, 2.0], (4, 5))),
        "rows": np.int32([0, 1, 2, 3]),
    }
    batch["weights"][:, 0] = [1, 2, 0, 1]
    return params, batch


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def cross_entropies(logits, probabilities):
    return -(probabilities * log_softmax(logits)).sum(-1)


SLOW = {
    "symmetric-kl": lambda moved, still: (
        cross_entropies(moved, np.exp(log_softmax(still))) + cross_entropies(still, np.exp(log_softmax(moved)))
    ),
    "kl": lambda moved, still: (np.exp(log_softmax(still)) * (log_softmax(still) - log_softmax(moved))).sum(-1),
    "mse": lambda moved, still: ((moved - still) ** 2).sum(-1),
    "values": lambda moved, still: (moved - still) ** 2,
}


def differences(function, x, step=1e-5):
    """The gradient of a scalar `function` at `x`, an entry at a time."""
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        aside = np.zeros(x.shape)
        aside[place] = step
        gradient[place] = (function(x + aside) - function(x - aside)) / (2 * step)
    return gradient


class SlowSift:
    """The toy's SiFT loss in NumPy and float64, differentiated by differences."""

    def __init__(self, kind, cfg, params, batch, key):
        self.kind, self.cfg, self.batch, self.key = kind, cfg, batch, key
        self.params = {name: np.float64(values) for name, values in params.items()}
        self.last = "values" if kind == "regression" else "symmetric-kl"
        self.still = self.outputs(self.params, key)
        self.delta = self.climb()
        self.moved = self.outputs(self.params, self.pass_key(cfg.steps), self.delta)

    def pass_key(self, index):
        return jax.random.fold_in(self.key, FIRST_PASS + index)

    def outputs(self, params, key, delta=0.0):
        keep = np.asarray(toy_keep(key, self.batch["rows"]))
        return toy_compared(self.kind, toy_outputs(self.kind, np, params, self.batch, keep, delta), self.batch)

    def distance(self, name, moved, still):
        return sum((SLOW[name](a, b) * weight).sum() for (a, weight), (b, _) in zip(moved, still, strict=True))

    def climb(self):
        # As released, symmetric-kl has no more slope here than kl: what it adds is -p(moved) log p(still), both held.
        name = {"symmetric-kl": "kl"}.get(self.cfg.loss, self.cfg.loss)
        real, name = self.batch["documents"] > 0, "values" if self.kind == "regression" else name
        start_key = jax.random.fold_in(self.key, START)
        delta = np.float64(random_start(start_key, self.batch["rows"], real, WIDTH, self.cfg.initial))
        for index in range(self.cfg.steps):
            key = self.pass_key(index)
            height = lambda d, key=key: self.distance(name, self.outputs(self.params, key, d), self.still)  # noqa: E731
            gradient = differences(height, delta)
            delta = delta + self.cfg.learning_rate * gradient / (1e-6 + np.abs(gradient).max(-1, keepdims=True))
        return delta

    def task(self, params):
        total = 0
        for outputs, weight in self.outputs(params, self.key):
            cost = outputs**2 if self.kind == "regression" else -log_softmax(outputs)[..., 0]
            total += (cost * weight).sum()
        return total

    def adversarial(self):
        return self.distance(self.last, self.moved, self.still)

    def with_constants_held(self, params):
        """The loss as a function of `params`, where what is not differentiated stays as it was."""
        still = self.outputs(params, self.key)
        in_branch = params | {"words": self.params["words"]}
        moved = self.outputs(in_branch, self.pass_key(self.cfg.steps), self.delta)
        if self.kind == "regression":
            return self.task(params) + self.cfg.weight * self.distance("values", moved, still)
        total = 0
        for (a, weight), (b, _), (fixed_a, _), (fixed_b, _) in zip(moved, still, self.moved, self.still, strict=True):
            ahead = cross_entropies(a, np.exp(log_softmax(fixed_b)))
            total += ((ahead + cross_entropies(b, np.exp(log_softmax(fixed_a)))) * weight).sum()
        return self.task(params) + self.cfg.weight * total

    def gradient(self, name):
        return differences(lambda values: self.with_constants_held(self.params | {name: values}), self.params[name])


def run(loss, params, batch, key, weight):
    """((loss, (sums, found)), gradients)."""
    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=COMPILE_FAST)
    return jax.device_get(compiled(params, batch, key, {"task": np.float32(weight)}))


CASES = [
    ("classification", "symmetric-kl", 1),
    ("classification", "kl", 3),
    ("classification", "mse", 1),
    ("regression", "symmetric-kl", 2),
    ("tagging", "mse", 1),
    ("span", "kl", 1),
]


@functools.cache
def toy_results(kind, loss, steps):
    """(what SiFT computes, what it should)."""
    cfg = dataclasses.replace(LARGE, loss=loss, steps=steps)
    return run(sift(toy(kind), cfg, "task", WIDTH), *toy_case(), KEY, 7.0), SlowSift(kind, cfg, *toy_case(), KEY)


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_the_loss_is_the_tasks_and_the_adversarial_one_written_plainly(case):
    ((loss, (sums, found)), _), slow = toy_results(*case)
    task, adversarial, count = slow.task(slow.params), slow.adversarial(), slow.still[0][1].sum()
    assert sums["loss"] == (pytest.approx(task, rel=1e-5), count)
    assert sums["adversarial_loss"] == (pytest.approx(adversarial, rel=1e-4), count)
    assert loss == pytest.approx((task + 3 * adversarial) / 7, rel=1e-4)
    assert set(sums) == {"loss", "adversarial_loss"} and found == {}


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_the_gradient_is_that_of_both_passes_with_the_perturbation_held(case):
    (_, gradients), slow = toy_results(*case)
    for name, gradient in gradients.items():
        expected = slow.gradient(name) / 7
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def adversary_of(kind, cfg, params, batch, key):
    def found(params, batch, key):
        scored = toy(kind)
        still = scored.compared(scored.apply(params, batch, key, {}), batch)
        return adversary(scored, cfg, WIDTH, params, batch, key, still)

    return np.asarray(jax.jit(found, compiler_options=COMPILE_FAST)(params, batch, key))


def test_a_step_of_the_ascent_is_as_long_as_the_learning_rate_and_leaves_padding_alone():
    params, batch = toy_case()
    start = random_start(jax.random.fold_in(KEY, START), batch["rows"], batch["documents"] > 0, WIDTH, 0.4)
    delta = adversary_of("classification", LARGE, params, batch, KEY)
    real, counts = batch["documents"] > 0, batch["weights"][:, 0] > 0
    assert not delta[~real].any()
    length_bl = np.abs(delta - start).max(-1)
    np.testing.assert_allclose(length_bl[real & counts[:, None]], 0.3, rtol=1e-2)
    assert np.abs(delta).max() <= 2 * 0.4 + 0.3
    assert length_bl[~counts].max() < 1e-6  # a row without weight has nothing to climb


def test_the_ascent_goes_up():
    params, batch = toy_case()
    cfg = dataclasses.replace(LARGE, learning_rate=0.02)
    slow = SlowSift("classification", cfg, params, batch, KEY)
    start = random_start(jax.random.fold_in(KEY, START), batch["rows"], batch["documents"] > 0, WIDTH, 0.4)
    heights = [
        slow.distance("kl", slow.outputs(slow.params, slow.pass_key(0), np.float64(delta)), slow.still)
        for delta in (start, adversary_of("classification", cfg, params, batch, KEY))
    ]
    assert heights[1] > heights[0]


def test_each_pass_has_a_key_of_its_own_and_the_clean_one_that_of_the_step():
    cfg = dataclasses.replace(LARGE, steps=3)

    @jax.jit
    def used_in_a_step(params, batch, key):
        used = []
        sift(toy("classification", used), cfg, "task", WIDTH)(params, batch, key, {"task": 7.0})
        return [jax.random.key_data(each) for each in (*used, jax.random.fold_in(key, START))]

    used = [tuple(each.tolist()) for each in used_in_a_step(*toy_case(), KEY)]
    assert used[0] == tuple(jax.random.key_data(KEY).tolist())
    assert len(set(used)) == len(used) == 1 + 3 + 1 + 1


def test_with_weight_zero_it_is_the_plain_loss_bit_for_bit():
    cfg = dataclasses.replace(LARGE, weight=0.0)
    one = run(sift(toy("span"), cfg, "task", WIDTH), *toy_case(), KEY, 7.0)
    other = run(plain_loss(toy("span"), "task"), *toy_case(), KEY, 7.0)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_model_without_an_opinion_pays_twice_the_entropy_and_learns_nothing_from_it():
    params, batch = toy_case()
    params["out"][:] = 0
    (_, (sums, _)), gradients = run(sift(toy("classification"), LARGE, "task", WIDTH), params, batch, KEY, 7.0)
    total, count = sums["adversarial_loss"]
    assert total / count == pytest.approx(2 * np.log(CLASSES), rel=1e-6)
    _, plain = run(plain_loss(toy("classification"), "task"), params, batch, KEY, 7.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradients, plain)


@pytest.mark.parametrize("kind", ["classification", "regression", "tagging", "span"])
def test_a_row_is_compared_with_itself_alone(kind):
    """The parts of a batch add up to it, whichever rows stand together."""
    params, batch = toy_case()
    compiled = jax.jit(sift(toy(kind), LARGE, "task", WIDTH), compiler_options=COMPILE_FAST)
    weight = {"task": np.float32(7)}
    whole, (sums, _) = compiled(params, batch, KEY, weight)
    order = np.array([3, 1, 0, 2])
    parts = [
        compiled(params, {name: values[order[rows]] for name, values in batch.items()}, KEY, weight)
        for rows in (slice(0, 2), slice(2, 4))
    ]
    assert float(whole) == pytest.approx(sum(float(loss) for loss, _ in parts), rel=1e-5)
    expected = sum(float(sums["adversarial_loss"][0]) for _, (sums, _) in parts)
    assert float(sums["adversarial_loss"][0]) == pytest.approx(expected, rel=1e-5)


SMALL = {"num_layers": 1, "decoder": "none"}
CALM = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
EVERY_VECTOR = {"position_biased_input": True, "type_vocab_size": 2, "embedding_size": 20, "layer_norm_eps": 0.01}


def layer_norm(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


@pytest.mark.parametrize("changes", [{}, EVERY_VECTOR], ids=["words", "projected sum of words, positions and types"])
def test_embeddings_add_the_perturbation_to_normalised_vectors(changes):
    cfg, rng = tiny_model(**SMALL | changes), np.random.default_rng(0)
    batch, types = packed_batch(), rng.integers(0, 2, (4, 24))
    model, real = Embeddings(cfg), batch["documents"] > 0
    inputs = (batch["input_ids"], real, batch["positions"], types if changes else None, None)
    params = scrambled(jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs)["params"]))
    apply = jax.jit(lambda variables: model.apply({"params": params} | variables, *inputs))
    with_delta = lambda delta: apply({"perturbation": {"words": jnp.asarray(delta)}})  # noqa: E731
    delta = np.float32(0.5 * rng.normal(size=(4, 24, 32)))
    x = np.float64(params["word"])[batch["input_ids"]]
    if changes:
        x = (x + params["position"][batch["positions"]] + params["token_type"][types]) @ params["projection"]["kernel"]
    spread = np.sqrt(x.var(-1, keepdims=True) + cfg.layer_norm_eps)
    moved = layer_norm(x + spread * delta, cfg.layer_norm_eps)
    expected = (moved * params["norm"]["scale"] + params["norm"]["bias"]) * real[..., None]
    np.testing.assert_allclose(with_delta(delta), expected, atol=1e-5)
    np.testing.assert_allclose(with_delta(np.zeros_like(delta)), apply({}), atol=1e-6)


def classifier(model):
    """Of one output: a regression on "values"."""

    def apply(params, batch, key, variables):
        rngs = None if key is None else {"dropout": key}
        inputs = batch["input_ids"], batch["documents"], batch["positions"]
        every = {"params": params, **variables}
        logits = model.apply(every, *inputs, deterministic=key is None, rows=batch["rows"], rngs=rngs)
        return logits if len(model.head.labels) > 1 else logits[:, 0]

    def sums(outputs, batch):
        cost = outputs**2 if outputs.ndim == 1 else -jax.nn.log_softmax(outputs)[:, 1]
        return {"loss": (cost.sum(), jnp.float32(cost.size))}

    return Scored(
        apply,
        sums,
        compared=lambda outputs, batch: [(outputs, jnp.ones(outputs.shape[0]))],
        regression=len(model.head.labels) == 1,
        perturbed=lambda batch: (batch["rows"], batch["documents"] > 0),
    )


@functools.cache
def classifier_and_shapes(labels=("no", "maybe", "yes"), **changes):
    model = SequenceClassifier(tiny_model(**SMALL | changes), HeadConfig(labels, "tanh", 0.0, 0.0))
    ids = jnp.ones((1, 8), jnp.int32)
    return classifier(model), jax.eval_shape(
        lambda: model.init(jax.random.key(0), ids, ids, deterministic=True)["params"]
    )


def test_the_perturbation_of_a_model_climbs_the_slope_that_differences_find():
    scored, shapes = classifier_and_shapes(("score",), **CALM)
    params, batch, cfg = scrambled(shapes), packed_batch(), dataclasses.replace(LARGE, steps=1, learning_rate=1.0)

    @functools.partial(jax.jit, compiler_options=COMPILE_FAST)
    def found(params, batch):
        still = scored.compared(scored.apply(params, batch, KEY, {}), batch)
        return adversary(scored, cfg, 32, params, batch, KEY, still)

    start = random_start(jax.random.fold_in(KEY, START), batch["rows"], batch["documents"] > 0, 32, cfg.initial)
    step = np.asarray(found(params, batch) - start)
    row, token = 1, 2
    rows = {name: np.broadcast_to(values[row], (65, *values[row].shape)) for name, values in batch.items()}
    aside = np.concatenate([np.zeros((1, 32)), np.eye(32), -np.eye(32)]) * 0.02
    deltas = np.broadcast_to(start[row], (65, 24, 32)).copy()
    deltas[:, token] += np.float32(aside)
    variables = {"perturbation": {"encoder": {"embeddings": {"words": deltas}}}}
    values = np.float64(jax.jit(scored.apply)(params, rows, None, variables))
    still = float(jax.jit(scored.apply)(params, rows, None, {})[0])
    heights = (values - still) ** 2
    slope = heights[1:33] - heights[33:]
    np.testing.assert_allclose(step[row, token], slope / np.abs(slope).max(), atol=0.02)
    assert np.abs(step[row, token]).max() == pytest.approx(1, rel=1e-3)


REALISTIC = SiFTConfig(weight=5.0, learning_rate=1e-4, initial=1e-2, steps=1, loss="symmetric-kl")


def gradients_on(devices, sizes, rules, micro_batches, params):
    """(gradients, loss, sums) of the same 16 rows with dropout, on so many devices."""
    scored, shapes = classifier_and_shapes()
    part = Part(sift(scored, REALISTIC, "task", 32), reaches=("",))
    mesh = make_mesh(tuple(zip(("data", "fsdp", "tensor"), sizes, strict=True)), jax.devices()[:devices])

    @functools.partial(jax.jit, compiler_options=COMPILE_FAST)
    def compiled(params, batch):
        return part_gradients(part, params, batch, KEY, {"task": 16.0}, micro_batches)[:3]

    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        params = jax.device_put(params, shardings_of(shapes, rules, mesh))
        return jax.device_get(compiled(params, jax.device_put(packed_batch(16), batch_sharding(rules, mesh))))


@functools.cache
def fresh_params():
    model = SequenceClassifier(tiny_model(**SMALL), HeadConfig(("no", "maybe", "yes"), "tanh", 0.0, 0.0))
    ids = jnp.ones((1, 8), jnp.int32)
    init = jax.jit(lambda key: unboxed(model.init(key, ids, ids, deterministic=True)["params"]))
    return jax.device_get(init(jax.random.key(0)))


@pytest.mark.parametrize(
    ("devices", "sizes", "rules", "micro_batches"),
    [(8, (8, 1, 1), meshes.dp, 1), (8, (2, 2, 2), meshes.fsdp_tp, 2)],
    ids=["data over 8", "data, fsdp and tensor over 8, 2 micro-batches"],
)
def test_loss_and_gradients_do_not_depend_on_how_the_batch_is_computed(devices, sizes, rules, micro_batches):
    one = gradients_on(1, (1, 1, 1), meshes.dp, 1, fresh_params())
    other = gradients_on(devices, sizes, rules, micro_batches, fresh_params())
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one[0]))
    worst = jax.tree.map(lambda a, b: np.abs(a - b).max() / largest, one[0][""], other[0][""])
    assert max(jax.tree.leaves(worst)) <= 1e-6, worst
    assert one[1] == pytest.approx(other[1], rel=1e-6)
    for name, values in one[2].items():
        np.testing.assert_allclose(values, other[2][name], rtol=1e-6)


def masked_lm(model):
    def apply(params, batch, key, variables):
        inputs = batch["input_ids"], batch["documents"], batch["positions"]
        options = {"masked_positions": batch["masked_positions"], "rows": batch["rows"], "rngs": {"dropout": key}}
        every = {"params": params, **variables}
        return model.apply(every, *inputs, deterministic=False, method="table_logits", **options)

    return Scored(
        apply,
        mlm.logit_sums,
        compared=lambda outputs, batch: [(outputs, batch["weights"])],
        regression=False,
        perturbed=lambda batch: (batch["rows"], batch["documents"] > 0),
    )


def test_a_masked_language_model_trains_as_without_it_at_weight_zero_and_differently_above():
    """The table's rows that are no token have logits of -1e30 in it."""
    config = tiny_config(**SMALL)
    objective, scored = OBJECTIVES["mlm"](config, LEXICON), masked_lm(MaskedLM(config.model))
    params, batch = scrambled(jax.eval_shape(objective.init, jax.random.key(0))), packed_batch()
    weights = {"mlm": batch["weights"].sum()}

    def gradient(loss):
        compiled = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=COMPILE_FAST)
        return jax.device_get(compiled(params, batch, KEY, weights))

    plain = gradient(plain_loss(scored, "mlm"))
    none = gradient(sift(scored, dataclasses.replace(REALISTIC, weight=0.0), "mlm", 32))
    jax.tree.map(np.testing.assert_array_equal, none, plain)
    (loss, (sums, _)), gradients = gradient(sift(scored, REALISTIC, "mlm", 32))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(sums["loss"], plain[0][1][0]["loss"], rtol=1e-6)
    assert loss == pytest.approx(np.divide(*sums["loss"]) + 5 * np.divide(*sums["adversarial_loss"]), rel=1e-6)
    assert not gradients["head"]["bias"][100:].any()
