"""From a config and a topology to all figures of a plan, as plain values that go to JSON."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from deberta_jax.config import Config
from deberta_jax.data.masking import predictions_per_row
from deberta_jax.dist.axes import batch_devices
from deberta_jax.dist.mesh import mesh_sizes, slices_of
from deberta_jax.plan import buffers, collectives, compiler, hlo, roofline
from deberta_jax.plan.chips import Topology
from deberta_jax.plan.memory import bytes_per_device
from deberta_jax.plan.search import Found, Trial, largest_that_fits
from deberta_jax.plan.work import work
from deberta_jax.train.build import Run
from deberta_jax.train.flops import flops_per_row

BUFFERS = 5


class Point(NamedTuple):
    """A step at one batch size: what the compiler says, and what is modelled from it. All per chip."""

    rows: int  # that a chip computes at once
    batch_size: int  # of the whole step
    bytes: int  # of main memory for state, batch, results, temporaries, and code where it was compiled to the end
    fits: bool
    whole: bool  # compiled to the end, not only until memory was assigned
    seconds: float  # that the compiler took
    temporaries: int  # beside state and batch
    collectives: dict[str, dict]
    unknown_loops: list[str]  # whose length the program does not tell: counted once
    seconds_of: dict[str, float]  # roofline.Estimate
    step_seconds: float
    tokens_per_second: float  # of all chips
    mfu: float
    buffers: list[dict]


@dataclasses.dataclass(frozen=True)
class Planner:
    """Compiles the step of a config on a topology at any number of rows."""

    job: compiler.Job
    topology: Topology
    run: Run  # of the config as it is

    @property
    def parts(self) -> int:
        """That a micro-batch is split into."""
        return batch_devices(self.run.config.rules, self.run.mesh)

    @property
    def rows(self) -> int:
        """That a chip computes at once in the config as it is."""
        return self.run.config.batch_size // self.run.config.micro_batches // self.parts

    def facts(self) -> dict[str, Any]:
        """What is known before anything is compiled."""
        config, rows, topology = self.run.config, self.rows, self.topology
        flops_per_token = model_flops(config, self.job.length, rows)
        tokens = config.batch_size * self.job.length / topology.chips
        return {
            "objective": config.objective,
            "topology": topology.chip._asdict()
            | {"name": topology.name, "chips": topology.chips, "slices": topology.slices, "flops": topology.chip.flops},
            "mesh": dict(self.run.mesh.shape),
            "remat": config.model.remat,
            "micro_batches": config.micro_batches,
            "length": self.job.length,
            "vocabulary": config.model.vocab_size,
            "parameter_count": parameter_count(self.run),
            "flops_per_token": flops_per_token,
            "state": self.state_bytes(),
            "batch": {
                "batch_size": config.batch_size,
                "rows": rows,
                "bytes": self.batch_bytes(rows),
                "flops": flops_per_token * tokens,  # of a chip and step
            },
        }

    def state_bytes(self) -> dict[str, int]:
        """Per chip: parameters and optimizer state."""
        sizes, state = dict(self.run.mesh.shape), self.run.abstract
        return {
            "parameters": bytes_per_device(state.params, sizes),
            "optimizer": bytes_per_device(state.opt_state, sizes),
        }

    def at(self, rows: int, whole: bool) -> Point:
        """The step with so many rows at once on each part of the batch."""
        job = self.job._replace(config=with_rows(self.job.config, rows, self.parts))
        made = compiler.compiled(job, whole)
        program, assigned = hlo.parse(made.program), hlo.parse(made.assigned)
        messages = collectives.collectives(program, places(self.run), self.topology.slices)
        modelled = roofline.estimate(work(assigned), messages, self.topology)
        needed = buffers.needed_bytes(made.buffers)
        tokens = job.config.batch_size * job.length
        useful = model_flops(job.config, job.length, rows) * tokens / self.topology.chips
        return Point(
            rows=rows,
            batch_size=job.config.batch_size,
            bytes=needed + (made.code or 0),
            fits=made.fits,
            whole=whole and made.fits,
            seconds=made.seconds,
            temporaries=needed - self.argument_bytes(rows),
            collectives={kind: total._asdict() for kind, total in collectives.totals(messages).items()},
            unknown_loops=hlo.executions(program)[1],
            seconds_of=modelled._asdict(),
            step_seconds=modelled.step,
            tokens_per_second=tokens / modelled.step,
            mfu=useful / modelled.step / self.topology.chip.flops,
            buffers=[each._asdict() for each in buffers.largest(made.buffers, program, BUFFERS)],
        )

    def argument_bytes(self, rows: int) -> int:
        """State and batch of a chip."""
        return sum(self.state_bytes().values()) + self.batch_bytes(rows)

    def batch_bytes(self, rows: int) -> int:
        """Of a whole batch with so many rows at once: what data/batches.py makes, 4 bytes a number."""
        length = self.job.length
        slots = predictions_per_row(length, self.job.config.data.mask.rate)
        return 4 * rows * self.job.config.micro_batches * (3 * length + 3 * slots + 2)


def in_one_slice(config: Config, topology: Topology) -> Config:
    """The config with the mesh of all slices as one, for devices that know of no slices."""
    inside, across = mesh_sizes(config.mesh, config.dcn_mesh, topology.chips, topology.slices)
    sizes = zip((name for name, _ in config.mesh), inside, across, strict=True)
    return dataclasses.replace(config, mesh=tuple((name, a * b) for name, a, b in sizes), dcn_mesh=())


def with_rows(config: Config, rows: int, parts: int) -> Config:
    """The config with so many rows at once on each of the `parts` of a batch, when it trains and when it evaluates."""
    evaluation = dataclasses.replace(config.eval, batch_size=rows * parts)
    return dataclasses.replace(config, batch_size=rows * parts * config.micro_batches, eval=evaluation)


def model_flops(config: Config, length: int, rows: int) -> float:
    """Model FLOPs per token (train/flops.py), `rows` at once on a device."""
    return flops_per_row(config, length, predictions_per_row(length, config.data.mask.rate), rows) / length


def places(run: Run) -> np.ndarray:
    """[devices, axes of the torus]: coordinates of the mesh's devices, in its order, those of one slice alone."""
    devices = list(run.mesh.devices.ravel())
    if slices_of(devices) > 1:
        devices = [device for device in devices if device.slice_index == devices[0].slice_index]
    return np.array([device.coords for device in devices])


