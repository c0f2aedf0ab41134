"""tools.attention_maps as a user meets it: which model is read, what it leaves, what it refuses."""

import csv
import dataclasses
import shutil

import jax
import matplotlib.image
import numpy as np
import pytest

from attention_cases import SMALL, problem
from builders import scrambled, tiny_config, tiny_pair_config
from deberta_jax import config as configs
from deberta_jax.errors import Failed, run
from deberta_jax.objectives.models import init_of
from deberta_jax.objectives.rtd import init_of_pair, sharing_of
from deberta_jax.reports.attention_pictures import Layer
from deberta_jax.tokenizers import load_tokenizer
from deberta_jax.tools import attention_maps
from deberta_jax.train.build import with_vocabulary
from deberta_jax.train.session import BEST, CHECKPOINTS, TOKENIZER
from runs import save_run

TEXT = "Ba do [MASK] ge."
TERMS = ("c2c", "c2p", "p2c")


def drawn_params(init, seed=0):
    return scrambled(jax.eval_shape(init, jax.random.key(0)), seed)


def saved(workdir, spm_dir, config, params, step=7, **meta):
    """A workdir with its tokenizer; `meta` beside the config."""
    shutil.copytree(spm_dir, workdir / TOKENIZER)
    return save_run(workdir, config, params, {"config": configs.to_dict(config)} | meta, step=step)


@pytest.fixture(scope="module")
def ids(spm_dir):
    return load_tokenizer(spm_dir).encode_masked(TEXT)


@pytest.fixture(scope="module")
def mlm(spm_dir, tmp_path_factory):
    """(workdir, config, parameters) of a masked language model of two layers, with the decoder."""
    config = with_vocabulary(tiny_config(num_layers=2, max_position_embeddings=16), load_tokenizer(spm_dir).size)
    params = drawn_params(init_of("mlm", config.model))
    return saved(tmp_path_factory.mktemp("runs") / "tiny", spm_dir, config, params), config, params


@pytest.fixture(scope="module")
def pictures(mlm, tmp_path_factory):
    """What the command leaves."""
    output = tmp_path_factory.mktemp("pictures") / "of" / "mlm"
    assert command(mlm[0], output) == 0
    return output


def command(workdir, output, *more, text=TEXT):
    flags = [f"--checkpoint={workdir}", f"--output={output}", f"--text={text}", *more]
    return run(attention_maps.main, flags)


def first_c2c(cfg, params, ids):
    """[h, q, k]: content to content of an encoder's first layer, from its parameters alone."""
    x_le = params["embeddings"]["word"][np.array(ids)].astype(np.float64)
    x_le -= x_le.mean(-1, keepdims=True)
    norm = params["embeddings"]["norm"]
    x_le = x_le / np.sqrt((x_le**2).mean(-1, keepdims=True) + cfg.layer_norm_eps) * norm["scale"] + norm["bias"]
    of_layer = jax.tree.map(lambda leaf: leaf[0], params["blocks"])["attention"]
    q_lhd, k_lhd = (
        np.einsum("le,ehd->lhd", x_le, of_layer[name]["kernel"]) + of_layer[name]["bias"] for name in ("query", "key")
    )
    return np.einsum("qhd,khd->hqk", q_lhd, k_lhd) / np.sqrt(cfg.head_size * (1 + len(cfg.pos_att_type)))


def test_the_numbers_are_those_of_the_model(mlm, pictures, ids):
    _, config, params = mlm
    found = np.load(pictures / "attention.npz")
    shape = (4, 2, len(ids), len(ids))
    assert {name: found[name].shape for name in (*TERMS, "probability")} == dict.fromkeys(
        (*TERMS, "probability"), shape
    )
    assert list(found["layers"]) == ["layer 0", "layer 1", "decoder pass 1", "decoder pass 2"]
    np.testing.assert_allclose(found["c2c"][0], first_c2c(config.model, params["encoder"], ids), rtol=0, atol=1e-4)
    scores = sum(found[term].astype(np.float64) for term in TERMS)
    weight = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(found["probability"], weight / weight.sum(-1, keepdims=True), rtol=0, atol=1e-5)
    for term in TERMS:  # the decoder's queries know where they stand, the layer's do not; their keys are the same
        same = np.allclose(found[term][1], found[term][2], atol=1e-5)
        assert same == (term == "p2c"), term


def test_tokens_are_named_as_people_read_them(pictures, ids, spm_dir):
    tokens = [str(token) for token in np.load(pictures / "attention.npz")["tokens"]]
    assert len(tokens) == len(ids)
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]") and "[MASK]" in tokens
    assert "".join(tokens[1:-1]).replace("▁", " ").replace("[MASK]", " [MASK]").strip() == TEXT
    tokenizer = load_tokenizer(spm_dir)
    assert attention_maps.shown(tokenizer, tokenizer.unk_id) == "[UNK]"


def test_every_layer_and_pass_has_a_picture(pictures):
    layers = {"layer_00.png", "layer_01.png", "decoder_pass_01.png", "decoder_pass_02.png"}
    others = {"overview.png", "by_distance.png", "by_distance.csv", "attention.npz"}
    assert {path.name for path in pictures.iterdir()} == layers | others
    shapes = {matplotlib.image.imread(pictures / name).shape for name in layers}
    assert len(shapes) == 1


