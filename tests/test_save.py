import dataclasses
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn

import hf_directories as hf
from builders import COMPILE_FAST, scrambled, tiny_model
from deberta_jax.config import HeadConfig
from deberta_jax.convert import names, trees
from deberta_jax.convert.load import load_with_report, parameter_shapes
from deberta_jax.convert.save import Tensors, save_pretrained
from deberta_jax.convert.source import open_source, record_origin
from deberta_jax.convert.weights import open_weights
from deberta_jax.errors import Refused
from deberta_jax.model.by_head import MODELS, WITH_LABELS, build_model
from deberta_jax.tokenizers import load_tokenizer

V1 = {"share_att_key": False, "key_bias": False, "norm_rel_ebd": "none", "position_buckets": 0}
HEAD_CONFIG = HeadConfig(("b", "c", "a"), pooler_activation="tanh", pooler_dropout=0.2, classifier_dropout=0.1)
PREFIXES = ("deberta.", "bert.", "")
COMBINATIONS = [(dtype, prefix) for dtype in hf.DTYPES for prefix in PREFIXES]


def assert_same_tensors(directory, other):
    """Names, dtypes, shapes and every bit."""
    one, two = open_weights(directory), open_weights(other)
    assert one.shapes_and_dtypes() == two.shapes_and_dtypes()
    for name in one:
        assert one[name].tobytes() == two[name].tobytes(), name


def assert_comes_back(directory, output, head):
    """directory -> ours -> output: the same tensors, and a config.json of the same model."""
    model, params, report = load_with_report(directory, head)
    save_pretrained(output, model, params)
    assert_same_tensors(output, directory)
    again, same, report_again = load_with_report(output, head)
    assert again.cfg == model.cfg
    assert head not in WITH_LABELS or again.head == model.head
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert dataclasses.replace(report_again, source=str(directory)) == report


@pytest.mark.parametrize("head", hf.HEADS)
@pytest.mark.parametrize("generation", hf.GENERATIONS)
def test_a_directory_comes_back_bit_for_bit(tmp_path, generation, head):
    """Of the nine combinations of dtype and prefix one for each test, each with several generations and heads."""
    number = 2 * list(hf.GENERATIONS).index(generation) + 5 * hf.HEADS.index(head)
    dtype, prefix = COMBINATIONS[number % 9]
    directory = hf.make_directory(tmp_path / "model", generation, head, dtype=dtype, prefix=prefix)
    assert_comes_back(directory, tmp_path / "again", head)


@pytest.mark.slow
@pytest.mark.parametrize("generation", hf.GENERATIONS)
def test_every_directory_comes_back_bit_for_bit(tmp_path, generation):
    for number, head in enumerate(hf.HEADS):
        for dtype, prefix in COMBINATIONS:
            path = tmp_path / f"{number}{dtype}{prefix}"
            directory = hf.make_directory(path / "model", generation, head, dtype=dtype, prefix=prefix)
            model, params, _ = load_with_report(directory, head)
            save_pretrained(path / "again", model, params)
            assert_same_tensors(path / "again", directory)


@pytest.mark.parametrize(
    ("generation", "options"),
    [
        ("v1", {"ties": True, "dtype": "float16"}),
        ("v2", {"ties": True, "dtype": "bfloat16", "prefix": "bert."}),
        ("v3", {"ties": False, "dtype": "float16"}),
        ("v3", {"ties": True, "prefix": "", "position_biased_input": True}),
        ("v3", {"ties": False, "positions": False}),
        ("v2", {"ties": True, "embedding_size": 12, "type_vocab_size": 2, "num_hidden_layers": 2, "conv_groups": 4}),
        ("v1", {"ties": True, "num_hidden_layers": 1, "position_biased_input": True}),
    ],
)
def test_the_legacy_head_comes_back_with_the_copies_it_had(tmp_path, generation, options):
    directory = hf.make_directory(tmp_path / "model", generation, "mlm", legacy=True, **options)
    assert_comes_back(directory, tmp_path / "again", "mlm")
    copies = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert copies & set(open_weights(tmp_path / "again")) == (copies if options["ties"] else set())
    assert config_of(tmp_path / "again")["legacy"] is True


