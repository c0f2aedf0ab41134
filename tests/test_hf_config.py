import dataclasses
import json

import pytest

import hf_directories as hf
from builders import tiny_model
from deberta_jax.config import ACTIVATIONS, HeadConfig
from deberta_jax.convert import hf_config
from deberta_jax.errors import Refused

V1 = {"share_att_key": False, "key_bias": False, "norm_rel_ebd": "none", "position_buckets": 0}


def model_of(fields, *, split=None, decoder="emd"):
    split = fields.get("model_type") != "deberta" if split is None else split
    return hf_config.model_config(
        fields, split_projections=split, decoder=decoder, clamp_distance=True, dtype="float32"
    )


def refusal(function, *args, **options):
    with pytest.raises(Refused) as refused:
        function(*args, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("model_type", "facts"),
    [
        ("deberta", {"vocab_size": 50265, "hidden_size": 768, "num_layers": 12, "num_heads": 12}),
        ("deberta-v2", {"vocab_size": 128100, "hidden_size": 1536, "num_layers": 24, "num_heads": 24}),
    ],
)
def test_a_file_that_says_nothing_means_transformers_defaults(model_type, facts):
    cfg = model_of({"model_type": model_type}, decoder="none")
    facts |= {
        "intermediate_size": 4 * facts["hidden_size"],
        "activation": "gelu",
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "max_position_embeddings": 512,
        "max_relative_positions": 512,
        "type_vocab_size": 0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-7,
        "pos_att_type": (),
        "position_biased_input": True,
        "share_att_key": False,
        "norm_rel_ebd": "none",
        "position_buckets": 0,
        "conv_kernel_size": 0,
        "conv_groups": 1,
        "conv_act": "gelu",  # what a model without a convolution says
        "head_size": 64,
        "embedding_width": facts["hidden_size"],
        "key_bias": model_type == "deberta-v2",
    }
    assert {name: getattr(cfg, name) for name in facts} == facts


def test_a_convolution_has_tanh_and_one_group_if_nothing_is_said():
    cfg = model_of(hf.fields_of("v3", conv_kernel_size=3))
    assert (cfg.conv_kernel_size, cfg.conv_groups, cfg.conv_act) == (3, 1, "tanh")


