"""From a validated config to everything a run needs: mesh, objective, optimizer, compiled step, shardings."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from deberta_jax.config import PRETRAINING, Config, ModelConfig, RunConfig
from deberta_jax.data.batches import Share
from deberta_jax.data.prepared import Manifest
from deberta_jax.dist.axes import axes_of, batch_devices, batch_sharding, check_rules, rows_held
from deberta_jax.dist.mesh import make_mesh
from deberta_jax.dist.replication import check_replication
from deberta_jax.errors import Refused
from deberta_jax.objectives import OBJECTIVES, Lexicon, Objective
from deberta_jax.train.optimizer import Optimizer, named_leaves, optimizers_of
from deberta_jax.train.state import TrainState, abstract_state, fresh_state
from deberta_jax.train.step import batch_gradients, make_train_step, step_key

# XLA makes one product of those of queries, keys and values, then copies its result apart and their gradients together:
# a fifth of what a layer passes beside its products. The number is the size (MB) below which it does so.
GPU_OPTIONS = {"xla_gpu_dot_merger_threshold_mb": 0}


@dataclasses.dataclass(frozen=True)
class InMesh:
    """A jitted function, called and lowered with a run's mesh, axis rules and precision of products in force."""

    function: jax.stages.Wrapped
    mesh: Mesh
    config: RunConfig

    def __call__(self, *arguments: Any) -> Any:
        with self.in_force():
            return self.function(*arguments)

    def lower(self, *shapes: Any) -> jax.stages.Lowered:
        """For trees of ShapeDtypeStruct with shardings; nothing is placed or run."""
        with self.in_force():
            return self.function.lower(*shapes)

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """What it is called with."""
        precision = matmul_precision(self.config)
        with (
            jax.set_mesh(self.mesh),
            nn.logical_axis_rules(self.config.rules),
            jax.default_matmul_precision(precision),
        ):
            yield


