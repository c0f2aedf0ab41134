import dataclasses

import pytest

from builders import tiny_config, tiny_pair_config
from deberta_jax.data.prepared import read_manifest
from deberta_jax.errors import Refused
from deberta_jax.train.build import masked_model, matmul_precision, resolve


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "float32")])
def test_where_one_model_is_float32_its_products_are(dtypes):
    config = tiny_pair_config(model={"dtype": dtypes[0]}, generator={"dtype": dtypes[1]})
    assert matmul_precision(config) == "highest"


def test_bfloat16_alone_asks_for_no_more():
    both = tiny_pair_config(model={"dtype": "bfloat16"}, generator={"dtype": "bfloat16"})
    assert matmul_precision(both) == matmul_precision(tiny_config(dtype="bfloat16")) == "default"


def test_masked_tokens_are_predicted_by_the_generator_of_a_pair():
    pair, alone = tiny_pair_config(), tiny_config()
    assert masked_model(pair) is pair.rtd.generator and masked_model(alone) is alone.model


def from_data(config):
    """The config with its vocabulary left to the data."""
    rtd = dataclasses.replace(config.rtd, generator=dataclasses.replace(config.rtd.generator, vocab_size=0))
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=0), rtd=rtd)


def test_both_models_get_the_vocabulary_of_the_data(prepared):
    manifest = read_manifest(prepared)
    resolved = resolve(from_data(tiny_pair_config()), [manifest], manifest.length)
    assert resolved.model.vocab_size == resolved.rtd.generator.vocab_size == manifest.tokenizer_size


def test_rows_beyond_the_generators_positions_are_refused_by_its_own_key(prepared):
    short = from_data(tiny_pair_config(generator={"max_position_embeddings": 16}))
    with pytest.raises(Refused, match="rows of 32 tokens need rtd.generator.max_position_embeddings >= 32, it is 16"):
        resolve(short, [read_manifest(prepared)], 32)
