"""Replaced token detection with gradient-disentangled embedding sharing: DeBERTaV3. The argument is a size.

    one device   python train.py --config=configs/rtd.py:v3_xsmall --config.micro_batches=4 \
                     --config.data.paths="('data/wiki512',)" --workdir=runs/xsmall
    one host     python train.py --config=configs/rtd.py:v3_base,fsdp \
                     --config.mesh="(('data',1),('fsdp',8),('tensor',1))" \
                     --config.data.paths="('data/wiki512',)" --workdir=runs/base
    a pod        the same with a mesh of all its devices, and the paper's ablation (2,048 rows a step):
                     --config.mesh="(('data',-1),('fsdp',16),('tensor',1))" --config.batch_size=2048 \
                     --config.steps=125_000 --config.optimizer.learning_rate=5e-4

Sizes: v3_xsmall, v3_small, v3_base, v3_large, mdeberta_base, and any other of configs/sizes.py. `config.model` and
`config.optimizer` are the discriminator's. The generator, `config.rtd.generator` and `config.rtd.optimizer`, follows
them key by key (`--config.model.dtype=float32` sets both) until one of its own is given; it has half the layers and the
enhanced mask decoder. Continued pretraining: `config.init_from` and `config.rtd.generator_init_from`, see
docs/rtd.md. No time or score is given here because none has been measured at these sizes yet;
configs/laptop_rtd.py has both.
"""

from ml_collections import ConfigDict

from configs import base, meshes

RULES = {"dp": meshes.dp, "fsdp": meshes.fsdp, "fsdp_tp": meshes.fsdp_tp}

# The released demonstration scripts (experiments/language_model/rtd.sh): 1M steps of rows of 512 tokens, 10,000 of
# warm-up, linear decay, decoupled, loss weight 10. They have no script for v3_small and mdeberta_base, which take the
# settings of v3_base here.
# The paper: released models saw 500,000 steps of 8,192 rows; its ablations (section 3) 125,000 steps of 2,048 rows at a
# peak rate of 5e-4 after 10,000 steps; loss weight 50, as ELECTRA's.
SCRIPTS = {"v3_xsmall": (64, 3e-4)}  # (batch size, peak rate); the others: 256, 1e-4


def get_config(size: str = "v3_base", rules: str = "dp") -> ConfigDict:
    """The config of a pair whose discriminator has a named size, parameters placed by a named rule table."""
    c = as_pair(base.get_config(size))
    c.rules = RULES[rules]
    if size in SCRIPTS:
        c.batch_size, c.optimizer.learning_rate = SCRIPTS[size]
    return c


def as_pair(c: ConfigDict) -> ConfigDict:
    """A config of configs/base.py as one that trains a generator and a discriminator."""
    c.objective = "rtd"
    c.model.decoder = "none"  # the generator has it
    c.data.mask = ConfigDict(dict(rate=0.15, mask_share=1.0, random_share=0.0, unit="token", max_ngram=1))
    generator = _following(c.model)
    generator.decoder = "emd"
    generator.num_layers = (c.model.get_oneway_ref("num_layers") + 1) // 2
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