def parameter_count(run: Run) -> int:
    """Of all models of a run."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.abstract.params))


class Search(NamedTuple):
    """What the search found, and the point of the largest number of rows; None where not even one fits."""

    found: Found
    largest: Point | None
    bytes_per_row: float | None  # of temporaries that grow with the rows: activations; None of fewer than two that fit


def search(planner: Planner, configured: Point, room: int, say: Callable[[str], None]) -> Search:
    """From the configured point on; `say` is told of each trial."""
    points = {configured.rows: configured}

    def attempt(rows: int) -> Trial:
        if rows not in points:
            points[rows] = planner.at(rows, whole=False)
        point = points[rows]
        verdict = "fits" if point.fits else "does not fit"
        say(f"{rows} rows a chip: {point.bytes / 2**30:.2f} GiB, {verdict} ({point.seconds:.0f} s)")
        return Trial(rows, point.bytes, point.fits)

    found = largest_that_fits(attempt, planner.rows, room, sum(planner.state_bytes().values()))
    largest = points[found.rows] if found.rows else None
    return Search(found, largest, activation_slope(list(points.values())))


def activation_slope(points: list[Point]) -> float | None:
    """Bytes that a chip needs more for a row more, between the fewest and the most rows that fit."""
    fitting = sorted((point for point in points if point.fits), key=lambda point: point.rows)
    if len(fitting) < 2:
        return None
    first, last = fitting[0], fitting[-1]
    return (last.temporaries - first.temporaries) / (last.rows - first.rows)
