"""The attention problems that a model solves on given rows, layer by layer: what there is to look at.

Nothing is computed a second time here: each layer leaves its queries, keys, values and tables in Flax's collection
"intermediates" when that is asked for.
"""

from typing import Any

import jax
from flax import linen as nn

from deberta_jax.model.attention import ASKED, problem_of
from deberta_jax.model.encoder import Encoder, scanned_layers
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.ops.attention.problem import Problem


def encoder_problems(
    encoder: Encoder, params: Any, input_ids: jax.Array, attention_mask: jax.Array, **options: Any
) -> list[Problem]:
    """The problem of each layer, first to last, for rows [b, l]; deterministic.

    `options` are the encoder's own: position_ids, token_type_ids.
    """
    cfg = encoder.cfg
    found = _asked(encoder, params, input_ids, attention_mask, options)
    layers = [found["first"]] if cfg.conv_kernel_size else []
    layers += [jax.tree.map(lambda leaf, n=n: leaf[n], found["blocks"]) for n in range(scanned_layers(cfg))]
    layers.append(found["last"])
    return [problem_of(cfg, *layer["attention"][ASKED][0], attention_mask) for layer in layers]


def decoder_problems(
    model: MaskedLM, params: Any, input_ids: jax.Array, attention_mask: jax.Array, **options: Any
) -> list[Problem]:
    """The problem of each pass of the enhanced mask decoder when every position asks, as only masked ones do in
    training; their answers do not depend on who else asks. Arguments as for `encoder_problems`."""
    found = _asked(model, params, input_ids, attention_mask, options)
    passes = found["encoder"]["last"]["attention"][ASKED]
    return [problem_of(model.cfg, *asked, attention_mask) for asked in passes]


def _asked(model: nn.Module, params: Any, input_ids, attention_mask, options: dict[str, Any]) -> Any:
    """The tree of what the model's modules left; that of scanned layers is stacked."""

    def apply(params, input_ids, attention_mask, options):
        inputs = (input_ids, attention_mask)
        _, left = model.apply({"params": params}, *inputs, deterministic=True, mutable=["intermediates"], **options)
        return left["intermediates"]

    return jax.jit(apply)(params, input_ids, attention_mask, options)
