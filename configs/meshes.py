"""Rule tables: which mesh axis splits which logical axis. Mesh axes: data, fsdp, tensor.

Their sizes are `config.mesh` within a slice and `config.dcn_mesh` across TPU slices, whose network is slow: only data,
or data and fsdp, should cross it.

dp       parameters whole on every device, the batch split over all of them
fsdp     parameters and optimizer state split too, over fsdp
fsdp_tp  heads, mlp and vocabulary also split over tensor
"""

_WHOLE = {
    "head_size": None,
    "layers": None,
    "relative": None,
    "position": None,
    "taps": None,
    "label": None,
    "act_length": None,
    "act_key": None,
    "act_prediction": None,
    "act_embed": None,
    "act_head_size": None,
}
_UNSPLIT = {"embed": None, "heads": None, "mlp": None, "vocab": None}
_UNSPLIT_ACTIVATIONS = {"act_heads": None, "act_mlp": None, "act_vocab": None}
_BATCH = {"act_batch": ("data", "fsdp")}

dp = tuple((_WHOLE | _UNSPLIT | _UNSPLIT_ACTIVATIONS | _BATCH).items())
fsdp = tuple((_WHOLE | _UNSPLIT | {"embed": "fsdp"} | _UNSPLIT_ACTIVATIONS | _BATCH).items())
fsdp_tp = tuple(
    (
        _WHOLE
        | {"embed": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor"}
        | {"act_heads": "tensor", "act_mlp": "tensor", "act_vocab": "tensor"}
        | _BATCH
    ).items()
)
