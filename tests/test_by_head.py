import pytest
from flax import linen as nn

from builders import tiny_model
from deberta_jax.config import HeadConfig
from deberta_jax.errors import Refused
from deberta_jax.model.by_head import MODELS, WITH_LABELS, build_model, head_of, outputs_of

HEAD = HeadConfig(("a", "b", "c"), pooler_activation="gelu", pooler_dropout=0.0, classifier_dropout=0.0)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_knows_its_head_its_config_and_where_it_comes_from(name):
    head_cfg = HEAD if name in WITH_LABELS else None
    model = build_model(name, tiny_model(), head_cfg, origin="somewhere")
    assert type(model) is MODELS[name]
    assert head_of(model) == (name, head_cfg)
    assert (model.cfg, model.origin) == (tiny_model(), "somewhere")
    assert build_model(name, tiny_model(), head_cfg).origin == ""


def test_no_two_heads_are_the_same_class():
    assert len(set(MODELS.values())) == len(MODELS)
    assert set(WITH_LABELS) <= MODELS.keys()


def test_another_module_is_refused_with_those_that_can_be_written():
    with pytest.raises(Refused, match="a Dense cannot be written; Encoder, MaskedLM, ReplacedTokenDetector, ") as error:
        head_of(nn.Dense(3))
    assert "\n" not in str(error.value)


def test_a_class_derived_from_a_model_is_another_module():
    """It may compute something else."""
    with pytest.raises(Refused, match="a Mine cannot be written"):
        head_of(type("Mine", (MODELS["encoder"],), {})(tiny_model()))


def test_outputs_are_as_many_as_labels():
    assert outputs_of(HEAD) == 3
    assert outputs_of(None) == 0
