"""Parity with transformers in float32: states, logits, the gradient of every tensor, and directories written back.

The default tests compare with what tests/golden keeps of transformers' numbers; those marked `torch` run transformers
and compare everything. The cases, their weights and inputs are those of hf_cases.py.
"""

import functools
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hf_cases
import slow_deberta
from builders import COMPILE_FAST
from deberta_jax.convert import names, trees
from deberta_jax.convert.load import load_with_report
from deberta_jax.convert.save import Tensors, save_pretrained
from deberta_jax.convert.weights import open_weights, write_weights
from deberta_jax.model.by_head import head_of, outputs_of
from deberta_jax.model.encoder import Encoder
from deberta_jax.ops.buckets import row_of_distance
from hf_cases import BY_NAME, CASES, Case, Computed, Golden, norm

VALUES = 2e-5  # absolute, of states and logits
GRADIENTS = 1e-4  # of a tensor's gradient, relative to its norm
ROUNDING = 1e-6  # of the largest norm among a model's tensors: a gradient below is taken for zero
TORCH_TWICE = 5e-6  # the same weights at another place in memory: torch's vector code begins elsewhere
STATES_MOVE = 0.2  # by how much, at least somewhere, the last states change when the relative table is emptied

each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A temporary directory that does not outlive the test: the wide models are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def write_by_rule(case: Case, directory: Path) -> Path:
    """The directory that transformers would have saved."""
    golden = hf_cases.read_golden(case)
    (directory / "config.json").write_text(golden.config)
    tensors = {name: hf_cases.weight(case, name, shape) for name, shape in golden.shapes.items()}
    write_weights(directory / "model.safetensors", tensors)
    return directory


def load(case: Case, directory: Path, *, clamp_distance: bool = False) -> tuple[Any, Any]:
    """Model and parameters; nothing may be missing or unused."""
    model, params, report = load_with_report(directory, case.head, clamp_distance=clamp_distance)
    assert (report.missing, report.unused, report.new) == ((), (), ())
    return model, params


def all_states(model: Any, params: Any, batch: Mapping[str, Any]) -> jax.Array:
    """[layers + 1, b, l, e]; choices are rows."""

    def method(module, *inputs):
        encoder = module if isinstance(module, Encoder) else module.encoder
        return encoder(*inputs, deterministic=True, all_hidden_states=True)[1]

    rows = [None if x is None else x.reshape(-1, x.shape[-1]) for x in ordered(batch)]
    return model.apply({"params": params}, *rows, method=method)


def ordered(batch: Mapping[str, Any]) -> tuple:
    return batch["input_ids"], batch["attention_mask"], None, batch.get("token_type_ids")


@functools.cache
def step_of(model: Any) -> Callable[..., Any]:
    """Gradient, and (states, outputs), of (params, batch, weights of the loss): compiled once for each model."""

    def loss(params, batch, weights):
        outputs = model.apply({"params": params}, *ordered(batch), deterministic=True)
        outputs = jnp.stack(outputs, axis=-1) if isinstance(outputs, tuple) else outputs
        return jnp.sum(outputs * weights), (all_states(model, params, batch), outputs)

    return jax.jit(jax.grad(loss, has_aux=True), compiler_options=COMPILE_FAST)


def compute(case: Case, model: Any, params: Any, theirs: Collection[str]) -> Computed:
    """What our model gives; gradients under the names `theirs`."""
    step = step_of(model.clone(origin=""))
    gradients, (states, outputs) = step(params, hf_cases.inputs(case), hf_cases.loss_weights(case))
    head, head_cfg = head_of(model)
    table = names.tensors(model.cfg, head, outputs_of(head_cfg), names.names_in(theirs))
    named = Tensors(table, trees.flattened(jax.device_get(gradients)), model.cfg, {})
    return Computed(np.asarray(states), np.asarray(outputs), named)


def differs(ours: np.ndarray, theirs: np.ndarray) -> float:
    """By how much, at most."""
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)))


