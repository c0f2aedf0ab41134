"""How much was done, and how fast: what a pretraining run logs beside its losses."""

from deberta_jax.data.masking import predictions_per_row
from deberta_jax.dist.axes import batch_devices
from deberta_jax.train.build import Run
from deberta_jax.train.flops import PEAK_FLOPS, flops_per_row


def tokens_until(run: Run, length: int, step: int) -> dict[str, float]:
    """Tokens (positions) of the first `step` batches of rows of `length`."""
    return {"tokens": float(step * run.config.batch_size * length)}


def token_speed(run: Run, length: int, steps: int, seconds: float) -> dict[str, float]:
    """Tokens (positions) per second, and the share of the peak where the device's is known."""
    config = run.config
    rows = steps * config.batch_size
    speed, peak = {"tokens_per_second": rows * length / seconds}, peak_flops(run)
    if peak:
        predictions = predictions_per_row(length, config.data.mask.rate)
        rows_at_once = config.batch_size // config.micro_batches // batch_devices(config.rules, run.mesh)
        speed["mfu"] = rows * flops_per_row(config, length, predictions, rows_at_once) / seconds / peak
    return speed


def peak_flops(run: Run) -> float | None:
    """FLOP/s of all devices of the mesh, None for a device whose peak is not in the table."""
    kind = run.mesh.devices.flat[0].device_kind
    return PEAK_FLOPS[kind] * run.mesh.devices.size if kind in PEAK_FLOPS else None
