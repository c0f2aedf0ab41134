import dataclasses

import pytest

from builders import tiny_config, tiny_model, tiny_pair_config
from configs import sizes
from deberta_jax.train.flops import detector_flops_per_row, flops_per_row, mlm_flops_per_row


def model_of(size, **changes):
    return tiny_model(**sizes.architecture(size) | {"vocab_size": 128_100} | changes)


def gigaflops_per_token(size, length, predictions, **changes):
    """Training, in batches of 32,768 tokens."""
    return mlm_flops_per_row(model_of(size, **changes), length, predictions, 32_768 // length) / length / 1e9


@pytest.mark.parametrize(
    ("size", "length", "expected"),
    [
        ("v3_base", 512, 0.684),
        ("v3_base", 1024, 0.737),
        ("v3_base", 4096, 1.057),
        ("v3_large", 512, 2.187),
        ("v3_large", 1024, 2.334),
        ("v3_large", 4096, 3.213),
    ],
)
def test_figures_are_those_counted_by_hand(size, length, expected):
    """A separate count of the same conventions: 0.15 of the positions predicted, 512 rows of the relative table."""
    assert gigaflops_per_token(size, length, 0.15 * length) == pytest.approx(expected, abs=0.00051)


def test_plain_attention_without_a_decoder_is_counted_as_bert():
    n, p, d, f, rows, vocabulary = 128, 20, 768, 3072, 128_128, 128_100
    cfg = model_of("v3_base", pos_att_type=(), position_biased_input=True, decoder="none")
    layer = 8 * n * d * d + 4 * n * d * f + 4 * n * n * d
    last = 4 * n * d * d + 4 * p * d * d + 4 * p * d * f + 4 * p * n * d
    head = 2 * p * d * d + 2 * p * d * rows
    assert cfg.vocab_size == vocabulary
    assert mlm_flops_per_row(cfg, n, p, 8) == 3 * (11 * layer + last + head)


def test_each_position_term_costs_the_same_in_the_layers_below_the_last():
    one = model_of("v3_base", pos_att_type=("c2p",))
    two = model_of("v3_base", pos_att_type=("p2c",))
    deep = [dataclasses.replace(cfg, num_layers=13) for cfg in (one, two)]
    added = [
        mlm_flops_per_row(b, 512, 77, 64) - mlm_flops_per_row(a, 512, 77, 64)
        for a, b in zip((one, two), deep, strict=True)
    ]
    assert added[0] == added[1]


def test_the_table_is_projected_once_for_a_batch():
    rest = mlm_flops_per_row(model_of("v3_base"), 512, 77, 10**12)
    alone, shared = (mlm_flops_per_row(model_of("v3_base"), 512, 77, rows) - rest for rows in (1, 64))
    assert alone == pytest.approx(64 * shared, rel=1e-3)
    assert alone == pytest.approx(3 * 12 * 2 * 2 * 512 * 768 * 768, rel=1e-3)


def test_a_discriminator_costs_its_layers_and_a_square_head_at_every_token():
    """By hand: no position terms, one row at a time, so that only the products of BERT's layers are left."""
    cfg = model_of("v3_base", pos_att_type=(), position_biased_input=True, decoder="none")
    n, d, f = 512, 768, 3072
    layer = 4 * n * d * d + 2 * n * d * f + 2 * n * n * d  # multiply-adds: four square products, two wide, two of n x n
    head = n * d * d + n * d
    assert detector_flops_per_row(cfg, n, 1) == 3 * 2 * (12 * layer + head)


def test_a_pair_costs_both_models():
    config = tiny_pair_config()
    parts = (
        mlm_flops_per_row(config.rtd.generator, 24, 6, 4),
        detector_flops_per_row(config.model, 24, 4),
    )
    assert flops_per_row(config, 24, 6, 4) == sum(parts)
    assert flops_per_row(tiny_config(), 24, 6, 4) == mlm_flops_per_row(tiny_config().model, 24, 6, 4)


def test_a_pair_of_the_published_size_costs_one_and_a_half_models():
    """Half the layers with a decoder, and the discriminator's whole stack."""
    generator, discriminator = model_of("v3_base_generator"), model_of("v3_base", decoder="none")
    pair = mlm_flops_per_row(generator, 512, 77, 64) + detector_flops_per_row(discriminator, 512, 64)
    alone = mlm_flops_per_row(model_of("v3_base"), 512, 77, 64)
    assert 1.4 < pair / alone < 1.8