@pytest.mark.torch
@pytest.mark.parametrize(("model_type", "kind"), [("deberta", "DebertaConfig"), ("deberta-v2", "DebertaV2Config")])
def test_the_defaults_are_those_of_the_transformers_that_is_installed(model_type, kind):
    transformers = pytest.importorskip("transformers")
    defaults = getattr(transformers, kind)().to_dict()
    saying_all = {name: value for name, value in defaults.items() if name in hf.GENERATIONS["v3"]}
    assert len(saying_all) > 12
    assert model_of(saying_all | {"model_type": model_type}, decoder="none") == model_of(
        {"model_type": model_type}, decoder="none"
    )
    # Nothing that transformers writes is unknown here.
    assert model_of(defaults, decoder="none") == model_of({"model_type": model_type}, decoder="none")
    head = hf_config.head_config(defaults, "sequence_classification", None)
    assert head == hf_config.head_config({}, "sequence_classification", None)


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        ({"vocab_size": 77}, {"vocab_size": 77}),
        (
            {"hidden_size": 64, "attention_head_size": -1},
            {"embedding_width": 64, "head_size": 32, "attention_head_size": 0},
        ),
        ({"num_hidden_layers": 7}, {"num_layers": 7}),
        ({"num_attention_heads": 4, "attention_head_size": None}, {"num_heads": 4, "head_size": 4}),
        ({"intermediate_size": 99}, {"intermediate_size": 99}),
        ({"attention_head_size": 8}, {"attention_head_size": 0}),  # what it is anyway
        ({"attention_head_size": 16}, {"attention_head_size": 16}),
        ({"embedding_size": 12}, {"embedding_size": 12, "embedding_width": 12}),
        ({"embedding_size": 16}, {"embedding_size": 0}),
        ({"type_vocab_size": 2}, {"type_vocab_size": 2}),
        ({"hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0}, {"hidden_dropout": 0.25}),
        ({"attention_probs_dropout_prob": 0.5}, {"attention_dropout": 0.5, "hidden_dropout": 0.1}),
        ({"layer_norm_eps": 1e-5, "initializer_range": 0.01}, {"layer_norm_eps": 1e-5, "initializer_range": 0.01}),
        ({"max_position_embeddings": 64}, {"max_position_embeddings": 64, "max_relative_positions": 64}),
        ({"max_relative_positions": 20}, {"max_position_embeddings": 32, "max_relative_positions": 20}),
        ({"max_relative_positions": 0}, {"max_relative_positions": 32}),
        ({"position_buckets": -1}, {"position_buckets": 0, "relative_rows": 64}),
        ({"position_buckets": 16}, {"position_buckets": 16, "relative_rows": 32}),
        ({"norm_rel_ebd": "none|layer_norm"}, {"norm_rel_ebd": "layer_norm"}),
        ({"norm_rel_ebd": "none"}, {"norm_rel_ebd": "none"}),
        ({"share_att_key": False}, {"share_att_key": False, "key_bias": True}),
        ({"pos_att_type": "C2P | p2c"}, {"pos_att_type": ("c2p", "p2c")}),
        ({"pos_att_type": ["p2c"]}, {"pos_att_type": ("p2c",)}),
        ({"pos_att_type": "none", "position_biased_input": True}, {"pos_att_type": ()}),
        ({"conv_kernel_size": 5, "conv_groups": 2, "conv_act": "tanh"}, {"conv_kernel_size": 5, "conv_groups": 2}),
        ({"conv_kernel_size": -1, "conv_groups": 3, "conv_act": "relu"}, {"conv_kernel_size": 0, "conv_groups": 1}),
        ({"hidden_act": "silu"}, {"activation": "swish"}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"activation": "gelu_new"}),
        ({"hidden_act": "gelu_python"}, {"activation": "gelu"}),
        ({"position_biased_input": True}, {"position_biased_input": True}),
    ],
)
def test_each_field_sets_what_it_is_about(fields, facts):
    decoder = "none" if fields.get("position_biased_input") else "emd"
    cfg = model_of(hf.fields_of("v3", **fields), decoder=decoder)
    assert {name: getattr(cfg, name) for name in facts} == facts


def test_what_no_file_says_is_given_by_the_caller():
    fields = hf.fields_of("v3")
    options = {"split_projections": True, "decoder": "none", "clamp_distance": False, "dtype": "bfloat16"}
    cfg = hf_config.model_config(fields, **options)
    assert (cfg.decoder, cfg.clamp_distance, cfg.dtype) == ("none", False, "bfloat16")
    assert (cfg.stochastic_depth, cfg.remat) == (0.0, "none")


@pytest.mark.parametrize(
    ("fields", "split", "generation"),
    [
        ({"model_type": "deberta"}, False, "deberta"),
        ({"model_type": "deberta"}, True, "deberta"),
        ({"model_type": "deberta-v2"}, True, "deberta-v2"),
        ({}, False, "deberta"),
        ({}, True, "deberta-v2"),
    ],
)
def test_the_generation_is_named_or_seen_from_the_weights(fields, split, generation):
    assert hf_config.generation_of(fields, split) == generation


@pytest.mark.parametrize("architecture", ["bert", "deberta_v2", "deberta-v3", None, 3])
def test_other_model_types_are_refused(architecture):
    message = refusal(hf_config.generation_of, {"model_type": architecture}, True)
    assert f"model_type {architecture!r} is no DeBERTa; deberta and deberta-v2 are" in message