def test_means_by_distance_are_over_heads_and_pairs(pictures, ids):
    numbers = np.load(pictures / "attention.npz")
    with (pictures / "by_distance.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * (2 * len(ids) - 1)
    for line in lines:
        layer, distance = list(numbers["layers"]).index(line["layer"]), int(line["distance"])
        pairs = [(i, j) for i in range(len(ids)) for j in range(len(ids)) if i - j == distance]
        assert int(line["pairs"]) == len(pairs)
        for name in ("probability", *TERMS):
            of_heads = [np.mean([of_head[i, j] for i, j in pairs]) for of_head in numbers[name][layer]]
            taken_off = 0 if name == "probability" else numbers[name][layer].mean()
            assert float(line[name]) == pytest.approx(np.mean(of_heads) - taken_off, abs=1e-5)


def test_what_is_drawn_has_no_means_of_queries(pictures):
    numbers = np.load(pictures / "attention.npz")
    for number, name in enumerate(numbers["layers"]):
        layer = Layer(str(name), numbers["probability"][number], {term: numbers[term][number] for term in TERMS})
        drawn = attention_maps.relative_to_queries(layer)
        for term in TERMS:
            expected = [[row - np.mean(row) for row in of_head] for of_head in layer.parts[term]]
            np.testing.assert_allclose(drawn.parts[term], expected, atol=1e-5)
        np.testing.assert_array_equal(drawn.probability_hqk, layer.probability_hqk)


@pytest.mark.parametrize(("asked", "name"), [(None, "discriminator"), ("generator", "generator")])
def test_of_a_pair_one_is_read(asked, name, spm_dir, ids, tmp_path):
    config = with_vocabulary(tiny_pair_config(model={"num_heads": 4}), load_tokenizer(spm_dir).size)
    config = dataclasses.replace(
        config, rtd=dataclasses.replace(config.rtd, generator=dataclasses.replace(config.rtd.generator, num_heads=2))
    )
    pair = drawn_params(init_of_pair(config))
    trained = attention_maps.read_model(saved(tmp_path / "pair", spm_dir, config, pair), asked)
    params = {"generator": pair["generator"], "discriminator": sharing_of(config).discriminator(pair)}[name]
    layers = attention_maps.attention_to(ids, trained)
    assert [layer.name for layer in layers][2:] == (["decoder pass 1", "decoder pass 2"] if asked else [])
    expected = first_c2c(trained.cfg, params["encoder"], ids)
    assert len(expected) == {"generator": 2, "discriminator": 4}[name]
    np.testing.assert_allclose(layers[0].parts["c2c"], expected, rtol=0, atol=1e-4)


def test_of_a_fine_tuned_run_the_best_is_read(mlm, spm_dir, ids, tmp_path):
    cfg = mlm[1].model
    newest, best = (drawn_params(init_of("question_answering", cfg), seed) for seed in (1, 2))
    meta = {"head": "question_answering", "head_config": None}
    saved(tmp_path / "run", spm_dir, mlm[1], newest, step=9, **meta)
    (saved(tmp_path / "other", spm_dir, mlm[1], best, step=4, **meta) / CHECKPOINTS).rename(tmp_path / "run" / BEST)
    trained = attention_maps.read_model(tmp_path / "run", None)
    assert trained.step == 4
    layers = attention_maps.attention_to(ids, trained)
    assert [layer.name for layer in layers] == ["layer 0", "layer 1"]
    np.testing.assert_allclose(layers[0].parts["c2c"], first_c2c(cfg, best["encoder"], ids), rtol=0, atol=1e-4)


def test_a_converted_encoder_is_read(mlm, spm_dir, ids, tmp_path):
    cfg = mlm[1].model
    params = drawn_params(init_of("encoder", cfg))
    workdir = saved(tmp_path / "converted", spm_dir, mlm[1], params, head="encoder", head_config=None)
    layers = attention_maps.attention_to(ids, attention_maps.read_model(workdir, None))
    np.testing.assert_allclose(layers[0].parts["c2c"], first_c2c(cfg, params, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        (" \n", (), "--text is empty"),
        ("ba " * 200, (), "tokens, more than the 128 that a picture can show"),
        ("ba do ge ma " * 5, (), "tokens, the model has 16 positions"),
        ("ba \udcff do", (), "--text: text holds a lone surrogate"),
        (TEXT, ("--model=generator",), "holds one model and no pair; leave it out"),
        (TEXT, ("--model=generater",), "invalid choice: 'generater'"),
        (TEXT, ("--layer=3",), "unknown flag --layer"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(text, more, said, mlm, tmp_path, capsys):
    assert command(mlm[0], tmp_path / "out", *more, text=text) == 2
    complaint = capsys.readouterr().err
    assert said in complaint and complaint.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_refused(mlm, pictures, tmp_path, capsys):
    workdir, config, params = mlm
    for wrong, said in (
        (workdir.parent / "tinny", f"there is no folder {workdir.parent / 'tinny'}, did you mean 'tiny'?"),
        (tmp_path / "no" / "where", "there is no folder"),
        (tmp_path, f"no tokenizer: {tmp_path / TOKENIZER} does not exist"),
    ):
        assert command(wrong, tmp_path / "out") == 2
        assert said in capsys.readouterr().err
    shutil.copytree(workdir / TOKENIZER, tmp_path / TOKENIZER)
    assert command(tmp_path, tmp_path / "out") == 2
    assert f"{tmp_path} holds no complete checkpoint" in capsys.readouterr().err
    assert command(workdir, pictures) == 2
    assert f"{pictures} is not empty" in capsys.readouterr().err


def test_scores_that_are_no_numbers_are_a_failure():
    given = problem(5, SMALL, "c2p|p2c")
    broken = dataclasses.replace(given, k_bkhd=given.k_bkhd.at[0, 2].set(np.nan))
    with pytest.raises(Failed, match="layer 3: the scores are not finite"):
        attention_maps.layer_of("layer 3", broken)
