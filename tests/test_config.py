import copy
import json

import pytest
from ml_collections import ConfigDict

from deberta_jax import config
from deberta_jax.errors import Refused


@pytest.fixture
def values() -> dict:
    """A valid run, as plain values."""
    return {
        "seed": 0,
        "objective": "mlm",
        "steps": 100,
        "batch_size": 8,
        "micro_batches": 2,
        "log_every": 10,
        "max_bad_steps": 3,
        "watchdog_minutes": 30.0,
        "init_from": "",
        "profile_steps": (),
        "mesh": (("data", -1), ("tensor", 1)),
        "dcn_mesh": (("data", 1), ("tensor", 1)),
        "rules": (("batch", ("data", "fsdp")), ("embed", None), ("heads", "tensor")),
        "model": {
            "vocab_size": 4097,
            "hidden_size": 64,
            "embedding_size": 0,
            "type_vocab_size": 0,
            "num_layers": 3,
            "num_heads": 4,
            "attention_head_size": 0,
            "intermediate_size": 256,
            "activation": "gelu",
            "pos_att_type": ("c2p", "p2c"),
            "share_att_key": True,
            "key_bias": True,
            "norm_rel_ebd": "layer_norm",
            "position_buckets": 32,
            "max_relative_positions": 64,
            "clamp_distance": True,
            "max_position_embeddings": 128,
            "position_biased_input": False,
            "conv_kernel_size": 0,
            "conv_groups": 1,
            "conv_act": "gelu",
            "decoder": "emd",
            "hidden_dropout": 0.1,
            "attention_dropout": 0.1,
            "stochastic_depth": 0.0,
            "layer_norm_eps": 1e-7,
            "initializer_range": 0.02,
            "dtype": "float32",
            "remat": "none",
            "scan_layers": True,
            "attention": "auto",
            "dropout_bits": "hash",
        },
        "data": {
            "paths": ("rows",),
            "weights": (),
            "sampling_exponent": 1.0,
            "isolate_documents": False,
            "mask": {"rate": 0.15, "mask_share": 0.8, "random_share": 0.1, "unit": "token", "max_ngram": 1},
            "read_threads": 2,
        },
        "optimizer": {
            "learning_rate": 1e-3,
            "warmup_steps": 10,
            "schedule": "linear",
            "end_fraction": 0.0,
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-6,
            "weight_decay": 0.01,
            "no_decay": ("bias$",),
            "clip_norm": 1.0,
        },
        "eval": {"every": 50, "paths": (), "batch_size": 8, "max_rows": 0, "seed": 0, "samples": 4},
        "checkpoint": {"every_steps": 50, "every_minutes": 0.0, "keep_last": 2, "keep_every": 0},
    }


def changed(values: dict, path: str, value: object) -> dict:
    """`values` with the entry at the dotted `path` set."""
    values = copy.deepcopy(values)
    *groups, name = path.split(".")
    group = values
    for part in groups:
        group = group[part]
    group[name] = value
    return values


def at(built: config.Config, path: str) -> object:
    value = built
    for part in path.split("."):
        value = getattr(value, part)
    return value


def test_a_config_dict_and_plain_values_build_the_same_config(values):
    built = config.build(ConfigDict(values))
    assert built == config.build(values)
    assert built.model.hidden_size == 64 and built.data.mask.rate == 0.15
    assert built.rules == values["rules"]


def test_a_config_survives_the_round_trip_through_json(values):
    built = config.build(changed(values, "optimizer.clip_norm", float("inf")))
    assert config.build(config.to_dict(built)) == built
    assert config.build(json.loads(json.dumps(config.to_dict(built)))) == built


def test_a_config_can_be_hashed_and_not_changed(values):
    built = config.build(values)
    assert hash(built) == hash(config.build(values))
    with pytest.raises(AttributeError):
        built.steps = 3