def test_fused_weights_are_no_second_generation():
    assert "the weights are fused" in refusal(hf_config.generation_of, {"model_type": "deberta-v2"}, False)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hiden_size": 16}, "unknown field 'hiden_size', did you mean 'hidden_size'?"),
        ({"zzzz": 1}, "unknown field 'zzzz'"),
        ({"talking_head": True}, "talking_head True is not supported, only False"),
        ({"is_decoder": True}, "is_decoder True is not supported, only False"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
        ({"pruned_heads": {"1": [0]}}, "pruned_heads {'1': [0]} is not supported"),
        ({"quantization_config": {"bits": 8}}, "quantization_config {'bits': 8} is not supported"),
        ({"hidden_size": "16"}, "hidden_size '16' has the wrong type; transformers' is 1536"),
        ({"hidden_size": 16.0}, "hidden_size 16.0 has the wrong type"),
        ({"num_hidden_layers": True}, "num_hidden_layers True has the wrong type"),
        ({"relative_attention": 1}, "relative_attention 1 has the wrong type"),
        ({"position_biased_input": "false"}, "position_biased_input 'false' has the wrong type"),
        ({"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob '0.1' has the wrong type"),
        ({"layer_norm_eps": True}, "layer_norm_eps True has the wrong type"),
        ({"norm_rel_ebd": ["layer_norm"]}, "norm_rel_ebd ['layer_norm'] has the wrong type"),
        ({"pos_att_type": 3}, "pos_att_type 3 has the wrong type"),
        ({"pos_att_type": ["c2p", 2]}, "pos_att_type ['c2p', 2] has the wrong type"),
        ({"pos_att_type": {"c2p": True}}, "pos_att_type {'c2p': True} has the wrong type"),
        ({"pos_att_type": "c2q|p2c"}, "pos_att_type 'c2q', did you mean 'c2p'?"),
        ({"pos_att_type": "c2p|p2p"}, "pos_att_type p2p"),
        ({"relative_attention": False}, "pos_att_type names terms, but relative_attention is off"),
        ({"hidden_act": "mish"}, "must be one of gelu, gelu_new, relu, swish, tanh, sigmoid, linear; got 'mish'"),
        ({"conv_kernel_size": 3, "conv_act": "mish"}, "conv_act must be one of"),
        ({"num_attention_heads": 0}, "num_heads must be positive, got 0"),
        ({"num_attention_heads": 3, "attention_head_size": 0}, "hidden_size 16 is not divisible by model.num_heads 3"),
        ({"hidden_size": -16}, "hidden_size must be positive"),
        ({"conv_kernel_size": 2}, "conv_kernel_size must be odd"),
        ({"position_buckets": 300}, "position_buckets must be 0 or lie in"),
    ],
)
def test_what_could_change_numbers_without_a_word_is_refused(fields, said):
    assert said in refusal(model_of, {**hf.fields_of("v3"), **fields})


@pytest.mark.parametrize(
    "fields",
    [{"position_buckets": 8}, {"share_att_key": True}, {"norm_rel_ebd": "layer_norm"}, {"conv_kernel_size": 3}],
)
def test_switches_of_the_second_generation_are_no_fields_of_the_first(fields):
    ((name, value),) = fields.items()
    message = refusal(model_of, hf.fields_of("v1") | fields)
    assert f"{name} {value!r} means nothing to model_type deberta; is it deberta-v2?" in message
    off = {"position_buckets": -1, "share_att_key": False, "norm_rel_ebd": "none", "conv_kernel_size": 0}
    assert model_of(hf.fields_of("v1") | off) == model_of(hf.fields_of("v1"))


def test_fields_that_change_no_number_are_passed_over():
    extra = {"torch_dtype": "float16", "transformers_version": "4.0", "use_cache": True, "pooler_hidden_size": 16}
    extra |= {
        "problem_type": None,
        "pad_token_id": 0,
        "output_attentions": True,
        "architectures": ["X"],
        "legacy": True,
    }
    assert model_of(hf.fields_of("v3") | extra) == model_of(hf.fields_of("v3"))


@pytest.mark.parametrize("name", hf_config.CONFIG_FILES)
def test_a_config_is_read_from_either_file(tmp_path, name):
    (tmp_path / name).write_text('{"hidden_size": 16}')
    assert hf_config.read_config(tmp_path) == {"hidden_size": 16}


def test_of_both_files_transformers_own_counts(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 16}')
    (tmp_path / "model_config.json").write_text('{"hidden_size": 17}')
    assert hf_config.read_config(tmp_path) == {"hidden_size": 16}


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"', "null", b"\xff\xfe"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert str(path) in refusal(hf_config.read_config, tmp_path)


