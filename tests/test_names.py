import numpy as np
import pytest

import hf_directories as hf
from builders import tiny_model
from deberta_jax.config import HeadConfig
from deberta_jax.convert import names, trees
from deberta_jax.convert.load import parameter_shapes
from deberta_jax.errors import Refused
from deberta_jax.model.by_head import MODELS, WITH_LABELS, build_model, outputs_of

V1 = {"share_att_key": False, "key_bias": False, "norm_rel_ebd": "none", "position_buckets": 0}
ARCHITECTURES = {
    "v1": V1,
    "v1 split": V1 | {"key_bias": True},
    "v2": {"conv_kernel_size": 3, "num_layers": 4},
    "v2 of three layers, in groups": {"conv_kernel_size": 5, "conv_groups": 2},
    "v2 of two layers": {"conv_kernel_size": 3, "num_layers": 2},
    "v3": {},
    "a narrow word table": {"embedding_size": 20},
    "token types": {"type_vocab_size": 2},
    "c2p alone": V1 | {"pos_att_type": ("c2p",)},
    "p2c alone": V1 | {"pos_att_type": ("p2c",), "key_bias": True},
    "one layer": {"num_layers": 1, "decoder": "none"},
    "no decoder": {"decoder": "none"},
    "BERT": {"pos_att_type": (), "position_biased_input": True, "decoder": "none"},
    "large heads": {"attention_head_size": 24},
}
OF_FILES = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 70, "max_position_embeddings": 32}
HEAD_CONFIG = HeadConfig(("a", "b", "c"), pooler_activation="gelu", pooler_dropout=0.0, classifier_dropout=0.0)


def model_of(changes, head):
    cfg = tiny_model(**changes)
    return cfg, build_model(head, cfg, HEAD_CONFIG if head in WITH_LABELS else None)


def table_of(cfg, head, **changes):
    head_cfg = HEAD_CONFIG if head in WITH_LABELS else None
    named = names.Names(**vars(names.default_names(cfg)) | changes)
    return names.tensors(cfg, head, outputs_of(head_cfg), named)


@pytest.mark.parametrize(
    ("architecture", "head"),
    [*((name, "mlm") for name in ARCHITECTURES), *(("v3", head) for head in MODELS)]
    + [("one layer", "encoder"), ("a narrow word table", "sequence_classification"), ("v1", "multiple_choice")],
)
def test_every_parameter_is_named_exactly_once(architecture, head):
    cfg, model = model_of(ARCHITECTURES[architecture], head)
    shapes = {path: leaf.shape for path, leaf in trees.flattened(parameter_shapes(model)).items()}
    named = [trees.place_of(ours, cfg) for tensor in table_of(cfg, head) for ours in tensor.ours]
    places = []
    for path, shape in shapes.items():
        in_stack = "blocks" in path.split("/")
        places += [(path, index) for index in range(shape[0])] if in_stack else [(path, None)]
    assert sorted(named, key=str) == sorted(places, key=str)
    theirs = [tensor.theirs for tensor in table_of(cfg, head)]
    assert len(theirs) == len(set(theirs))


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_turning_gives_our_shapes_and_turning_back_the_same_values(changes):
    rng = np.random.default_rng(0)
    cfg, model = model_of(changes, "mlm")
    shapes = {path: leaf.shape for path, leaf in trees.flattened(parameter_shapes(model)).items()}
    for tensor in table_of(cfg, "mlm"):
        values = rng.normal(size=tensor.shape).astype(np.float32)
        parts = tensor.turn.to_ours(values, cfg)
        for ours, part in zip(tensor.ours, parts, strict=True):
            path, index = trees.place_of(ours, cfg)
            assert part.shape == (shapes[path] if index is None else shapes[path][1:])
        np.testing.assert_array_equal(tensor.turn.to_theirs(cfg, *parts), values)


def test_the_rows_of_in_proj_are_grouped_by_head():
    cfg = tiny_model(**V1, hidden_size=12, num_heads=3)
    fused = next(tensor for tensor in table_of(cfg, "encoder") if tensor.theirs.endswith("in_proj.weight"))
    row_number = np.arange(36)[:, None].repeat(12, axis=1)  # each entry tells its row
    query, key, value = fused.turn.to_ours(row_number, cfg)
    assert query[0].tolist() == [[0, 1, 2, 3], [12, 13, 14, 15], [24, 25, 26, 27]]
    assert key[0].tolist() == [[4, 5, 6, 7], [16, 17, 18, 19], [28, 29, 30, 31]]
    assert value[0].tolist() == [[8, 9, 10, 11], [20, 21, 22, 23], [32, 33, 34, 35]]
    assert fused.ours == tuple(f"layers/0/attention/{part}/kernel" for part in ("query", "key", "value"))


