"""configs/rtd.py: what the generator takes from the discriminator, and which pairs are refused."""

import re

import pytest

from configs import base, rtd, sizes
from deberta_jax import config
from deberta_jax.errors import Refused
from deberta_jax.flags import load_config
from runs import ROOT

PATH = ROOT / "configs" / "rtd.py"


def built(size: str = "v3_xsmall", **changes: object) -> config.Config:
    flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in changes.items()]
    return config.build(load_config([f"--config={PATH}:{size}", *flags]).config)


@pytest.mark.parametrize("size", ["v3_xsmall", "v3_small", "v3_base", "v3_large", "mdeberta_base"])
def test_each_pair_is_the_published_discriminator_and_its_generator(size):
    values = config.to_dict(built(size))
    discriminator, generator = sizes.architecture(size), sizes.architecture(size + "_generator")
    assert {key: values["model"][key] for key in discriminator} == discriminator | {"decoder": "none"}
    assert {key: values["rtd"]["generator"][key] for key in generator} == generator
    assert values["data"]["mask"] == {
        "rate": 0.15,
        "mask_share": 1.0,
        "random_share": 0.0,
        "unit": "token",
        "max_ngram": 1,
    }


@pytest.mark.parametrize("size", sizes.SIZES)
def test_every_size_makes_a_pair(size):
    assert built(size).rtd.generator.num_layers >= 2


FOLLOWED = {
    "model__dtype": "float32",
    "model__hidden_dropout": 0.0,
    "model__hidden_size": 192,
    "model__vocab_size": 1000,
    "optimizer__learning_rate": 1e-3,
    "optimizer__schedule": "cosine",
}


@pytest.mark.parametrize(("key", "value"), FOLLOWED.items())
def test_the_generator_follows_the_discriminator(key, value):
    group, name = key.split("__")
    changed = built(**{key: value})
    of_generator = changed.rtd.generator if group == "model" else changed.rtd.optimizer
    assert getattr(getattr(changed, group), name) == getattr(of_generator, name) == value


def test_half_the_layers_of_another_depth():
    assert built(model__num_layers=8).rtd.generator.num_layers == 4


def test_a_value_of_its_own_stays_and_touches_the_discriminator_not_at_all():
    changed = built(rtd__optimizer__learning_rate=7e-4, optimizer__learning_rate=2e-4, rtd__generator__num_layers=3)
    assert (changed.rtd.optimizer.learning_rate, changed.optimizer.learning_rate) == (7e-4, 2e-4)
    assert (changed.rtd.generator.num_layers, changed.model.num_layers) == (3, 12)


REFUSED = {
    "model__decoder=emd": "model.decoder must be 'none': a discriminator predicts no masked tokens",
    "rtd__embedding_sharing=gdse": "rtd.embedding_sharing must be one of none, shared, gdes; got 'gdse', did you mean",
    "rtd__scheme=both": "rtd.scheme must be one of decoupled, joint",
    "rtd__loss_weight=0": "rtd.loss_weight must be positive and finite, got 0.0",
    "rtd__temperature=-1": "rtd.temperature must be positive and finite, got -1.0",
    "rtd__temperature=inf": "rtd.temperature must be positive and finite",
    "rtd__generator__vocab_size=9": "rtd.generator.vocab_size is 9, model.vocab_size 0",
    "rtd__generator__hidden_size=768": "rtd.generator.embedding_width is 768, model.embedding_width 384",
    "rtd__generator__num_layers=1": "rtd.generator: model.num_layers must be at least 2",
    "rtd__optimizer__clip_norm=0": "rtd.optimizer: optimizer.clip_norm must be positive",
    "rtd__optimizer__warmup_steps=2000000": "rtd.optimizer.warmup_steps 2000000 exceeds steps 1000000",
    "rtd__generator_init_from=runs/x": "rtd.generator_init_from is set: name the discriminator in init_from too",
    "init_from=fresh": "init_from is 'fresh': name the generator in rtd.generator_init_from",
    "objective=mlm": "objective 'mlm' and rtd set",
    "rtd__temprature=2": "config has no key 'rtd.temprature', did you mean 'rtd.temperature'",
}


@pytest.mark.parametrize(("change", "message"), REFUSED.items())
def test_a_pair_that_does_not_fit_is_refused_by_name(change, message):
    key, _, value = change.partition("=")
    with pytest.raises(Refused, match=re.escape(message)):
        built(**{key: value})


def test_models_without_shared_tables_may_have_widths_of_their_own():
    narrow = {"rtd__generator__hidden_size": 192, "rtd__generator__num_heads": 3}
    assert built(rtd__embedding_sharing="none", **narrow).rtd.generator.hidden_size == 192
    projected = built(**narrow, rtd__generator__embedding_size=384)
    assert projected.rtd.generator.embedding_width == projected.model.embedding_width


def test_a_masked_lm_has_no_pair_and_says_so():
    c = base.get_config("tiny")
    assert config.build(c).rtd is None
    c.objective = "rtd"
    with pytest.raises(Refused, match="objective 'rtd' and rtd None: start from configs/rtd.py"):
        config.build(c)


def test_a_config_json_from_before_there_were_pairs_still_builds():
    values = config.to_dict(config.build(base.get_config("tiny")))
    del values["rtd"]
    assert config.build(values).rtd is None


def test_what_is_written_builds_the_same_pair():
    assert config.build(config.to_dict(built())) == built()


def test_scripts_are_of_sizes_that_exist():
    assert set(rtd.SCRIPTS) <= set(sizes.SIZES)