def test_a_directory_without_a_config_and_none_at_all_are_refused(tmp_path):
    assert f"{tmp_path} holds no config.json or model_config.json" in refusal(hf_config.read_config, tmp_path)
    assert str(tmp_path / "no") in refusal(hf_config.read_config, tmp_path / "no")


EXPORTED = {
    "v3": {},
    "v1": V1,
    "v1 with c2p alone": V1 | {"pos_att_type": ("c2p",)},
    "v1 without positions between words": V1 | {"pos_att_type": (), "position_biased_input": True, "decoder": "none"},
    "v1 split": V1 | {"key_bias": True},
    "v2": {"conv_kernel_size": 3, "conv_groups": 2, "conv_act": "relu"},
    "a narrow table and types": {"embedding_size": 20, "type_vocab_size": 2},
    "no decoder": {"decoder": "none"},
    "other numbers": {
        **{"hidden_dropout": 0.2, "attention_dropout": 0.0, "layer_norm_eps": 1e-5, "initializer_range": 0.05},
        **{"max_relative_positions": 20, "max_position_embeddings": 50, "num_heads": 4, "activation": "gelu_new"},
    },
}


@pytest.mark.parametrize("changes", EXPORTED.values(), ids=EXPORTED)
def test_the_fields_of_a_model_describe_it(changes):
    cfg = tiny_model(**changes)
    fields = json.loads(json.dumps(hf_config.fields_of(cfg)))
    assert fields["model_type"] == ("deberta-v2" if cfg.key_bias else "deberta")
    assert fields.get("position_buckets") != 0  # none is -1 in everybody's files
    again = hf_config.model_config(
        fields, split_projections=cfg.key_bias, decoder=cfg.decoder, clamp_distance=True, dtype="float32"
    )
    if not cfg.pos_att_type:  # these say how a table is built that is not there
        again = dataclasses.replace(again, share_att_key=cfg.share_att_key, norm_rel_ebd=cfg.norm_rel_ebd)
    assert again == cfg


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_a_name_in_the_files(activation):
    cfg = tiny_model(activation=activation)
    assert model_of(hf_config.fields_of(cfg)).activation == activation


@pytest.mark.torch
def test_every_activation_is_one_of_transformers():
    activations = pytest.importorskip("transformers.activations")
    assert set(ACTIVATIONS) <= activations.ACT2FN.keys()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"attention_head_size": 24}, "model.hidden_size 32"),
        ({"pos_att_type": ("c2p", "p2c", "p2p")}, "model.pos_att_type p2p"),
        ({"key_bias": False}, "model.share_att_key True"),
        (V1 | {"norm_rel_ebd": "layer_norm"}, "model.norm_rel_ebd 'layer_norm'"),
        (V1 | {"position_buckets": 8}, "model.position_buckets 8"),
        (V1 | {"conv_kernel_size": 3}, "model.conv_kernel_size 3"),
    ],
)
def test_models_that_transformers_lacks_are_refused_by_key(changes, key):
    message = refusal(hf_config.fields_of, tiny_model(**changes))
    assert key in message and "transformers" in message
    assert "model.key_bias False" in message or tiny_model(**changes).key_bias


def head_of(fields, head="sequence_classification", labels=None):
    return hf_config.head_config(fields, head, labels)