def is_rounding(size: float, sizes: Collection[float]) -> bool:
    """Whether a gradient of this norm is zero but for rounding, by the norms of all tensors of the model.

    So is that of a key's bias without p2c: it adds the same to all scores of a query.
    """
    return size < ROUNDING * max(sizes)


def assert_agrees_with_samples(case: Case, ours: Computed, golden: Golden) -> None:
    states, outputs = hf_cases.sampled(case, ours.states, ours.outputs)
    assert differs(states, golden.states) < VALUES
    assert differs(outputs, golden.outputs) < VALUES
    assert ours.gradients.keys() == golden.gradients.keys()
    sizes = [size for size, _ in golden.gradients.values()]
    for name, (size, product) in golden.gradients.items():
        gradient = ours.gradients[name]
        if is_rounding(size, sizes):
            assert is_rounding(norm(gradient), sizes), name
            continue
        assert abs(norm(gradient) - size) < GRADIENTS * size, name
        assert abs(hf_cases.product(case, name, gradient) - product) < GRADIENTS * size, name


def assert_agrees_everywhere(case: Case, ours: Computed, theirs: Computed) -> None:
    """Prints the largest errors before it judges them."""
    real = hf_cases.inputs(case)["attention_mask"] > 0
    states = differs(ours.states[:, real.reshape(-1, case.length)], theirs.states[:, real.reshape(-1, case.length)])
    shown = ... if case.kind in hf_cases.OF_SEQUENCES else real
    outputs = differs(ours.outputs[shown], theirs.outputs[shown])
    gradients = gradient_errors(ours.gradients, theirs.gradients)
    worst = max(gradients, key=gradients.get)
    print(f"{case.name}: states {states:.1e}, outputs {outputs:.1e}, gradients {gradients[worst]:.1e} ({worst})")
    assert states < VALUES and outputs < VALUES
    assert gradients[worst] < GRADIENTS


