"""Replaced token detection with gradient-disentangled embedding sharing: DeBERTaV3. The argument is a size.

    one device   python train.py --config=configs/rtd.py:v3_xsmall --config.batch_size=64 --config.micro_batches=2 \
                     --config.optimizer.learning_rate=3e-4 --config.data.paths="('data/wiki512',)" --workdir=runs/xsmall
    one host     python train.py --config=configs/rtd.py:v3_base,fsdp \
                     --config.mesh="(('data',1),('fsdp',8),('tensor',1))" \
                     --config.data.paths="('data/wiki512',)" --workdir=runs/base

Sizes: v3_xsmall, v3_small, v3_base, v3_large, mdeberta_base, and any other of configs/sizes.py. `config.model` and
`config.optimizer` are the discriminator's. The generator, `config.rtd.generator` and `config.rtd.optimizer`, follows
them key by key (`--config.model.dtype=float32` sets both) until one of its own is given; it has half the layers and the
enhanced mask decoder.
"""

from ml_collections import ConfigDict

from configs import base, meshes

RULES = {"dp": meshes.dp, "fsdp": meshes.fsdp, "fsdp_tp": meshes.fsdp_tp}


def get_config(size: str = "v3_base", rules: str = "dp") -> ConfigDict:
    """The config of a pair whose discriminator has a named size, parameters placed by a named rule table."""
    c = as_pair(base.get_config(size))
    c.rules = RULES[rules]
    return c


def as_pair(c: ConfigDict) -> ConfigDict:
    """A config of configs/base.py as one that trains a generator and a discriminator."""
    c.objective = "rtd"
    c.model.decoder = "none"  # the generator has it
    c.data.mask = ConfigDict(dict(rate=0.15, mask_share=1.0, random_share=0.0, unit="token", max_ngram=1))
    generator = _following(c.model)
    generator.decoder = "emd"
    generator.num_layers = c.model.get_oneway_ref("num_layers") // 2
    c.rtd = ConfigDict(
        dict(
            generator=generator,
            optimizer=_following(c.optimizer),
            generator_init_from="",  # a workdir, or "fresh"; "" = as init_from, which then holds a pair
            scheme="decoupled",
            embedding_sharing="gdes",
            loss_weight=50.0,
            temperature=1.0,
        )
    )
    return c


def _following(group: ConfigDict) -> ConfigDict:
    """A group whose every key has the value of `group`'s, whatever that becomes, until it is set itself."""
    return ConfigDict({key: group.get_oneway_ref(key) for key in group})
