"""Masked-language-model pretraining with the enhanced mask decoder; the argument is a size of configs/sizes.py.

    python train.py --config=configs/mlm.py:v3_base --config.data.paths="('data/wiki512',)" --workdir=runs/base

The settings are those of the released demonstration scripts (experiments/language_model/mlm.sh): 1M steps of 256 rows
of 512 tokens, peak rate 1e-4 after 10,000 steps, spans of up to 3 words. (Those of v2's two sizes take 32 rows and warm
up for 1,000 steps; set that yourself.) They are a start, not what the released models were trained with. On several
devices give a mesh: --config.mesh="(('data',-1),('fsdp',4),('tensor',1))" and, to split parameters too, the rules of
configs/meshes.py by their name: configs/mlm.py:v3_large,fsdp. No time or score is given here because none has been
measured at these sizes yet.
"""

from ml_collections import ConfigDict

from configs import base, meshes

RULES = {"dp": meshes.dp, "fsdp": meshes.fsdp, "fsdp_tp": meshes.fsdp_tp}


def get_config(size: str = "v3_base", rules: str = "dp") -> ConfigDict:
    """The config of a size, parameters placed by a named rule table."""
    c = base.get_config(size)
    c.rules = RULES[rules]
    return c