@pytest.mark.parametrize("legacy", [False, True], ids=["lm_predictions", "cls.predictions"])
@pytest.mark.parametrize("prefix", names.PREFIXES)
@pytest.mark.parametrize("head", MODELS)
@pytest.mark.parametrize("generation", hf.GENERATIONS)
def test_names_and_shapes_are_those_of_the_files(generation, head, prefix, legacy):
    fields = hf.fields_of(generation, head)
    cfg = tiny_model(
        **OF_FILES,
        share_att_key=generation in ("v2", "v3"),
        key_bias=generation != "v1",
        norm_rel_ebd="layer_norm" if generation in ("v2", "v3") else "none",
        position_buckets=8 if generation in ("v2", "v3") else 0,
        max_relative_positions=hf.span_of(fields) if generation in ("v1", "v1 split") else 32,
        conv_kernel_size=3 if generation == "v2" else 0,
    )
    mlm = "cls.predictions." if legacy else "lm_predictions.lm_head."
    table = table_of(cfg, head, prefix=prefix, fused=generation == "v1", mlm=mlm)
    file = hf.shapes_of(fields, head, fused=generation == "v1", prefix=prefix, legacy=legacy)
    assert {tensor.theirs: tensor.shape for tensor in table} == file


@pytest.mark.parametrize("prefix", names.PREFIXES)
@pytest.mark.parametrize("generation", hf.GENERATIONS)
def test_a_file_says_how_it_names_things(generation, prefix):
    found = hf.shapes_of(hf.fields_of(generation), "mlm", fused=generation == "v1", prefix=prefix)
    assert names.names_in(found) == names.Names(prefix, generation == "v1", "lm_predictions.lm_head.")
    legacy = hf.shapes_of(hf.fields_of(generation), "mlm", fused=generation == "v1", prefix=prefix, legacy=True)
    assert names.names_in(legacy).mlm == "cls.predictions."
    assert names.names_in(legacy | found).mlm == "lm_predictions.lm_head."  # the one that was trained


def test_weights_of_another_model_are_refused_with_some_of_their_names():
    with pytest.raises(Refused, match=r"no DeBERTa: .*word_embeddings.*they hold gpt\.a, gpt\.b, gpt\.c") as refused:
        names.names_in(["gpt.c", "gpt.b", "gpt.a", "gpt.d"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (V1, names.Names("deberta.", True, "lm_predictions.lm_head.")),
        ({}, names.Names("deberta.", False, "lm_predictions.lm_head.")),
        # transformers' new head multiplies with the word table without a projection.
        ({"embedding_size": 20}, names.Names("deberta.", False, "cls.predictions.")),
    ],
)
def test_names_of_a_model_that_comes_from_nowhere(changes, expected):
    assert names.default_names(tiny_model(**changes)) == expected


def test_copies_are_the_tied_tensors_that_a_file_has_twice():
    tensors = hf.tensors_of(hf.fields_of("v3"), "mlm", prefix="bert.", legacy=True)
    named = names.names_in(tensors)
    assert names.copies(tensors, named) == {}
    assert names.copies(hf.with_ties(tensors, "bert."), named) == {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


@pytest.mark.parametrize("head", [head for head in MODELS if head != "multiple_choice"])
def test_the_head_in_a_file_is_recognised(head):
    for legacy in (False, True):
        assert names.heads_in(hf.shapes_of(hf.fields_of("v3"), head, legacy=legacy)) == [head]


def test_several_heads_are_all_named_and_a_pooler_alone_is_one():
    shapes = hf.shapes_of(hf.fields_of("v3"), "mlm") | hf.shapes_of(hf.fields_of("v3"), "rtd")
    assert names.heads_in(shapes) == ["mlm", "rtd"]
    # Multiple choice has the same tensors; the caller has to look at config.json.
    assert names.heads_in(hf.shapes_of(hf.fields_of("v3"), "multiple_choice")) == ["sequence_classification"]
    assert names.heads_in(["deberta.embeddings.word_embeddings.weight", "pooler.dense.weight"]) == [
        "sequence_classification"
    ]


def test_padding_rows_are_zero():
    cfg = tiny_model()
    assert (cfg.vocab_size, cfg.vocab_rows) == (100, 128)
    (rows,) = names.VOCABULARY.to_ours(np.ones((100, 32), np.float32), cfg)
    assert rows[:100].all() and not rows[100:].any()
    assert names.VOCABULARY.to_theirs(cfg, rows).shape == (100, 32)