@pytest.mark.parametrize(
    ("path", "value", "meant"),
    [
        ("steps", 1e5, 100_000),
        ("optimizer.learning_rate", 1, 1.0),
        ("checkpoint.every_minutes", 5, 5.0),
        ("data.paths", ["a", "b"], ("a", "b")),
        ("data.weights", (1,), (1.0,)),
        ("mesh", [["data", 4.0], ["tensor", 1]], (("data", 4), ("tensor", 1))),
        ("dcn_mesh", [], ()),
        ("rules", [["batch", ["data", "fsdp"]]], (("batch", ("data", "fsdp")),)),
        ("profile_steps", [3, 5], (3, 5)),
    ],
)
def test_a_value_is_read_as_the_type_of_its_key(values, path, value, meant):
    got = at(config.build(changed(values, path, value)), path)
    assert got == meant and type(got) is type(meant)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimizer.learnin_rate", 1.0, "no key 'optimizer.learnin_rate', did you mean 'learning_rate'"),
        ("stps", 1, "no key 'stps', did you mean 'steps'"),
        ("steps", 1.5, "steps expects int, got 1.5"),
        ("steps", True, "steps expects int, got True"),
        ("steps", "3", "steps expects int, got '3'"),
        ("model.hidden_dropout", "0.1", "model.hidden_dropout expects float"),
        ("model.hidden_dropout", False, "model.hidden_dropout expects float"),
        ("model.dtype", 32, "model.dtype expects str"),
        ("data.isolate_documents", 1, "data.isolate_documents expects bool"),
        ("data.paths", "rows", "data.paths expects a tuple"),
        ("data.paths", (3,), "data.paths[0] expects str"),
        ("mesh", (("data", 1, 1),), "mesh[0] expects 2 entries"),
        ("model", 3, "model must be a group of keys"),
    ],
)
def test_an_unknown_key_and_a_wrong_type_are_refused_by_name(values, path, value, message):
    with pytest.raises(Refused) as refusal:
        config.build(changed(values, path, value))
    assert message in str(refusal.value)