def gradient_errors(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """By tensor: the norm of the difference over the norm; not of those that are zero but for rounding in both."""
    assert ours.keys() == theirs.keys()
    sizes = {name: norm(gradient) for name, gradient in theirs.items()}
    errors = {}
    for name, size in sizes.items():
        gradient = ours[name]
        if is_rounding(size, sizes.values()):
            assert is_rounding(norm(gradient), sizes.values()), name
        else:
            errors[name] = norm(gradient - theirs[name]) / size
    return errors


def emptied(params: Any) -> Any:
    """The same with a relative table that holds nothing but zeros."""
    return jax.tree_util.tree_map_with_path(lambda path, x: 0 * x if path[-1].key == "relative" else x, params)


# Without torch.


@each_case
def test_a_directory_of_transformers_computes_what_transformers_computed(case, directory):
    model, params = load(case, write_by_rule(case, directory))
    golden = hf_cases.read_golden(case)
    ours = compute(case, model, params, golden.shapes)
    assert_agrees_with_samples(case, ours, golden)
    # There must be something to agree on. The wide models, which take seconds, draw theirs by the same rule.
    if model.cfg.pos_att_type and case.fields["hidden_size"] < hf_cases.WIDE["hidden_size"]:
        without = compute(case, model, emptied(params), golden.shapes)
        assert differs(without.states[-1], ours.states[-1]) > STATES_MOVE


def terms_of(fields: Mapping[str, Any]) -> str:
    terms = fields["pos_att_type"] if fields["relative_attention"] else ()
    return " ".join(term for term in ("c2p", "p2c") if term in terms)


def given(name: str, default: Any) -> Callable[[Case], Any]:
    return lambda case: case.fields.get(name, default)


OF_BOTH = {
    "class": (lambda case: case.kind, set(hf_cases.HEADS) - {"ForMultipleChoice"}),
    "masked LM head": (
        lambda case: (case.kind == "ForMaskedLM", case.fields.get("legacy", True)),
        {(True, False), (True, True)},
    ),
    "labels": (given("num_labels", 2), {1, 2, 3, 5}),
    "length": (lambda case: case.length, {5, 130, 513, 700}),
    "rows": (lambda case: case.rows, {1, 3}),
    "padding": (lambda case: case.padding, {"none", "right", "left", "holes"}),
    "terms": (lambda case: terms_of(case.fields), {"", "c2p", "p2c", "c2p p2c"}),
    "biased input": (given("position_biased_input", True), {False, True}),
    "token types": (given("type_vocab_size", 0), {0, 2}),
    "activation": (given("hidden_act", "gelu"), {"gelu", "relu", "silu", "gelu_new"}),
    "limit given": (lambda case: case.fields.get("max_relative_positions", -1) > 0, {False, True}),
    "projected table": (lambda case: "embedding_size" in case.fields, {False, True}),
    "layers": (given("num_hidden_layers", None), {2, 3, 4}),
    "width": (given("hidden_size", None), {32, 64, 768}),
}
OF_V2 = {
    "choices": (lambda case: case.kind, {"ForMultipleChoice"}),
    "buckets": (given("position_buckets", -1), {-1, 8, 256}),
    "shared projections": (
        lambda case: (case.fields.get("share_att_key", False), terms_of(case.fields)),
        {(shared, terms) for shared in (False, True) for terms in ("c2p", "p2c", "c2p p2c")},
    ),
    "table norm": (given("norm_rel_ebd", "none"), {"layer_norm", "none"}),
    "taps": (given("conv_kernel_size", 0), {0, 3, 5}),
    "groups": (given("conv_groups", 1), {1, 2}),
    "convolution's activation": (given("conv_act", "tanh"), {"tanh", "gelu"}),
    "head size given": (lambda case: "attention_head_size" in case.fields, {False, True}),
}


@pytest.mark.parametrize(("family", "switches"), [("Deberta", OF_BOTH), ("DebertaV2", OF_BOTH), ("DebertaV2", OF_V2)])
def test_every_value_of_every_switch_has_a_case(family, switches):
    cases = [case for case in CASES if case.family == family]
    missing = {name: wanted - {value(case) for case in cases} for name, (value, wanted) in switches.items()}
    assert {name: values for name, values in missing.items() if values} == {}


# Where transformers and Microsoft's code differ: a key 512 and more tokens after its query. See ops/buckets.py.

LONG = BY_NAME["v2_mlm_700"]


def test_only_distances_of_minus_512_and_below_differ():
    distances = np.arange(-700, 700)
    rows = {clamp: row_of_distance(distances, 256, 512, clamp=clamp) for clamp in (False, True)}
    for clamp, found in rows.items():
        assert found.tolist() == [slow_deberta.table_row(int(d), 0, 256, 512, clamp) for d in distances]
    differ = rows[False] != rows[True]
    assert distances[differ].tolist() == list(range(-700, -511))
    assert set(rows[False][differ]) == {0} and set(rows[True][differ]) == {1}


@pytest.mark.parametrize("clamp_distance", [False, True])
def test_either_way_is_that_of_the_model_written_a_second_time(clamp_distance, directory):
    case = BY_NAME["v2_encoder"]
    model, params = load(case, write_by_rule(case, directory), clamp_distance=clamp_distance)
    batch = {name: array[:2, -60:] for name, array in hf_cases.inputs(case).items()}  # the limit is 16
    found = np.asarray(jax.jit(functools.partial(all_states, model), compiler_options=COMPILE_FAST)(params, batch))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    slow = slow_deberta.encoder_states(model.cfg, params, ids, mask, np.tile(np.arange(60), (2, 1)))
    assert differs(found[:, mask > 0], np.stack(slow)[:, mask > 0]) < VALUES


def test_clamped_distances_are_not_what_transformers_computed(directory):
    model, params = load(LONG, write_by_rule(LONG, directory), clamp_distance=True)
    states = jax.jit(functools.partial(all_states, model), compiler_options=COMPILE_FAST)(params, hf_cases.inputs(LONG))
    rows, columns = hf_cases.sampled_positions(LONG)
    moved = np.abs(np.asarray(states)[:, rows, columns] - hf_cases.read_golden(LONG).states).max(axis=-1)
    near = columns >= 700 - 512  # no key is that far after them
    assert moved[1, near].max() < VALUES
    assert moved[1, ~near].min() > 100 * VALUES


# With transformers.


def import_transformers() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")


def assert_same_weights(ours: Path, theirs: Path) -> None:
    """Bit for bit, under the same names, in the same dtypes."""
    ours, theirs = open_weights(ours), open_weights(theirs)
    assert ours.shapes_and_dtypes() == theirs.shapes_and_dtypes()
    for name in theirs:
        assert np.array_equal(ours[name].view(np.uint8), theirs[name].view(np.uint8)), name


def assert_loads(case: Case, directory: Path, reference: Any, outputs: np.ndarray) -> None:
    """That transformers finds every tensor there, with the reference's values, and computes the same."""
    model, found = type(reference).from_pretrained(directory, output_loading_info=True)
    assert not any(found.values()), found
    read = dict(model.named_parameters())
    for name, parameter in reference.named_parameters():
        assert np.array_equal(read[name].detach().numpy(), parameter.detach().numpy()), name
    _, again = hf_cases.forward(case, model.eval())
    assert differs(again.detach().numpy(), outputs) < TORCH_TWICE


def assert_still_golden(now: Golden, kept: Golden) -> None:
    """Not bitwise: another processor adds in another order."""
    fields, fields_kept = ({**json.loads(each.config), "transformers_version": ""} for each in (now, kept))
    assert fields == fields_kept
    assert now.shapes == kept.shapes
    assert differs(now.states, kept.states) < VALUES
    assert differs(now.outputs, kept.outputs) < VALUES
    sizes = [size for size, _ in kept.gradients.values()]
    for name, (size, product) in kept.gradients.items():
        allowed = max(GRADIENTS * size, ROUNDING * max(sizes))
        assert np.abs(np.subtract(now.gradients[name], (size, product))).max() < allowed, name


@pytest.mark.torch
@each_case
def test_transformers_agrees_everywhere_and_reads_what_is_written_back(case, directory):
    import_transformers()
    reference = hf_cases.reference_model(case)
    reference.save_pretrained(directory / "theirs")
    theirs = hf_cases.reference(case, reference)
    assert_still_golden(hf_cases.golden_of(case, directory / "theirs", theirs), hf_cases.read_golden(case))
    model, params = load(case, directory / "theirs")
    assert_agrees_everywhere(case, compute(case, model, params, theirs.gradients), theirs)
    save_pretrained(directory / "ours", model, params)
    assert_same_weights(directory / "ours", directory / "theirs")
    assert_loads(case, directory / "ours", reference, theirs.outputs)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["v1_mlm_legacy", "v1_mlm", "v2_mlm_legacy_convolved", "v2_choices"])
def test_half_precision_is_written_back_as_it_was(name, dtype, directory):
    import_transformers()
    import torch

    case = BY_NAME[name]
    hf_cases.reference_model(case).to(getattr(torch, dtype)).save_pretrained(directory / "theirs")
    model, params = load(case, directory / "theirs")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    save_pretrained(directory / "ours", model, params)
    assert_same_weights(directory / "ours", directory / "theirs")
    assert {kind for _, kind in open_weights(directory / "ours").shapes_and_dtypes().values()} == {dtype}
    assert json.loads((directory / "ours" / "config.json").read_text())["dtype"] == dtype


@pytest.mark.torch
@pytest.mark.parametrize(("buckets", "limit"), [(256, 512), (8, 16), (8, 160), (32, 128), (64, 1024)])
def test_rows_of_the_table_are_those_of_transformers(buckets, limit):
    import_transformers()
    import torch
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distances = np.arange(-2 * limit, 2 * limit)
    theirs = make_log_bucket_position(torch.from_numpy(distances), buckets, limit).long().numpy() + buckets
    ours = row_of_distance(distances, buckets, limit, clamp=False)
    np.testing.assert_array_equal(ours, np.clip(theirs, 0, 2 * buckets - 1))
