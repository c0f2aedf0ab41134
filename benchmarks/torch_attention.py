"""transformers' disentangled attention on our arrays: what benchmarks.attention compares with. Needs torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import DebertaV2Config
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from deberta_jax.ops.attention.problem import Problem

LAYERS = {  # whose layer's place each array takes
    "q_bqhd": "query_proj",
    "k_bkhd": "key_proj",
    "v_bkhd": "value_proj",
    "pos_k_rhd": "pos_key_proj",
    "pos_q_rhd": "pos_query_proj",
}
SQUARES = 6  # float32 [b, h, q, k] at the peak of output and gradients: resident memory on a CPU, either dtype


class Given(torch.nn.Module):
    """In a linear layer's place: what it would give, [b, n, width]."""

    def __init__(self, tensor: torch.Tensor):
        super().__init__()
        self.tensor = torch.nn.Parameter(tensor)

    def forward(self, _: Any) -> torch.Tensor:
        return self.tensor


def competitor(problem: Problem, weight: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any], int]:
    """(forward, both, bytes) as in benchmarks.attention.Competitor."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[str(problem.q_bqhd.dtype)]
    module = module_of(problem, device, dtype)
    parameters = {name: module.get_submodule(layer).tensor for name, layer in LAYERS.items()}
    weight_bqm = tensor_of(weight, device, dtype)
    rows, length, heads, _ = problem.q_bqhd.shape
    given = {
        "hidden_states": weight_bqm,  # nothing looks at it
        "attention_mask": torch.ones(rows, 1, length, length, dtype=torch.bool, device=device),
        "relative_pos": relative_positions(problem, device),
        "rel_embeddings": torch.zeros(2 * module.pos_ebd_size, 1, device=device),
    }

    def attend() -> torch.Tensor:
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            return module(**given)[0]

    def forward() -> torch.Tensor:
        with torch.no_grad():
            output_bqm = attend()
        wait(device)
        return output_bqm

    def both() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output_bqm = attend()
        gradients = torch.autograd.grad(output_bqm, list(parameters.values()), weight_bqm)
        wait(device)
        return output_bqm, dict(zip(parameters, gradients, strict=True))

    return forward, both, SQUARES * rows * heads * length * length * 4


def module_of(problem: Problem, device: str, dtype: torch.dtype) -> DisentangledSelfAttention:
    """In training mode; its linear layers give the arrays of `problem`."""
    heads, size = problem.q_bqhd.shape[2:]
    config = DebertaV2Config(
        hidden_size=heads * size,
        num_attention_heads=heads,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=problem.rate,
        relative_attention=True,
        position_buckets=problem.pos_k_rhd.shape[0] // 2,
        pos_att_type=list(problem.terms),
        share_att_key=False,
    )
    module = DisentangledSelfAttention(config).train()
    for name, layer in LAYERS.items():
        array = np.asarray(vars(problem)[name].astype("float32"))
        tensor = tensor_of(array, device, dtype)
        setattr(module, layer, Given(tensor if array.ndim == 4 else tensor[None]))
    return module


def relative_positions(problem: Problem, device: str) -> torch.Tensor:
    """[1, q, k]: the bucket of each distance, which transformers computes once for all layers."""
    length = problem.q_bqhd.shape[1]
    row_qk = problem.row_of_distance[length + np.arange(length)[:, None] - np.arange(length)]
    return torch.as_tensor(row_qk - problem.pos_k_rhd.shape[0] // 2, dtype=torch.long, device=device)[None]


def tensor_of(array: np.ndarray, device: str, dtype: torch.dtype) -> torch.Tensor:
    """[..., h, d] as [..., h * d]."""
    return torch.tensor(array.reshape(*array.shape[:-2], -1), dtype=dtype, device=device)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def numbers(tensor: torch.Tensor) -> np.ndarray:
    """In float64."""
    return tensor.detach().double().cpu().numpy()