@pytest.mark.parametrize("path", ["steps", "model.pos_att_type", "data.mask.rate", "optimizer"])
def test_a_missing_key_is_refused_by_name(values, path):
    *groups, name = path.split(".")
    group = values
    for part in groups:
        group = group[part]
    del group[name]
    with pytest.raises(Refused, match=f"lacks the key '{path}'"):
        config.build(values)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("objective", "mml", "objective must be one of"),
        ("steps", 0, "steps must be positive"),
        ("batch_size", 0, "batch_size must be positive"),
        ("micro_batches", 0, "micro_batches must be positive"),
        ("log_every", 0, "log_every must be positive"),
        ("seed", -1, "seed must lie in [0, 2**32), got -1"),
        ("seed", 2**32, "seed must lie in [0, 2**32), got 4294967296"),
        ("eval.seed", -1, "eval.seed must lie in [0, 2**32), got -1"),
        ("max_bad_steps", -1, "max_bad_steps must not be negative"),
        ("watchdog_minutes", -1.0, "watchdog_minutes must not be negative"),
        ("micro_batches", 3, "batch_size 8 is not a multiple of micro_batches 3"),
        ("profile_steps", (3,), "profile_steps must be () or (first, end)"),
        ("mesh", (), "mesh must name axes, each once, got ()"),
        ("mesh", (("data", 1), ("data", 2)), "mesh must name axes, each once, got ('data', 'data')"),
        ("mesh", (("data", -1), ("tensor", -1)), "mesh must have positive sizes, at most one of them -1"),
        ("dcn_mesh", (("data", 0), ("tensor", 1)), "dcn_mesh must have positive sizes, at most one of them -1"),
        ("dcn_mesh", (("tensor", 1), ("data", 2)), "dcn_mesh has the axes ('tensor', 'data'), mesh ('data', 'tensor')"),
        ("dcn_mesh", (("dta", 2), ("tensor", 1)), "dcn_mesh has the axes ('dta', 'tensor'), mesh ('data', 'tensor')"),
        ("optimizer.warmup_steps", 101, "warmup_steps 101 exceeds steps 100"),
        ("model.hidden_size", 0, "model.hidden_size must be positive"),
        ("model.num_heads", 0, "model.num_heads must be positive"),
        ("model.intermediate_size", 0, "model.intermediate_size must be positive"),
        ("model.max_position_embeddings", 0, "model.max_position_embeddings must be positive"),
        ("model.vocab_size", -1, "model.vocab_size must be 0 (from the data) or positive"),
        ("model.num_heads", 5, "model.hidden_size 64 is not divisible by model.num_heads 5"),
        ("model.num_layers", 1, "model.num_layers must be at least 2"),
        ("model.pos_att_type", ("c2p", "c2c"), "model.pos_att_type must be one of c2p, p2c, p2p; got 'c2c'"),
        ("model.embedding_size", -1, "model.embedding_size must not be negative"),
        ("model.norm_rel_ebd", "layernorm", "did you mean 'layer_norm'"),
        ("model.max_relative_positions", 0, "model.max_relative_positions must be positive"),
        ("model.conv_kernel_size", 2, "model.conv_kernel_size must be odd"),
        ("model.conv_groups", 3, "model.hidden_size 64 is not divisible by model.conv_groups 3"),
        ("model.conv_act", "than", "did you mean 'tanh'"),
        ("model.stochastic_depth", 1.0, "model.stochastic_depth must lie in [0, 1)"),
        ("model.pos_att_type", ("c2p", "c2p"), "model.pos_att_type names a term twice"),
        ("model.decoder", "edm", "model.decoder must be one of emd, none; got 'edm', did you mean 'emd'"),
        ("model.dtype", "float16", "model.dtype must be one of"),
        ("model.remat", "all", "model.remat must be one of"),
        ("model.activation", "gleu", "did you mean 'gelu'"),
        ("model.hidden_dropout", 1.0, "model.hidden_dropout must lie in [0, 1)"),
        ("model.attention_dropout", -0.1, "model.attention_dropout must lie in [0, 1)"),
        ("model.position_biased_input", True, "'emd' adds absolute positions at the end"),
        ("model.position_buckets", 65, "model.position_buckets must be 0 or lie in [2, max_relative_positions]"),
        ("model.position_buckets", 1, "model.position_buckets must be 0 or lie in [2, max_relative_positions]"),
        ("data.mask.rate", 0.0, "data.mask.rate must lie in (0, 1)"),
        ("data.mask.rate", 1.0, "data.mask.rate must lie in (0, 1)"),
        ("data.mask.random_share", 0.3, "must lie in [0, 1]"),
        ("data.mask.mask_share", -0.1, "must lie in [0, 1]"),
        ("data.mask.unit", "words", "data.mask.unit must be one of token, word"),
        ("data.mask.max_ngram", 0, "data.mask.max_ngram must be at least 1"),
        (
            "data.paths",
            ("gs://b/rows",),
            "data.paths: gs://b/rows is a bucket, this must be files: mount it (gcsfuse) or copy",
        ),
        ("eval.paths", ("rows", "gs://b/e"), "eval.paths: gs://b/e is a bucket, this must be files: mount it"),
        ("data.paths", ("rows-0", "rows-1", "rows-1"), "data.paths names rows-1 twice"),
        ("eval.paths", ("e", "e"), "eval.paths names e twice"),
        ("data.weights", (1.0, 2.0), "data.weights has 2 entries for 1 data.paths"),
        ("data.weights", (0.0,), "data.weights must be positive"),
        ("data.read_threads", 0, "data.read_threads must be at least 1"),
        ("data.sampling_exponent", 1.1, "data.sampling_exponent must lie in [0, 1]"),
        ("optimizer.schedule", "cosin", "did you mean 'cosine'"),
        ("optimizer.learning_rate", 0.0, "optimizer.learning_rate must be positive"),
        ("optimizer.warmup_steps", -1, "optimizer.warmup_steps must not be negative"),
        ("optimizer.end_fraction", 1.5, "optimizer.end_fraction must lie in [0, 1]"),
        ("optimizer.b1", 1.0, "must lie in [0, 1)"),
        ("optimizer.b2", -0.1, "must lie in [0, 1)"),
        ("optimizer.eps", 0.0, "optimizer.eps must be positive"),
        ("optimizer.weight_decay", -0.1, "optimizer.weight_decay must not be negative"),
        ("optimizer.clip_norm", 0.0, "optimizer.clip_norm must be positive"),
        ("optimizer.learning_rate", float("nan"), "optimizer.learning_rate must be positive"),
        ("eval.batch_size", 0, "eval.batch_size must be positive"),
        ("eval.every", -1, "eval.every must not be negative"),
        ("eval.max_rows", -1, "eval.max_rows must not be negative"),
        ("eval.samples", -1, "eval.samples must not be negative"),
        ("checkpoint.keep_last", 1, "checkpoint.keep_last must be at least 2"),
        ("checkpoint.every_steps", -1, "checkpoint.every_steps must not be negative"),
        ("checkpoint.every_minutes", -0.5, "checkpoint.every_minutes must not be negative"),
        ("checkpoint.keep_every", -1, "checkpoint.keep_every must not be negative"),
    ],
)
def test_nonsense_is_refused_by_name(values, path, value, message):
    with pytest.raises(Refused) as refusal:
        config.build(changed(values, path, value))
    assert message in str(refusal.value)