def test_a_directory_written_over_itself_stays_as_it_is(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v2", "mlm", dtype="bfloat16")
    shutil.copytree(directory, tmp_path / "before")
    assert_comes_back(directory, directory, "mlm")
    assert_same_tensors(directory, tmp_path / "before")


def config_of(directory):
    return json.loads((directory / "config.json").read_text())


def exported(tmp_path, generation="v3", head="mlm", *, load=(), **options):
    """config.json after directory -> ours -> directory."""
    directory = hf.make_directory(tmp_path / "model", generation, head, **options)
    model, params, _ = load_with_report(directory, head, **dict(load))
    save_pretrained(tmp_path / "again", model, params)
    return config_of(tmp_path / "again")


@pytest.mark.parametrize("dtype", hf.DTYPES)
def test_the_config_tells_the_dtype_and_the_class(tmp_path, dtype):
    fields = exported(tmp_path, "v1", "token_classification", dtype=dtype)
    assert (fields["dtype"], fields["architectures"]) == (dtype, ["DebertaForTokenClassification"])


@pytest.mark.parametrize(
    ("generation", "head", "model_type", "kind"),
    [
        ("v1", "mlm", "deberta", "DebertaForMaskedLM"),
        ("v1 split", "question_answering", "deberta-v2", "DebertaV2ForQuestionAnswering"),
        ("v2", "rtd", "deberta-v2", "DebertaV2Model"),
        ("v3", "multiple_choice", "deberta-v2", "DebertaV2ForMultipleChoice"),
        ("v3", "encoder", "deberta-v2", "DebertaV2Model"),
    ],
)
def test_what_transformers_calls_the_model(tmp_path, generation, head, model_type, kind):
    """Split projections of the first generation are, to transformers, a second one without its switches."""
    fields = exported(tmp_path, generation, head)
    assert (fields["model_type"], fields["architectures"]) == (model_type, [kind])


@pytest.mark.torch
@pytest.mark.parametrize("head", [head for head in hf.HEADS if head != "rtd"])
@pytest.mark.parametrize("generation", ["v1", "v3"])
def test_transformers_has_the_class_that_is_named(tmp_path, generation, head):
    transformers = pytest.importorskip("transformers")
    (kind,) = exported(tmp_path, generation, head)["architectures"]
    assert hasattr(transformers, kind) or (generation, head) == ("v1", "multiple_choice")


def test_what_only_the_origin_knew_is_kept(tmp_path):
    extra = {"problem_type": "multi_label_classification", "tokenizer_class": "Mine", "pad_token_id": 7}
    gone = {"torch_dtype": "float16", "transformers_version": "4.1", "pooler_hidden_size": 16}
    fields = exported(tmp_path, "v3", "sequence_classification", **extra, **gone)
    assert {name: fields[name] for name in extra} == extra
    assert not gone.keys() & fields.keys()
    assert fields["id2label"] == hf.LABELS and fields["label2id"] == {"no": 0, "maybe": 1, "yes": 2}
    assert (fields["pooler_hidden_act"], fields["pooler_dropout"], fields["cls_dropout"]) == ("tanh", 0.25, 0.15)


def test_given_labels_are_written(tmp_path):
    load = {"labels": ("x", "y", "z")}
    fields = exported(tmp_path, "v3", "token_classification", load=load.items())
    assert fields["id2label"] == {"0": "x", "1": "y", "2": "z"}


@pytest.mark.parametrize(("legacy", "head"), [(True, "mlm"), (False, "mlm"), (None, "rtd"), (None, "encoder")])
def test_legacy_is_told_where_there_is_a_masked_lm_head(tmp_path, legacy, head):
    """transformers takes an absent `legacy` for True, and would look for the head under the other name."""
    assert exported(tmp_path, "v3", head, legacy=bool(legacy)).get("legacy") is legacy


def test_of_two_masked_lm_heads_the_trained_one_is_read_and_written(tmp_path):
    """transformers adds a random legacy head to the released files and saves it with the rest."""
    fields = hf.fields_of("v3", "mlm")
    trained, random = hf.tensors_of(fields, "mlm"), hf.tensors_of(fields, "mlm", legacy=True, seed=1)
    word = "deberta.embeddings.word_embeddings.weight"
    both = hf.with_ties(random | trained)
    hf.write_directory(tmp_path / "model", fields | {"legacy": True}, both)
    model, params, report = load_with_report(tmp_path / "model", "mlm", allow=["cls.*"])
    assert set(report.unused) == random.keys() - trained.keys() | {"cls.predictions.decoder.bias"}
    save_pretrained(tmp_path / "again", model, params)
    assert open_weights(tmp_path / "again").keys() == trained.keys()
    np.testing.assert_array_equal(open_weights(tmp_path / "again")[word], trained[word])
    assert config_of(tmp_path / "again")["legacy"] is False


def test_an_encoder_of_a_masked_lm_file_leaves_the_head_behind_and_its_copies_too(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", "mlm", legacy=True, ties=True)
    model, params, _ = load_with_report(directory, "encoder", allow=["cls.*"])
    save_pretrained(tmp_path / "again", model, params)
    assert open_weights(tmp_path / "again").keys() == hf.shapes_of(hf.fields_of("v3")).keys()


def changed(params, path, change):
    """A copy of `params` with one leaf changed in place by `change`."""
    leaves = {name: np.array(leaf) for name, leaf in trees.flattened(params).items()}
    change(leaves[path])
    return trees.unflatten_dict(leaves, sep="/")


@pytest.mark.parametrize("dtype", hf.DTYPES)
def test_a_change_within_the_precision_keeps_it(tmp_path, dtype, caplog):
    directory = hf.make_directory(tmp_path / "model", "v3", "rtd", dtype=dtype)
    model, params, _ = load_with_report(directory, "rtd")
    params = changed(params, "encoder/last/mlp_in/bias", lambda bias: np.negative(bias, out=bias))
    save_pretrained(tmp_path / "again", model, params)
    assert {found for _, found in open_weights(tmp_path / "again").shapes_and_dtypes().values()} == {dtype}
    name = "deberta.encoder.layer.2.intermediate.dense.bias"
    np.testing.assert_array_equal(open_weights(tmp_path / "again")[name], -open_weights(directory)[name])
    assert "float32: " not in caplog.text


@pytest.mark.parametrize("value", [1 + 2**-20, 1e6, 1e-30], ids=["fine", "large", "small"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_change_beyond_the_precision_makes_the_whole_file_float32(tmp_path, dtype, value, caplog):
    directory = hf.make_directory(tmp_path / "model", "v3", "rtd", dtype=dtype)
    model, params, _ = load_with_report(directory, "rtd")
    params = changed(params, "encoder/blocks/mlp_in/bias", lambda bias: bias[1].__setitem__(3, value))
    save_pretrained(tmp_path / "again", model, params)
    file = open_weights(tmp_path / "again")
    assert {found for _, found in file.shapes_and_dtypes().values()} == {"float32"}
    name = "deberta.encoder.layer.1.intermediate.dense.bias"
    assert file[name][3] == np.float32(value)
    assert config_of(tmp_path / "again")["dtype"] == "float32"
    assert f"{directory} is written as float32: {name} has changed beyond {dtype}" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, load_with_report(tmp_path / "again", "rtd")[1], params)


def test_a_file_of_two_precisions_keeps_both(tmp_path):
    """As of models whose norms were kept in float32."""
    fields = hf.fields_of("v3")
    tensors = hf.tensors_of(fields, dtype="bfloat16")
    tensors |= {n: v.astype(np.float32) for n, v in hf.tensors_of(fields).items() if "LayerNorm" in n}
    assert_comes_back(hf.write_directory(tmp_path / "model", fields, tensors), tmp_path / "again", "encoder")


def test_a_new_head_is_written_with_the_rest(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", dtype="float16")
    head = "sequence_classification"
    options = {"allow": ["pooler.*", "classifier.*"], "labels": ["x", "y", "z"]}
    model, params, _ = load_with_report(directory, head, **options)
    save_pretrained(tmp_path / "again", model, params)
    again, same, report = load_with_report(tmp_path / "again", head)
    assert (again.cfg, again.head) == (model.cfg, model.head)
    assert (report.missing, report.unused) == ((), ())
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_a_grown_vocabulary_is_written_without_its_padding(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", "mlm")
    model, params, _ = load_with_report(directory, "mlm", vocab_size=200)
    save_pretrained(tmp_path / "again", model, params)
    file = open_weights(tmp_path / "again")
    assert file["deberta.embeddings.word_embeddings.weight"].shape == (200, 16)
    assert file["lm_predictions.lm_head.bias"].shape == (200,)
    again, same, _ = load_with_report(tmp_path / "again", "mlm")
    assert again.cfg == model.cfg
    jax.tree.map(np.testing.assert_array_equal, same, params)


ARCHITECTURES = {
    "v1": V1,
    "v2": {"conv_kernel_size": 3, "conv_groups": 2, "conv_act": "tanh"},
    "v3": {},
    "a narrow table and types": {"embedding_size": 20, "type_vocab_size": 2},
    "p2c alone, own projections": V1 | {"pos_att_type": ("p2c",), "key_bias": True},
    "one layer": {"num_layers": 1, "decoder": "none"},
    "BERT": {"pos_att_type": (), "position_biased_input": True, "decoder": "none"} | V1,
}


def fresh(head, **changes):
    """A model of ours that comes from nowhere, with parameters of which none is negligible."""
    model = build_model(head, tiny_model(**changes), HEAD_CONFIG if head in WITH_LABELS else None)
    params = scrambled(parameter_shapes(model))
    for path, leaf in trees.flattened(params).items():
        if path.endswith(("embeddings/word", "head/bias")):
            leaf[model.cfg.vocab_size :] = 0  # no file holds the rows that are no token
    return model, params


@pytest.mark.parametrize(
    ("architecture", "head"),
    [*((name, "mlm") for name in ARCHITECTURES), *(("v3", head) for head in MODELS if head != "mlm")]
    + [("v1", "multiple_choice"), ("v2", "encoder"), ("one layer", "rtd"), ("BERT", "token_classification")],
)
def test_a_model_of_ours_comes_back_bit_for_bit(tmp_path, architecture, head):
    model, params = fresh(head, **ARCHITECTURES[architecture])
    save_pretrained(tmp_path, model, params)
    again, same, report = load_with_report(tmp_path, head)
    assert again.cfg == model.cfg
    assert head not in WITH_LABELS or again.head == model.head
    assert (report.missing, report.unused, report.new) == ((), (), ())
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize("architecture", ["v1", "a narrow table and types"])
def test_the_decoders_logits_come_back_bit_for_bit(tmp_path, architecture):
    model, params = fresh("mlm", **ARCHITECTURES[architecture])
    save_pretrained(tmp_path, model, params)
    again, same, report = load_with_report(tmp_path, "mlm")
    assert report.decoder == "emd: the absolute position table is there"
    ids = np.random.default_rng(0).integers(0, 100, (2, 20)).astype(np.int32)

    def logits(model, params):
        run = jax.jit(model.apply, static_argnames="deterministic", compiler_options=COMPILE_FAST)
        return np.asarray(run({"params": params}, ids, np.ones_like(ids), deterministic=True))

    before = logits(model, params)
    assert before.std() > 0.1
    assert before.tobytes() == logits(again, same).tobytes()


def test_a_model_from_nowhere_has_names_that_both_codes_read(tmp_path):
    for head in ("mlm", "encoder"):
        model, params = fresh(head)
        save_pretrained(tmp_path / head, model, params)
    assert open_weights(tmp_path / "encoder").keys() < open_weights(tmp_path / "mlm").keys()
    assert all(name.startswith("deberta.") for name in open_weights(tmp_path / "encoder"))
    assert "lm_predictions.lm_head.bias" in open_weights(tmp_path / "mlm")
    assert config_of(tmp_path / "mlm")["legacy"] is False
    narrow, params = fresh("mlm", embedding_size=20)
    save_pretrained(tmp_path / "narrow", narrow, params)
    assert "cls.predictions.bias" in open_weights(tmp_path / "narrow")
    assert config_of(tmp_path / "narrow")["legacy"] is True


def test_every_tensor_is_plain_numpy_of_the_files_own_shape(tmp_path):
    """What transformers expects, by shapes that were written down independently."""
    fields = hf.fields_of("v2", "sequence_classification")
    directory = hf.make_directory(tmp_path / "model", "v2", "sequence_classification")
    model, params, _ = load_with_report(directory, "sequence_classification")
    model = type(model)(model.cfg, model.head)  # forgets where it came from
    save_pretrained(tmp_path / "again", model, params)
    shapes = {name: shape for name, (shape, _) in open_weights(tmp_path / "again").shapes_and_dtypes().items()}
    assert shapes == hf.shapes_of(fields, "sequence_classification")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"pos_att_type": ("c2p", "p2c", "p2p")}, "model.pos_att_type p2p"),
        ({"attention_head_size": 24}, "model.hidden_size 32"),
        ({"key_bias": False}, "model.key_bias False with model.share_att_key True"),
        (V1 | {"position_buckets": 8}, "model.key_bias False with model.position_buckets 8"),
        (V1 | {"conv_kernel_size": 3}, "model.key_bias False with model.conv_kernel_size 3"),
        (V1 | {"norm_rel_ebd": "layer_norm"}, "model.key_bias False with model.norm_rel_ebd 'layer_norm'"),
    ],
)
def test_a_model_that_transformers_lacks_is_refused_and_nothing_written(tmp_path, changes, key):
    model, params = fresh("encoder", **changes)
    with pytest.raises(Refused) as refused:
        save_pretrained(tmp_path / "out", model, params)
    assert key in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_another_module_is_refused(tmp_path):
    class Other(nn.Module):
        cfg = tiny_model()

    with pytest.raises(Refused, match="a Other cannot be written; Encoder, MaskedLM") as refused:
        save_pretrained(tmp_path / "out", Other(), {})
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_parameters_may_lie_on_several_devices(tmp_path):
    model, params = fresh("encoder")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("fsdp",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    placed = jax.tree.map(lambda leaf: jax.device_put(leaf, spread) if leaf.shape[0] % 2 == 0 else leaf, params)
    save_pretrained(tmp_path / "one", model, params)
    save_pretrained(tmp_path / "two", model, placed)
    assert_same_tensors(tmp_path / "two", tmp_path / "one")


class Counting(dict):
    """Leaves that remember which were asked for."""

    def __init__(self, leaves):
        super().__init__(leaves)
        self.asked = []

    def __getitem__(self, path):
        self.asked.append(path)
        return super().__getitem__(path)


def test_tensors_are_made_when_they_are_asked_for_and_agree_with_themselves():
    model, params = fresh("mlm")
    leaves = Counting(trees.flattened(params))
    table = names.tensors(model.cfg, "mlm", 0, names.default_names(model.cfg))
    copy, of = "lm_predictions.lm_head.decoder.weight", "deberta.embeddings.word_embeddings.weight"
    tensors = Tensors(table, leaves, model.cfg, {copy: of})
    assert len(tensors) == len(list(tensors)) == len(set(tensors)) == len(table) + 1
    halves = tensors.stored_as(dict.fromkeys(tensors, "float16") | {copy: "bfloat16"})
    assert list(halves) == list(tensors) and len(halves) == len(tensors)
    assert leaves.asked == []
    bias = tensors["deberta.encoder.layer.1.output.dense.bias"]
    assert leaves.asked == ["encoder/blocks/mlp_out/bias"]
    np.testing.assert_array_equal(bias, params["encoder"]["blocks"]["mlp_out"]["bias"][1])
    for tensor in table:
        assert tensors[tensor.theirs].shape == tensor.shape
        assert tensors[tensor.theirs].dtype == np.float32
        np.testing.assert_array_equal(halves[tensor.theirs], tensors[tensor.theirs].astype(np.float16))
    np.testing.assert_array_equal(tensors[copy], tensors[of])
    assert halves[copy].dtype == ml_dtypes.bfloat16
    with pytest.raises(KeyError):
        tensors["deberta.encoder.layer.9.output.dense.bias"]


def test_a_directory_without_a_tokenizer_is_told_so(tmp_path, caplog):
    model, params = fresh("encoder")
    with caplog.at_level(logging.WARNING, logger="deberta_jax"):
        save_pretrained(tmp_path / "out", model, params)
    assert f"{tmp_path / 'out'} gets no tokenizer: none was given and the model came with none" in caplog.text
    assert f"{tmp_path / 'out'}: {len(open_weights(tmp_path / 'out'))} tensors, float32" in caplog.text


@pytest.fixture
def with_tokenizer(spm_dir, tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", vocab_size=601)
    shutil.copy(spm_dir / "spm.model", directory)
    return directory


def test_the_tokenizer_of_the_origin_comes_along(tmp_path, with_tokenizer, caplog):
    model, params, _ = load_with_report(with_tokenizer)
    save_pretrained(tmp_path / "again", model, params)
    assert (tmp_path / "again" / "spm.model").read_bytes() == (with_tokenizer / "spm.model").read_bytes()
    assert "no tokenizer" not in caplog.text
    load_with_report(tmp_path / "again")


def test_a_given_tokenizer_goes_before_that_of_the_origin(tmp_path, with_tokenizer, spm_dir):
    given = load_tokenizer(spm_dir)
    model, params, _ = load_with_report(with_tokenizer)
    (with_tokenizer / "spm.model").write_bytes(b"not a tokenizer any more")
    save_pretrained(tmp_path / "again", model, params, tokenizer=given)
    assert load_tokenizer(tmp_path / "again").fingerprint == given.fingerprint


def test_what_was_recorded_of_an_origin_will_do_as_one(tmp_path):
    """A converted workdir stands for the directory it was made from, which may be gone."""
    directory = hf.make_directory(tmp_path / "model", "v1", "mlm", dtype="float16", prefix="bert.", legacy=True)
    model, params, _ = load_with_report(directory, "mlm")
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    record_origin(open_source(directory)[0], workdir)
    kept = shutil.move(directory, tmp_path / "elsewhere")
    model = type(model)(model.cfg, origin=str(workdir))
    save_pretrained(tmp_path / "again", model, params)
    assert_same_tensors(tmp_path / "again", kept)
    assert config_of(tmp_path / "again")["legacy"] is True


def test_bfloat16_parameters_are_written_as_float32(tmp_path):
    """Whoever casts parameters for inference still gets a file that loads."""
    model, params = fresh("encoder")
    save_pretrained(tmp_path, model, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params))
    assert {found for _, found in open_weights(tmp_path).shapes_and_dtypes().values()} == {"float32"}


def test_a_damaged_tokenizer_is_found_before_anything_is_written(tmp_path, with_tokenizer):
    model, params, _ = load_with_report(with_tokenizer)
    (with_tokenizer / "spm.model").write_bytes(b"not a tokenizer any more")
    with pytest.raises(Refused, match="spm.model is not a sentencepiece model"):
        save_pretrained(tmp_path / "again", model, params)
    assert not (tmp_path / "again").exists()


def test_a_dropout_that_transformers_has_no_field_for_is_told(tmp_path, caplog):
    tagger = "token_classification"
    model, params, _ = load_with_report(hf.make_directory(tmp_path / "model", "v3", tagger), tagger)
    head = dataclasses.replace(model.head, classifier_dropout=0.4)
    save_pretrained(tmp_path / "again", model.clone(head=head), params)
    assert "no dropout of its own before tags: 0.4 becomes 0.1" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda params: {"params": params}, "params lack blocks/attention/key/bias, which Encoder has"),
        (lambda params: params | {"more": np.zeros(3)}, "params hold more, which Encoder does not have"),
        (lambda params: params | {"relative": np.zeros((3, 16))}, "params: relative has shape (3, 16), the model's is"),
    ],
)
def test_parameters_that_are_not_the_models_are_refused_before_anything_is_written(tmp_path, change, said):
    model, params, _ = load_with_report(hf.make_directory(tmp_path / "model"))
    with pytest.raises(Refused) as refused:
        save_pretrained(tmp_path / "again", model, change(params))
    assert said in str(refused.value)
    assert not (tmp_path / "again").exists()


def test_a_model_outlives_its_origin(tmp_path, caplog):
    directory = hf.make_directory(tmp_path / "model", "v3", "mlm", prefix="bert.", dtype="float16")
    model, params, _ = load_with_report(directory, "mlm")
    shutil.rmtree(directory)
    save_pretrained(tmp_path / "again", model, params)
    assert "is gone: names are Microsoft's, the dtype is float32" in caplog.text
    again = load_with_report(tmp_path / "again", "mlm")[1]
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_place_that_is_no_directory_is_refused(tmp_path):
    model, params, _ = load_with_report(hf.make_directory(tmp_path / "model"))
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="file cannot be made: File exists"):
        save_pretrained(tmp_path / "file", model, params)