@dataclasses.dataclass(frozen=True)
class Run:
    """The pure, compiled part of a run. All functions place their results as the rules say."""

    config: RunConfig
    known: Lexicon | tuple[str, ...]
    mesh: Mesh
    objective: Objective
    abstract: TrainState  # shapes, dtypes, shardings
    batch_sharding: NamedSharding
    fresh: Callable[[], TrainState]
    train_step: InMesh  # (state, batch) -> (state, sums)
    evaluate: InMesh  # (params, batch) -> sums
    predict: InMesh  # (params, batch) -> outputs, a tuple
    gradients: InMesh  # (params, batch, step) -> (gradients, loss), as the step computes them

    def share(self, batch_size: int) -> Share:
        """Which rows of batches of so many this host has to read."""
        return Share(batch_size, rows_held(self.batch_sharding, batch_size, jax.process_index()))

    def place(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        """The rows of this host's `share` as what they are of the global batch."""
        parts = batch_devices(self.config.rules, self.mesh)
        own = len(self.share(parts).columns)
        place = functools.partial(jax.make_array_from_process_local_data, self.batch_sharding)
        return {name: place(rows, (len(rows) // own * parts, *rows.shape[1:])) for name, rows in batch.items()}


def resolve(config: Config, manifests: Sequence[Manifest], length: int) -> Config:
    """The config with what the data decide: the vocabulary. Raises Refused where data and model disagree.

    A word table may have more rows than the tokenizer has ids, as the released ones do (128,100 for 128,001).
    """
    size = manifests[0].tokenizer_size
    rows = config.model.vocab_size or size
    if rows < size:
        raise Refused(f"model.vocab_size is {rows}, the tokenizer of {manifests[0].path} has {size} ids")
    for manifest in manifests:
        if manifest.max_id >= size:
            raise Refused(f"{manifest.path} holds the token id {manifest.max_id}, the vocabulary ends at {size - 1}")
    config = with_vocabulary(config, rows)
    for name, model in models_of(config).items():
        if model.has_absolute_positions and length > model.max_position_embeddings:
            limit = model.max_position_embeddings
            raise Refused(f"rows of {length} tokens need {name}.max_position_embeddings >= {length}, it is {limit}")
    return config


def models_of(config: RunConfig) -> dict[str, ModelConfig]:
    """The models of a run by their place in the config."""
    return {"model": config.model} | ({"rtd.generator": config.rtd.generator} if config.rtd else {})


def masked_model(config: Config) -> ModelConfig:
    """The model of a run that predicts masked tokens."""
    return config.rtd.generator if config.rtd else config.model


def with_vocabulary(config: Config, size: int) -> Config:
    """The config with so many ids in all its models."""
    rtd = config.rtd
    if rtd is not None:
        rtd = dataclasses.replace(rtd, generator=dataclasses.replace(rtd.generator, vocab_size=size))
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size), rtd=rtd)


def build_run(config: RunConfig, known: Lexicon | tuple[str, ...], devices: Sequence[jax.Device] | None = None) -> Run:
    """Everything for a config and what is known of its data: of pretraining the lexicon, of a task the labels.

    Traces and places nothing yet but shapes; the functions compile at their first call. `devices` (default: every
    device of the run) may be those of a jax topology, which are not there: then functions can be lowered and compiled.
    """
    mesh = make_mesh(config.mesh, devices, dcn_axes=config.dcn_mesh)
    check_rules(config.rules, mesh)
    parts = batch_devices(config.rules, mesh)
    _check_divisible("batch_size / micro_batches", config.batch_size // config.micro_batches, parts)
    if config.objective in PRETRAINING:  # of tasks any number is filled up
        _check_divisible("eval.batch_size", config.eval.batch_size, parts)
    objective = OBJECTIVES[config.objective](config, known)
    optimizers = optimizers_of(config, objective.groups)
    step = make_train_step(objective, optimizers, seed=config.seed, micro_batches=config.micro_batches)
    abstract = _state_on(mesh, config, objective, optimizers)
    rows = batch_sharding(config.rules, mesh)
    options = GPU_OPTIONS if mesh.devices.flat[0].platform == "gpu" else None

    def in_mesh(function: Callable, **jit_options: Any) -> InMesh:
        return InMesh(jax.jit(function, compiler_options=options, **jit_options), mesh, config)

    whole = NamedSharding(mesh, PartitionSpec())
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return Run(
        config=config,
        known=known,
        mesh=mesh,
        objective=objective,
        abstract=abstract,
        batch_sharding=rows,
        fresh=lambda: fresh_state(objective, optimizers, abstract, config.seed),
        train_step=in_mesh(step, in_shardings=(placed, rows), out_shardings=(placed, whole), donate_argnums=0),
        evaluate=in_mesh(objective.evaluate, in_shardings=(placed.params, rows), out_shardings=whole),
        gradients=in_mesh(functools.partial(_gradients, objective, config)),
        predict=in_mesh(objective.predict, in_shardings=(placed.params, rows), out_shardings=whole),
    )


def state_on(mesh: Mesh | AbstractMesh, config: RunConfig, known: Lexicon | tuple[str, ...]) -> TrainState:
    """Shapes, dtypes and shardings of a run's state on a mesh, which may be of devices that are not there."""
    check_rules(config.rules, mesh)
    objective = OBJECTIVES[config.objective](config, known)
    return _state_on(mesh, config, objective, optimizers_of(config, objective.groups))


def _state_on(
    mesh: Mesh | AbstractMesh, config: RunConfig, objective: Objective, optimizers: Mapping[str, Optimizer]
) -> TrainState:
    abstract = abstract_state(objective, optimizers, config.rules, mesh)
    _check_splits(abstract)
    check_replication(named_leaves(abstract.params), config.rules, mesh)
    return abstract


def _gradients(objective: Objective, config: RunConfig, params: Any, batch: dict, step: jax.Array) -> tuple:
    return batch_gradients(objective, params, batch, step_key(config.seed, step), config.micro_batches)[:2]


def matmul_precision(config: RunConfig) -> str:
    """float32 means float32, in every model of a run: by default TPUs would round the operands of its products.

    Products of bfloat16 operands are the same at either precision.
    """
    dtypes = {model.dtype for model in models_of(config).values()}
    return "highest" if "float32" in dtypes else "default"


def _check_divisible(name: str, rows: int, parts: int) -> None:
    if rows % parts:
        raise Refused(f"{name} = {rows} is not a multiple of the {parts} parts that the mesh splits a batch into")


def _check_splits(abstract: TrainState) -> None:
    """Raises Refused for a parameter whose axis the mesh cannot split evenly."""
    for name, leaf in named_leaves(abstract.params):
        for size, axes in zip(leaf.shape, leaf.sharding.spec, strict=False):
            parts = math.prod(leaf.sharding.mesh.shape[axis] for axis in axes_of(axes))
            if size % parts:
                raise Refused(f"{name} has an axis of {size}, which the mesh would split into {parts} parts ({axes})")