def test_a_model_that_cannot_know_positions_is_refused(values):
    values = changed(changed(values, "model.decoder", "none"), "model.pos_att_type", ())
    with pytest.raises(Refused, match="nothing would know where a token stands"):
        config.build(values)
    assert config.build(changed(values, "model.position_biased_input", True)).model.has_absolute_positions


@pytest.mark.parametrize(("decoder", "has_positions"), [("emd", True), ("none", False)])
def test_only_the_decoder_or_the_input_uses_absolute_positions(values, decoder, has_positions):
    assert config.build(changed(values, "model.decoder", decoder)).model.has_absolute_positions is has_positions


@pytest.mark.parametrize(("ids", "rows"), [(0, 0), (1, 128), (128, 128), (129, 256), (128_001, 128_128)])
def test_table_rows_are_the_next_multiple_of_128(values, ids, rows):
    assert config.build(changed(values, "model.vocab_size", ids)).model.vocab_rows == rows
    assert config.VOCAB_MULTIPLE == 128


def test_a_head_is_its_share_of_the_width(values):
    assert config.build(values).model.head_size == 16


def test_two_buckets_need_a_limit_above_two(values):
    """The logarithm's base would be 1."""
    values = changed(values, "model.position_buckets", 2)
    with pytest.raises(Refused, match="position_buckets must be 0 or lie in"):
        config.build(changed(values, "model.max_relative_positions", 2))
    assert config.build(changed(values, "model.max_relative_positions", 3)).model.relative_rows == 4


def test_zero_stands_for_the_usual_size(values):
    model = config.build(values).model
    assert (model.embedding_width, model.head_size, model.relative_rows) == (64, 16, 64)
    for key, size in (("embedding_size", 20), ("attention_head_size", 24), ("position_buckets", 0)):
        values = changed(values, "model." + key, size)
    model = config.build(values).model
    assert (model.embedding_width, model.head_size, model.relative_rows) == (20, 24, 128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ()}, "head.labels must name at least one"),
        ({"labels": ("no", "no")}, "head.labels names a label twice"),
        ({"pooler_activation": "gleu"}, "did you mean 'gelu'"),
        ({"pooler_dropout": 1.0}, "head.pooler_dropout must lie in [0, 1)"),
        ({"classifier_dropout": -0.1}, "head.classifier_dropout must lie in [0, 1)"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(changes, message):
    right = {"labels": ("no", "yes"), "pooler_activation": "gelu", "pooler_dropout": 0.0, "classifier_dropout": 0.1}
    config.HeadConfig(**right)
    with pytest.raises(Refused) as refusal:
        config.HeadConfig(**right | changes)
    assert message in str(refusal.value)