def test_a_file_that_says_nothing_about_the_head_means_two_nameless_labels():
    expected = HeadConfig(("LABEL_0", "LABEL_1"), pooler_activation="gelu", pooler_dropout=0.0, classifier_dropout=0.1)
    assert head_of({}) == expected
    nothing = {"id2label": None, "num_labels": None, "cls_dropout": None, "pooler_dropout": None, "pooling": None}
    assert head_of(nothing) == expected


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        ({"num_labels": 3}, {"labels": ("LABEL_0", "LABEL_1", "LABEL_2")}),
        (
            {"id2label": {**{str(n): f"l{n}" for n in range(10, -1, -1)}}},
            {"labels": tuple(f"l{n}" for n in range(11))},
        ),  # by number
        ({"id2label": {"0": "x"}, "num_labels": 3}, {"labels": ("x",)}),
        ({"pooler_hidden_act": "silu", "pooler_dropout": 0.3}, {"pooler_activation": "swish", "pooler_dropout": 0.3}),
        ({"pooling": {"dropout": 0.3, "hidden_act": "tanh"}}, {"pooler_activation": "tanh", "pooler_dropout": 0.3}),
        ({"pooling": {"dropout": 0.3, "hidden_size": 16}, "pooler_dropout": 0.2}, {"pooler_dropout": 0.2}),
        ({"hidden_dropout_prob": 0.4}, {"classifier_dropout": 0.4}),
        ({"hidden_dropout_prob": 0.4, "cls_dropout": 0}, {"classifier_dropout": 0.0}),
    ],
)
def test_each_field_of_a_head_sets_what_it_is_about(fields, facts):
    head = head_of(fields)
    assert {name: getattr(head, name) for name in facts} == facts


def test_tokens_are_classified_without_the_classifiers_own_dropout():
    """As in transformers, whose token classification does not look at cls_dropout."""
    fields = {"hidden_dropout_prob": 0.4, "cls_dropout": 0.2}
    assert head_of(fields, "token_classification").classifier_dropout == 0.4
    assert head_of(fields, "multiple_choice").classifier_dropout == 0.2


def test_given_labels_replace_those_of_the_file():
    assert head_of({"id2label": {"0": "a", "1": "b"}}, labels=["x", "y", "z"]).labels == ("x", "y", "z")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id2label": ["a", "b"]}, "id2label ['a', 'b'] has the wrong type"),
        ({"id2label": {"first": "a"}}, "id2label must map numbers to names"),
        ({"id2label": {"0": "a", "1": "a"}}, "names a label twice"),
        ({"num_labels": "3"}, "num_labels '3' has the wrong type"),
        ({"num_labels": 0}, "at least one label"),
        ({"pooler_dropout": "0.1"}, "pooler_dropout '0.1' has the wrong type"),
        ({"pooler_dropout": 1.5}, "pooler_dropout must lie in [0, 1)"),
        ({"cls_dropout": "0.1"}, "cls_dropout '0.1' has the wrong type"),
        ({"pooler_hidden_act": ["gelu"]}, "pooler_hidden_act ['gelu'] has the wrong type"),
        ({"pooler_hidden_act": "mish"}, "pooler_activation must be one of"),
        ({"pooling": 3}, "pooling 3 has the wrong type"),
        ({"pooling": {"dropout": "0.1"}}, "pooler_dropout '0.1' has the wrong type"),
    ],
)
def test_a_head_that_cannot_be_is_refused(fields, said):
    assert said in refusal(head_of, fields)


@pytest.mark.parametrize("head", ["sequence_classification", "token_classification", "multiple_choice"])
def test_the_fields_of_a_head_describe_it(head):
    hidden = 0.35 if head == "token_classification" else 0.1  # where it has no rate of its own
    head_cfg = HeadConfig(("b", "a", *"cdefghijk"), "tanh", pooler_dropout=0.2, classifier_dropout=0.35)
    fields = json.loads(json.dumps(hf_config.head_fields(head, head_cfg)))
    assert fields["id2label"]["0"] == "b" and fields["label2id"]["k"] == 10
    assert head_of(fields | {"hidden_dropout_prob": hidden}, head) == head_cfg
    model_of(hf.fields_of("v3") | fields)  # no field is unknown


def test_a_model_without_labels_has_no_fields_of_a_head():
    assert hf_config.head_fields("mlm", None) == {}


def test_what_an_export_keeps_says_nothing_about_the_model_or_the_file():
    of_model = hf_config.fields_of(tiny_model()).keys() | hf_config.fields_of(tiny_model(**V1)).keys()
    assert hf_config.KEPT & of_model == {"pad_token_id"}
    assert not hf_config.KEPT & {"dtype", "torch_dtype", "architectures", "transformers_version", "legacy", "id2label"}
    assert {"problem_type", "tokenizer_class", "pad_token_id", "_name_or_path"} <= hf_config.KEPT
