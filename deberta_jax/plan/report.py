"""A plan as text, from the values that also go to JSON."""

from collections.abc import Iterator
from typing import Any

from deberta_jax.plan.roofline import ASSUMPTIONS

GIB = 2**30


def text(plan: dict[str, Any]) -> str:
    """The whole report."""
    return "\n".join([*_heading(plan), *_compiled(plan)] if plan["configured"] else _heading(plan))


def _heading(plan: dict[str, Any]) -> Iterator[str]:
    topology, batch, state = plan["topology"], plan["batch"], plan["state"]
    shape = " x ".join(f"{name} {size}" for name, size in plan["mesh"].items())
    yield f"{plan['config']} on {topology['name']}: {topology['chips']} x {topology['kind']}, mesh {shape}"
    steps = f"remat {plan['remat']}, {plan['micro_batches']} micro-batches"
    yield f"  {plan['objective']}, {steps}, rows of {plan['length']} tokens"
    yield f"  vocabulary {plan['vocabulary']:,}: {plan['vocabulary_from']}"
    yield f"  batch {batch['batch_size']:,} rows a step, {batch['rows']} at once on a chip"
    yield f"  {plan['parameter_count']:,} parameters; {plan['flops_per_token'] / 1e9:.3f} GFLOP of the model per token"
    yield "Memory of a chip"
    yield f"  {_gib(state['parameters'])} parameters (float32, as the rules split them)"
    yield f"  {_gib(state['optimizer'])} optimizer state"
    yield f"  {_gib(batch['bytes'])} batch"
    if not plan["configured"]:
        least = batch["flops"] / topology["flops"]
        yield "  activations and temporaries: unknown without the TPU compiler (requirements-libtpu.txt); the rest is"
        yield "  arithmetic, nothing was compiled and no statement is made that it fits"
        yield f"Time: no step is shorter than its model FLOPs at the peak, {1e3 * least:.1f} ms"


def _compiled(plan: dict[str, Any]) -> Iterator[str]:
    yield from _memory(plan)
    point = plan["configured"]
    if point["fits"]:
        yield from _messages(point)
        yield from _time(plan, point)
    yield from _largest(plan)
    yield "Largest buffers of a chip" + ("" if point["fits"] else " (of the batch that does not fit)")
    for buffer in point["buffers"]:
        yield f"  {_gib(buffer['bytes'])} {buffer['shape']:24} {buffer['what']}: {buffer['name']}"
    if point["fits"]:
        yield "Assumptions of the modelled time; nothing was measured"
        yield from (f"  - {each}" for each in ASSUMPTIONS)


def _memory(plan: dict[str, Any]) -> Iterator[str]:
    point, slope, room = plan["configured"], plan["activation_bytes_per_row"], plan["topology"]["room"]
    yield f"  {_gib(point['temporaries'])} temporaries and padding: gradients, activations, work space"
    if slope is not None:
        grown = f"what grows with the rows, {_gib(slope).strip()} each"
        yield f"  {_gib(slope * point['rows'])}   of these activations: {grown}"
    code = "with" if point["whole"] else "without"
    verdict = "fits" if point["fits"] else f"DOES NOT FIT, {_gib(point['bytes'] - room).strip()} too many"
    total = f"total {code} the program's code, of {_gib(room).strip()} that the compiler has for it"
    yield f"  {_gib(point['bytes'])} {total}: {verdict}"
    yield f"  (the chip has {_gib(plan['topology']['memory']).strip()}; a chip also holds the next two batches)"


def _messages(point: dict[str, Any]) -> Iterator[str]:
    yield "Collectives of a step, per chip: how many, their bytes, bytes that a chip sends round a ring"
    for kind, total in point["collectives"].items():
        yield f"  {kind:25} {total['count']:6,} {_gib(total['bytes'])} {_gib(total['wire_bytes'])}"
    if not point["collectives"]:
        yield "  none"
    if point["unknown_loops"]:
        yield f"  loops of unknown length, counted once: {', '.join(point['unknown_loops'])}"


def _time(plan: dict[str, Any], point: dict[str, Any]) -> Iterator[str]:
    parts = {name: 1e3 * seconds for name, seconds in point["seconds_of"].items()}
    topology = plan["topology"]
    yield f"Time of a step, modelled: {1e3 * point['step_seconds']:.1f} ms"
    yield f"  {point['tokens_per_second']:,.0f} tokens/s on {topology['chips']} chips, MFU {100 * point['mfu']:.1f} %"
    yield f"  {parts['operations']:9.1f} ms operations, one after another, each at the nearer of its two limits"
    yield f"  {parts['products']:9.1f} ms   if only products took time ({topology['flops'] / 1e12:.0f} TFLOP/s)"
    yield f"  {parts['memory']:9.1f} ms   if only the main memory did ({topology['hbm'] / 1e9:.0f} GB/s)"
    link = f"{topology['link'] / 1e9:.0f} GB/s a link and direction"
    yield f"  {parts['waiting']:9.1f} ms messages that are waited for ({link})"
    yield f"  {parts['hidden']:9.1f} ms messages beside computation"
    if topology["slices"] > 1:
        yield f"  {parts['between_slices']:9.1f} ms   of both, between slices ({topology['dcn'] / 1e9:.2f} GB/s a chip)"


def _largest(plan: dict[str, Any]) -> Iterator[str]:
    found, point = plan["search"], plan["largest"]
    if point is None:
        yield "Largest batch: not even one row a chip fits"
        return
    rows, batch = f"{point['rows']} rows at once on a chip", f"{point['batch_size']:,} rows a step"
    size, more = _gib(point["bytes"]).strip(), f"({found['too_many']} rows do not fit)"
    yield f"Largest batch that fits: {rows}, {batch} {more}, {size}"
    speed = f"{point['tokens_per_second']:,.0f} tokens/s, MFU {100 * point['mfu']:.1f} %"
    yield f"  modelled: {1e3 * point['step_seconds']:.1f} ms a step, {speed}"


def _gib(size: float) -> str:
    return f"{size / GIB:9.3f} GiB" if abs(size) >= GIB / 100 else f"{size / 2**20:9.3f} MiB"
