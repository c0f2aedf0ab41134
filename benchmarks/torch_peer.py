"""transformers' masked language model, trained on our batches: what benchmarks.train_step compares with."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.timing import Step
from deberta_jax.config import ModelConfig
from deberta_jax.convert.hf_config import fields_of


def steps(cfg: ModelConfig, batch: dict[str, np.ndarray], *, compiled: bool) -> dict[str, Step]:
    """ "stock" and "masked", and both through torch.compile."""
    import torch  # here: the package must not need it

    found = {"stock": step_of(cfg, batch, whole_loss), "masked": step_of(cfg, batch, masked_loss)}
    if compiled:
        found["stock, compiled"] = step_of(cfg, batch, torch.compile(whole_loss))
        found["masked, compiled"] = step_of(cfg, batch, torch.compile(masked_loss))
    return found


def step_of(cfg: ModelConfig, batch: dict[str, np.ndarray], loss_of: Callable) -> Step:
    """Forward, backward, clipping to norm 1 and fused AdamW."""
    import torch
    from transformers import DebertaV2Config, DebertaV2ForMaskedLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, cfg.dtype)
    model = DebertaV2ForMaskedLM(DebertaV2Config(**fields_of(cfg))).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tensors = {name: torch.as_tensor(array.astype(np.int64), device=device) for name, array in batch.items()}

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            loss = loss_of(model, tensors)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()  # waits for the device

    return step


def peak_of(step: Step) -> dict[str, float]:
    """{"held GB": what torch has taken at most during a step} on a GPU, nothing on CPUs."""
    import torch

    if not torch.cuda.is_available():
        return {}
    torch.cuda.reset_peak_memory_stats()
    step()
    return {"held GB": torch.cuda.max_memory_allocated() / 1e9}


def whole_loss(model: Any, batch: dict[str, Any]) -> Any:
    """As transformers' own training: the head at every position, labels of -100 where nothing is predicted."""
    import torch

    labels_bl = torch.full_like(batch["input_ids"], -100)
    labels_bl = labels_bl.scatter(1, batch["masked_positions"], batch["labels"])
    return model(batch["input_ids"], attention_mask=batch["documents"], labels=labels_bl).loss


def masked_loss(model: Any, batch: dict[str, Any]) -> Any:
    """The same number with the head at the masked positions only."""
    import torch

    x_ble = model.deberta(batch["input_ids"], attention_mask=batch["documents"]).last_hidden_state
    x_bpe = torch.take_along_dim(x_ble, batch["masked_positions"][..., None], dim=1)
    return torch.nn.functional.cross_entropy(model.cls(x_bpe).flatten(0, 1), batch["labels"].flatten())
