import dataclasses
import functools
import json
import logging
import re
import shutil

import jax
import numpy as np
import pytest

import hf_directories as hf
import slow_deberta
import slow_heads
from builders import COMPILE_FAST
from deberta_jax.convert import trees
from deberta_jax.convert.load import load_pretrained, load_with_report
from deberta_jax.errors import Refused
from deberta_jax.model.by_head import MODELS, WITH_LABELS

POSITIONS = "deberta.embeddings.position_embeddings.weight"
ALL_HEADS_AND_GENERATIONS = [(generation, head) for generation in hf.GENERATIONS for head in hf.HEADS]


def written(tmp_path, generation="v3", head="encoder", *, without=(), replaced=None, fields=None, **options):
    """A directory whose file lacks the tensors `without`, and has those of `replaced` instead or as well."""
    values = hf.fields_of(generation, head, **fields or {})
    tensors = hf.tensors_of(values, head, fused=hf.is_fused(generation), **options)
    kept = {name: array for name, array in tensors.items() if name not in without}
    return hf.write_directory(tmp_path / "model", values, kept | (replaced or {}))


def refusal(*args, **options):
    """The one line with which loading ends."""
    with pytest.raises(Refused) as refused:
        load_with_report(*args, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def leaves_of(params):
    return {path: np.array(leaf) for path, leaf in trees.flattened(params).items()}


def assert_holds(params, expected):
    """Every parameter is float32 and has the expected values, exactly; rows of the vocabulary beyond them are zero."""
    found, expected = leaves_of(params), leaves_of(expected)
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        assert found[path].dtype == np.float32
        rows = len(values) if path.endswith(("embeddings/word", "head/bias")) else len(found[path])
        np.testing.assert_array_equal(found[path][:rows], values, err_msg=path)
        assert not found[path][rows:].any()


@pytest.mark.parametrize(("generation", "head"), ALL_HEADS_AND_GENERATIONS)
def test_every_parameter_holds_its_tensor(tmp_path, generation, head):
    directory = hf.make_directory(tmp_path / "model", generation, head, dtype="float16")
    model, params, report = load_with_report(directory, head)
    fields = hf.fields_of(generation, head)
    tensors = hf.tensors_of(fields, head, fused=hf.is_fused(generation), dtype="float16")
    assert_holds(params, hf.parameters_in(tensors, fields, head))
    assert type(model) is MODELS[head]
    assert (report.tensors, report.dtypes) == (len(tensors), ("float16",))
    assert (report.missing, report.unused, report.new) == ((), (), ())


@pytest.mark.parametrize("prefix", ["deberta.", "bert.", ""])
@pytest.mark.parametrize("dtype", hf.DTYPES)
def test_every_dtype_is_read_exactly_under_every_prefix(tmp_path, dtype, prefix):
    """With the legacy head and its tied copies, a convolution, a narrow table, token types: what the others lack."""
    changes = {"embedding_size": 12, "type_vocab_size": 2, "conv_groups": 2, "num_hidden_layers": 2}
    options = {"dtype": dtype, "prefix": prefix, "legacy": True}
    directory = hf.make_directory(tmp_path / "model", "v2", "mlm", ties=True, **options, **changes)
    _, params, report = load_with_report(directory, "mlm")
    fields = hf.fields_of("v2", "mlm", **changes)
    assert_holds(params, hf.parameters_in(hf.tensors_of(fields, "mlm", **options), fields, "mlm", prefix))
    assert (report.dtypes, report.unused) == ((dtype,), ())


@functools.partial(jax.jit, static_argnums=0, static_argnames="options", compiler_options=COMPILE_FAST)
def run(model, params, ids, mask, options=()):
    return model.apply({"params": params}, ids, mask, deterministic=True, **dict(options))


def calm_tensors(fields, head, **layout):
    """Values of a size that leaves float32's noise below 1e-6: with norms of a half, states are of the size of one."""
    tensors = hf.tensors_of(fields, head, **layout)
    return {n: v / 2 if n.endswith("LayerNorm.weight") else v for n, v in tensors.items()}


def texts(rows=2, length=20):
    rng = np.random.default_rng(0)
    mask = (np.arange(length)[None] < np.array([length, length - 7])[:rows, None]).astype(np.int32)
    return rng.integers(0, hf.VOCABULARY, (rows, length)).astype(np.int32) * mask, mask


def test_the_first_generation_computes_what_its_file_says_layer_by_layer(tmp_path):
    """20 tokens with a table for 8 distances: the far ones share its ends."""
    fields = hf.fields_of("v1")
    tensors = calm_tensors(fields, "encoder", fused=True)
    model, params, _ = load_with_report(hf.write_directory(tmp_path, fields, tensors))
    ids, mask = texts()
    _, states = run(model, params, ids, mask, options=(("all_hidden_states", True),))
    slow = slow_heads.first_generation_states(tensors, fields, ids, mask)
    assert len(states) == len(slow) == 4
    for state, expected in zip(states, slow, strict=True):
        real = mask.astype(bool)
        np.testing.assert_allclose(state[real], expected[real], rtol=0, atol=1e-6)
        assert np.abs(expected).max() > 0.5


def test_multiple_choice_of_the_first_generation(tmp_path):
    """No class of transformers computes it: the formula and the file's own tensors do."""
    fields = hf.fields_of("v1", "multiple_choice", pooler_hidden_act="tanh")
    tensors = calm_tensors(fields, "multiple_choice", fused=True)
    model, params, _ = load_with_report(hf.write_directory(tmp_path, fields, tensors), "multiple_choice")
    ids, mask = texts(rows=2)
    ids, mask = (np.stack([each, each[::-1], each[:, ::-1]], axis=1) for each in (ids, mask))
    logits = run(model, params, ids, mask)
    flat = (each.reshape(6, -1) for each in (ids, mask))
    states = slow_heads.first_generation_states(tensors, fields, *flat)[-1]
    slow = slow_heads.choice_logits(hf.parameters_in(tensors, fields, "multiple_choice"), "tanh", states, choices=3)
    np.testing.assert_allclose(logits, slow, rtol=0, atol=1e-6)
    assert slow.std() > 0.01


@pytest.mark.parametrize("generation", hf.GENERATIONS)
def test_the_enhanced_mask_decoder_runs_on_official_names(tmp_path, generation):
    fields = hf.fields_of(generation, "mlm")
    tensors = hf.tensors_of(fields, "mlm", fused=hf.is_fused(generation))
    model, params = load_pretrained(hf.write_directory(tmp_path, fields, tensors), head="mlm")
    ids, mask = texts()
    logits = run(model, params, ids, mask)
    positions = np.tile(np.arange(20), (2, 1))
    expected = hf.parameters_in(tensors, fields, "mlm")
    slow = slow_deberta.masked_lm_logits(model.cfg, expected, ids, mask, positions)
    real = mask.astype(bool)
    np.testing.assert_allclose(logits[real], slow[real], rtol=0, atol=2e-6 * np.abs(slow).max())


def test_without_the_decoder_the_logits_are_others(tmp_path):
    """Those of transformers; this is why its fill-mask makes nonsense of the released weights."""
    fields = hf.fields_of("v3", "mlm")
    tensors = hf.tensors_of(fields, "mlm")
    model, params, _ = load_with_report(hf.write_directory(tmp_path, fields, tensors), "mlm", decoder="none")
    ids, mask = texts()
    logits = run(model, params, ids, mask)
    places = ids, mask, np.tile(np.arange(20), (2, 1))
    expected = hf.parameters_in(tensors, fields, "mlm")
    real = mask.astype(bool)
    plain = slow_deberta.masked_lm_logits(model.cfg, expected, *places)
    np.testing.assert_allclose(logits[real], plain[real], rtol=0, atol=1e-6 * np.abs(plain).max())
    decoded = slow_deberta.masked_lm_logits(dataclasses.replace(model.cfg, decoder="emd"), expected, *places)
    assert np.abs(decoded - plain)[real].max() > 0.1 * np.abs(plain).max()


@pytest.mark.parametrize(
    ("positions", "biased", "asked", "chosen", "reason"),
    [
        (True, False, "auto", "emd", "the absolute position table is there"),
        (False, False, "auto", "none", "there is no absolute position table"),
        (True, True, "auto", "none", "absolute positions are added to the input"),
        (True, None, "auto", "none", "absolute positions are added to the input"),  # transformers' default
        (True, False, "none", "none", "asked for; this is how transformers computes"),
        (False, False, "none", "none", "asked for; this is how transformers computes"),
        (True, True, "none", "none", "absolute positions are added to the input"),
        (True, False, "emd", "emd", "asked for"),
    ],
)
@pytest.mark.parametrize("head", ["mlm", "encoder"])
def test_which_decoder_is_chosen_and_why(tmp_path, head, positions, biased, asked, chosen, reason):
    options = {"positions": positions, "position_biased_input": biased}
    directory = hf.make_directory(tmp_path / "model", "v3", head, **options)
    model, params, report = load_with_report(directory, head, decoder=asked)
    assert model.cfg.decoder == chosen
    assert report.decoder == f"{chosen}: {reason}"
    left_over = asked == "none" and positions and not biased
    assert report.unused == ((POSITIONS,) if left_over else ())  # needs no permission: it was asked for
    assert any("embeddings/position" in path for path in leaves_of(params)) is (positions and not left_over)


def test_a_decoder_without_its_table_is_refused_by_the_tables_name(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", "mlm", positions=False)
    message = refusal(directory, "mlm", decoder="emd")
    assert f"missing: {POSITIONS}. " in message and "unused" not in message
    model, params, report = load_with_report(directory, "mlm", decoder="emd", allow=[POSITIONS])
    assert (model.cfg.decoder, report.missing, report.new) == ("emd", (POSITIONS,), ("encoder/embeddings/position",))
    assert 0.01 < np.std(params["encoder"]["embeddings"]["position"]) < 0.03


def test_a_decoder_on_top_of_absolute_positions_is_refused(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", "mlm", position_biased_input=True)
    assert "position_biased_input is on, decoder 'emd'" in refusal(directory, "mlm", decoder="emd")


def test_what_is_missing_unused_and_new_is_told_exactly(tmp_path):
    """A masked-LM file read as a classifier, with one tensor too few and one too many."""
    gone, odd = "deberta.encoder.layer.1.attention.self.key_proj.bias", "deberta.encoder.layer.7.output.dense.bias"
    directory = written(tmp_path, "v3", "mlm", without=[gone], replaced={odd: np.zeros(16, np.float32)})
    missing = (gone, "pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias")
    inside = "lm_predictions.lm_head."
    unused = {odd, *(inside + name for name in ("bias", "dense.bias", "dense.weight", "LayerNorm.bias"))}
    unused |= {inside + "LayerNorm.weight"}
    message = refusal(directory, "sequence_classification")
    told = re.fullmatch(r"(.*): missing: (.*); unused: (.*)\. If that is meant: allow=\((.*),\)", message)
    assert told[1] == str(directory)
    assert (tuple(told[2].split(", ")), set(told[3].split(", "))) == (missing, unused)
    allow = eval(f"({told[4]},)")  # as one would copy it
    assert set(allow) == {gone, odd, "pooler.*", "classifier.*", "lm_predictions.*"}
    _, _, report = load_with_report(directory, "sequence_classification", allow=allow)
    assert (report.missing, set(report.unused)) == (missing, unused)
    assert report.new == (
        *("encoder/layers/1/attention/key/bias", "pooler/dense/kernel", "pooler/dense/bias"),
        *("classifier/kernel", "classifier/bias"),
    )
    assert report.tensors == len(hf.tensors_of(hf.fields_of("v3"))) - 1
    for fewer in (allow[:2], allow[2:]):
        assert "If that is meant" in refusal(directory, "sequence_classification", allow=fewer)


def test_a_permission_that_nothing_needs_is_refused(tmp_path):
    directory = hf.make_directory(tmp_path / "model")
    assert "allow='lm_head.*' matches no missing or unused tensor" in refusal(directory, allow=["lm_head.*"])


def test_old_lists_of_positions_are_passed_over(tmp_path):
    numbers = {"deberta.embeddings.position_ids": np.arange(32)[None]}
    _, _, report = load_with_report(written(tmp_path, replaced=numbers))
    assert report.unused == ()


@pytest.mark.parametrize(
    ("generation", "gone", "new"),
    [
        ("v3", "0.intermediate.dense.weight", ["mlp_in/kernel"]),
        ("v3", "1.attention.output.LayerNorm.weight", ["attention_norm/scale"]),
        ("v3", "2.attention.self.query_proj.weight", ["attention/query/kernel"]),
        ("v2", "0.output.dense.weight", ["mlp_out/kernel"]),
        ("v1", "1.attention.self.in_proj.weight", [f"attention/{n}/kernel" for n in ("query", "key", "value")]),
    ],
)
def test_a_layers_missing_tensor_is_made_for_that_layer_alone(tmp_path, generation, gone, new):
    name = "deberta.encoder.layer." + gone
    directory = written(tmp_path, generation, without=[name])
    model, params, report = load_with_report(directory, allow=[name])
    assert report.new == tuple(f"layers/{gone[0]}/{path}" for path in new)
    fields = hf.fields_of(generation)
    whole = hf.parameters_in(hf.tensors_of(fields, fused=hf.is_fused(generation)), fields, "encoder")
    found, whole = leaves_of(params), leaves_of(whole)
    for path in report.new:
        place, index = trees.place_of(path, model.cfg)
        fresh = found[place] if index is None else found[place][index]
        if path.endswith("scale"):
            assert (fresh == 1).all()
        else:
            assert 0.015 < fresh.std() < 0.025  # initializer_range is 0.02, the file's values are larger
        fresh[...] = whole[place] if index is None else whole[place][index]
    assert_holds(found, whole)


def test_layers_that_lack_the_same_tensor_get_different_ones(tmp_path):
    names = [f"deberta.encoder.layer.{layer}.output.dense.weight" for layer in range(3)]
    directory = written(tmp_path, without=names)
    _, params, report = load_with_report(directory, allow=["*.output.dense.weight"])
    assert report.new == tuple(f"layers/{layer}/mlp_out/kernel" for layer in range(3))
    first, second, last = (*params["blocks"]["mlp_out"]["kernel"], params["last"]["mlp_out"]["kernel"])
    for one, other in ((first, second), (second, last), (first, last)):
        assert (one != other).all()


def new_parameters(directory, head, **options):
    """The values that the file does not have, by path."""
    _, params, report = load_with_report(directory, head, **options)
    leaves = leaves_of(params)
    return {path: leaves[path] for path in report.new}


@pytest.mark.parametrize(
    ("head", "allow"),
    [("sequence_classification", ("classifier.*", "pooler.*")), ("rtd", ("mask_predictions.*",))],
)
def test_a_new_head_is_a_function_of_the_seed_alone(tmp_path, head, allow):
    one = hf.make_directory(tmp_path / "one", "v3", seed=1)
    other = hf.make_directory(tmp_path / "other", "v3", seed=2, dtype="float16", prefix="bert.")
    first = new_parameters(one, head, seed=3, allow=allow)
    assert first and not any(path.startswith("encoder") for path in first)
    elsewhere = new_parameters(other, head, seed=3, allow=allow)
    different = new_parameters(one, head, seed=4, allow=allow)
    for path, values in first.items():
        np.testing.assert_array_equal(elsewhere[path], values)
        if path.endswith("kernel"):
            assert 0.01 < values.std() < 0.03
            assert (different[path] != values).all()
        else:
            assert (values == path.endswith("scale")).all()


@pytest.mark.parametrize(("head", "root"), [("encoder", ""), ("mlm", "encoder/")])
def test_a_grown_vocabulary_keeps_its_old_rows_and_names_the_new_ones(tmp_path, head, root):
    directory = hf.make_directory(tmp_path / "model", "v3", head, dtype="float16")
    _, before, _ = load_with_report(directory, head)
    model, params, report = load_with_report(directory, head, vocab_size=200)
    assert model.cfg.vocab_size == 200 and model.cfg.vocab_rows == 256
    before, found = leaves_of(before), leaves_of(params)
    word = found.pop(root + "embeddings/word")
    np.testing.assert_array_equal(word[:70], before.pop(root + "embeddings/word")[:70])
    assert word.shape == (256, 16) and not word[200:].any()
    assert word[70:200].all() and 0.019 < word[70:200].std() < 0.021
    if head == "mlm":
        bias = found.pop("head/bias")
        np.testing.assert_array_equal(bias[:70], before.pop("head/bias")[:70])
        assert bias.shape == (256,) and not bias[70:].any()
        assert report.new == ("encoder/embeddings/word[70:200]", "head/bias[70:200]")
    else:
        assert report.new == ("embeddings/word[70:200]",)
    jax.tree.map(np.testing.assert_array_equal, found, before)
    _, again, _ = load_with_report(directory, head, vocab_size=200)
    np.testing.assert_array_equal(leaves_of(again)[root + "embeddings/word"], word)
    _, other, _ = load_with_report(directory, head, vocab_size=200, seed=1)
    assert (leaves_of(other)[root + "embeddings/word"][70:200] != word[70:200]).all()


@pytest.mark.parametrize("size", [hf.VOCABULARY, hf.VOCABULARY - 9])  # released tables have rows to spare
def test_a_vocabulary_that_fits_into_the_table_has_no_new_rows(tmp_path, size):
    directory = hf.make_directory(tmp_path / "model", "v3", "mlm")
    model, params, report = load_with_report(directory, "mlm", vocab_size=size)
    assert report.new == () and model.cfg.vocab_size == hf.VOCABULARY
    jax.tree.map(np.testing.assert_array_equal, params, load_with_report(directory, "mlm")[1])


def test_a_new_masked_lm_head_grows_with_the_vocabulary(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3")
    model, params, _ = load_with_report(directory, "mlm", vocab_size=200, allow=["lm_predictions.*"])
    assert model.cfg.vocab_size == 200 and params["head"]["bias"].shape == (256,)


@pytest.fixture
def with_tokenizer(spm_dir, tmp_path):
    """A directory whose word table is too small for its tokenizer of 600 pieces and [MASK]."""
    directory = hf.make_directory(tmp_path / "model", "v3", "mlm")
    shutil.copy(spm_dir / "spm.model", directory)
    return directory


def test_a_tokenizer_with_more_ids_than_the_table_has_rows_is_refused(with_tokenizer):
    message = refusal(with_tokenizer, "mlm")
    assert message.startswith(f"{with_tokenizer}: the tokenizer has 601 ids, the word table 70 rows; ")
    needed = int(re.search(r"vocab_size=(\d+)", message)[1])
    assert "601 ids, the word table 600 rows" in refusal(with_tokenizer, "mlm", vocab_size=needed - 1)
    model, _, _ = load_with_report(with_tokenizer, "mlm", vocab_size=needed)
    assert model.cfg.vocab_size == 601


def test_a_table_with_more_rows_than_the_tokenizer_has_ids_is_right(with_tokenizer):
    """As the released ones have: 128,100 rows for 128,001 ids."""
    hf.make_directory(with_tokenizer, "v3", "mlm", vocab_size=650)
    assert load_with_report(with_tokenizer, "mlm")[2].new == ()


@pytest.mark.parametrize("head", WITH_LABELS)
def test_labels_are_those_of_the_file_or_of_the_caller(tmp_path, head):
    directory = hf.make_directory(tmp_path / "model", "v3", head)
    model, _, _ = load_with_report(directory, head)
    assert model.head.labels == (("LABEL_0", "LABEL_1") if head == "multiple_choice" else ("no", "maybe", "yes"))
    model, _, _ = load_with_report(directory, head, labels=["x", "y", "z"])
    assert model.head.labels == ("x", "y", "z")


def test_as_many_labels_as_the_file_has_rows_or_a_new_classifier(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", "token_classification")
    message = refusal(directory, "token_classification", labels=["x", "y"])
    assert "classifier.weight has shape (3, 16), the model asks for (2, 16)" in message
    model, params, report = load_with_report(
        directory, "token_classification", labels=["x", "y"], allow="classifier.*"
    )  # as for RTE from MNLI
    assert report.missing == ("classifier.weight", "classifier.bias")
    assert set(report.unused) == set(report.missing) and report.new == ("classifier/kernel", "classifier/bias")
    assert params["classifier"]["kernel"].shape == (16, 2) and model.head.labels == ("x", "y")
    encoder = hf.make_directory(tmp_path / "encoder", "v3")
    model, params, _ = load_with_report(encoder, "token_classification", labels=list("abcde"), allow=["classifier.*"])
    assert model.head.labels == tuple("abcde") and params["classifier"]["kernel"].shape == (16, 5)


def test_microsofts_own_name_of_the_config_will_do(tmp_path):
    directory = written(tmp_path, "v3")
    expected = load_with_report(directory)
    (directory / "config.json").rename(directory / "model_config.json")
    model, params, _ = load_with_report(directory)
    assert model == expected[0]
    jax.tree.map(np.testing.assert_array_equal, params, expected[1])


@pytest.mark.parametrize("layout", ["v1", "v3"])
def test_without_a_model_type_the_weights_tell_the_generation(tmp_path, layout):
    named = load_with_report(hf.make_directory(tmp_path / "named", layout))
    unnamed = load_with_report(hf.make_directory(tmp_path / "unnamed", layout, model_type=None))
    assert unnamed[0].cfg == named[0].cfg
    assert unnamed[0].cfg.key_bias is (layout == "v3")


def test_options_that_no_file_has_reach_the_model(tmp_path):
    directory = hf.make_directory(tmp_path / "model")
    model, params, _ = load_with_report(str(directory), clamp_distance=False, dtype="bfloat16")
    assert (model.cfg.clamp_distance, model.cfg.dtype, model.origin) == (False, "bfloat16", str(directory))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    model, _, _ = load_with_report(directory)
    assert (model.cfg.clamp_distance, model.cfg.dtype, model.origin) == (True, "float32", str(directory))


def test_load_pretrained_logs_its_report(tmp_path, caplog):
    directory = hf.make_directory(tmp_path / "model", "v3", "mlm", dtype="bfloat16")
    with caplog.at_level(logging.WARNING, logger="deberta_jax"):
        model, params = load_pretrained(directory, "mlm", decoder="none")
    expected, same, report = load_with_report(directory, "mlm", decoder="none")
    assert model == expected
    jax.tree.map(np.testing.assert_array_equal, params, same)
    assert [record.getMessage() for record in caplog.records] == [str(report)]
    assert str(report).splitlines() == [
        f"{directory}: 59 tensors (bfloat16) for head 'mlm'",
        "  decoder none: asked for; this is how transformers computes",
        f"  unused (1): {POSITIONS}",
    ]


WORD = "deberta.embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hiden_size": 16}, "config.json has the unknown field 'hiden_size', did you mean 'hidden_size'?"),
        ({"hidden_size": "16"}, "config.json: hidden_size '16' has the wrong type"),
        ({"num_attention_heads": 0}, "num_heads must be positive"),
        ({"talking_head": True}, "config.json: talking_head True is not supported"),
        ({"is_decoder": True}, "config.json: is_decoder True is not supported"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must lie between 0 and 1, got nan"),
        ({"initializer_range": -1.0}, "initializer_range must be finite and not negative"),
        ({"num_hidden_layers": 10**30}, "layers in config.json"),
        ({"pos_att_type": ["c2p", "c2p"]}, "changes the scale in transformers and adds no term"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label must number the labels 0, 1, 2, ..., got [0, 2]"),
        ({"model_type": "bert"}, "model_type 'bert' is no DeBERTa"),
        ({"pos_att_type": "c2p|p2c|p2p"}, "config.json: pos_att_type p2p"),
        ({"pos_att_type": [1, 2]}, "config.json: pos_att_type [1, 2] has the wrong type"),
        ({"relative_attention": False}, "config.json: pos_att_type names terms, but relative_attention is off"),
        ({"hidden_act": "mish"}, "activation must be one of"),
        ({"id2label": ["a"]}, "config.json: id2label ['a'] has the wrong type"),
        ({"vocab_size": 71}, f"{WORD} has shape (70, 16), the model asks for (71, 16)"),
        ({"intermediate_size": 25}, "intermediate.dense.weight has shape (24, 16), the model asks for (25, 16)"),
        ({"max_relative_positions": 4}, "position_buckets must be 0 or lie in [2, max_relative_positions], got 8"),
        ({"num_hidden_layers": 2}, "unused: deberta.encoder.layer.2."),
        ({"num_hidden_layers": 4}, "missing: deberta.encoder.layer.3.attention.self.query_proj.weight, "),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_a_line_that_names_it(tmp_path, fields, said):
    head = "sequence_classification"
    directory = hf.make_directory(tmp_path / "model", "v3", head)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    message = refusal(directory, head)
    assert said in message
    assert message.startswith(f"{directory}: ")


@pytest.mark.parametrize(
    ("name", "dtype", "said"),
    [
        (WORD, np.float64, f"{WORD} is float64; weights are float16, bfloat16, float32"),
        ("deberta.encoder.LayerNorm.bias", np.int64, "deberta.encoder.LayerNorm.bias is int64"),
        ("lm_predictions.lm_head.bias", np.bool_, "lm_predictions.lm_head.bias is bool"),
    ],
)
def test_numbers_of_another_kind_are_refused(tmp_path, name, dtype, said):
    wrong = {name: np.zeros(hf.shapes_of(hf.fields_of("v3"), "mlm")[name], dtype)}
    directory = written(tmp_path, "v3", "mlm", replaced=wrong)
    message = refusal(directory, "mlm")
    assert said in message and message.startswith(f"{directory}: ")


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    name = "deberta.encoder.rel_embeddings.weight"
    directory = written(tmp_path, "v3", replaced={name: np.zeros((15, 16), np.float32)})
    assert refusal(directory) == f"{directory}: {name} has shape (15, 16), the model asks for (16, 16)"


@pytest.mark.parametrize("copy", ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"])
def test_weights_that_are_not_tied_are_refused(tmp_path, copy):
    fields = hf.fields_of("v3", "mlm")
    tensors = hf.with_ties(hf.tensors_of(fields, "mlm", legacy=True))
    tensors[copy] = tensors[copy].copy()
    tensors[copy][-1] += 1
    directory = hf.write_directory(tmp_path / "model", fields, tensors)
    of = WORD if copy.endswith("weight") else "cls.predictions.bias"
    assert refusal(directory, "mlm") == f"{directory}: {copy} differs from {of}; only tied weights are supported"


def test_a_file_without_a_word_table_is_refused(tmp_path):
    message = refusal(written(tmp_path, without=[WORD]))
    assert f"no DeBERTa: the weights lack {WORD}" in message


def test_second_generation_switches_on_fused_weights_are_refused(tmp_path):
    directory = written(tmp_path, "v1", fields={"model_type": "deberta-v2"})
    assert "the weights are fused (v1)" in refusal(directory)


@pytest.mark.parametrize("content", ["{", "[]", "17"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path, content):
    directory = hf.write_directory(tmp_path / "model", content, hf.tensors_of(hf.fields_of("v3")))
    assert str(directory / "config.json") in refusal(directory)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_half_a_directory_is_refused(tmp_path, gone):
    directory = hf.make_directory(tmp_path / "model")
    (directory / gone).unlink()
    message = refusal(directory)
    assert str(directory) in message and gone in message
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")


def test_mistyped_options_are_refused_with_the_right_ones(tmp_path):
    directory = hf.make_directory(tmp_path / "model")
    assert "head must be one of encoder, mlm, " in refusal(directory, "mml")
    assert "did you mean 'mlm'?" in refusal(directory, "mml")
    assert "decoder must be one of auto, emd, none" in refusal(directory, decoder="edm")
    assert "dtype must be one of float32, bfloat16" in refusal(directory, dtype="float16")
    assert "names a label twice" in refusal(directory, "token_classification", labels=["a", "a"])


def test_labels_for_a_head_that_has_none_are_refused(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", "question_answering")
    with pytest.raises(Refused, match="head 'question_answering' has no labels"):
        load_with_report(directory, "question_answering", labels=("no", "yes"))


def test_one_permission_may_come_without_a_tuple(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", "rtd")
    _, _, report = load_with_report(directory, allow="mask_predictions.*")
    assert len(report.unused) == 6


def test_the_origin_outlives_a_change_of_directory(tmp_path, monkeypatch):
    hf.make_directory(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    model, _, _ = load_with_report("model")
    assert model.origin == str(tmp_path / "model")


def test_one_layer_needs_no_decoder(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", num_hidden_layers=1)
    model, _, report = load_with_report(directory)
    assert (model.cfg.num_layers, model.cfg.decoder) == (1, "none")
    assert report.unused == ("deberta.embeddings.position_embeddings.weight",)


@pytest.mark.parametrize("terms", ["none", ["none"], "c2p|none"])
def test_v1_divides_by_names_that_are_no_terms_in_transformers_alone(tmp_path, terms):
    directory = hf.make_directory(tmp_path / "model", "v1", pos_att_type=terms, relative_attention="c2p" in terms)
    assert "changes the scale in transformers and adds no term" in refusal(directory)


def test_an_unknown_field_may_be_allowed_by_name(tmp_path):
    directory = hf.make_directory(tmp_path / "model", transformers_js={"a": 1})
    message = refusal(directory)
    assert "unknown field 'transformers_js'" in message and "allow=('config.transformers_js',)" in message
    load_with_report(directory, allow="config.transformers_js")


def test_one_set_of_permissions_reads_files_with_and_without_a_head(tmp_path):
    allow = ("mask_predictions.*", "lm_predictions.*")
    for head in ("encoder", "rtd", "mlm"):
        load_with_report(hf.make_directory(tmp_path / head, "v3", head), allow=allow)


def test_a_masked_lm_with_the_decoder_ends_where_its_table_does(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", "mlm")  # 32 positions
    ids = np.ones((1, 33), np.int32)
    model, params, _ = load_with_report(directory, "mlm")
    with pytest.raises(Refused, match="33 tokens, but the absolute position table has 32 rows; decoder 'none'"):
        run(model, params, ids, ids)
    model, params, _ = load_with_report(directory, "mlm", decoder="none")
    assert np.isfinite(run(model, params, ids, ids)).all()
    model, params, _ = load_with_report(directory, allow="lm_predictions.*")  # the encoder alone uses no table
    assert np.isfinite(run(model, params, ids, ids)).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": "abc"}, "labels must be a list of names, got 'abc'"),
        ({"labels": 5}, "labels must be a list of names"),
        ({"vocab_size": "80"}, "vocab_size must be a whole number, got '80'"),
        ({"allow": [5]}, "allow must be names or patterns"),
    ],
)
def test_arguments_of_another_kind_are_refused(tmp_path, options, said):
    directory = hf.make_directory(tmp_path / "model", "v3", "token_classification")
    assert said in refusal(directory, "token_classification", **options)
