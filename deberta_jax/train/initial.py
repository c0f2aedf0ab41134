"""The state that a run starts from: where it stopped, other runs' parameters, or fresh ones."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from deberta_jax import config as configs
from deberta_jax.config import FRESH, Config
from deberta_jax.errors import Refused
from deberta_jax.objectives import OBJECTIVES
from deberta_jax.objectives.embedding_sharing import (
    DISCRIMINATOR,
    GENERATOR,
    TableSharing,
    embeddings_of,
    with_embeddings,
)
from deberta_jax.objectives.models import init_of
from deberta_jax.objectives.rtd import sharing_of
from deberta_jax.train import checkpoint, session
from deberta_jax.train.build import Run
from deberta_jax.train.session import CHECKPOINTS
from deberta_jax.train.state import TrainState, abstract

log = logging.getLogger(__name__)


def starting_state(run: Run, workdir: Path, meta: dict[str, Any]) -> TrainState:
    """The newest good checkpoint of this workdir, else the parameters of init_from, else fresh; says which."""
    directory = workdir / CHECKPOINTS
    step = checkpoint.newest_good(directory)
    checkpoint.set_aside(directory, after=step)
    if step is not None:
        session.check_same_run(meta, checkpoint.read_meta(directory, step), directory / str(step))
        log.warning("resuming %s at step %d", workdir, step)
        return checkpoint.restore(directory, step, run.abstract)
    if not run.config.init_from:
        return run.fresh()
    initialise = _model if run.config.rtd is None else _pair
    return run.fresh().replace(params=initialise(run, meta["tokenizer"]))


def _model(run: Run, tokenizer: str) -> Any:
    """The parameters of a run that trains one model."""
    return Source("init_from", run.config.init_from, tokenizer).masked_model(run, "model", run.config.model)


def _pair(run: Run, tokenizer: str) -> Any:
    """The parameters of a pair, each model from its own place.

    A model that starts afresh takes the tables of the other where they share them.
    """
    config, sharing = run.config, sharing_of(run.config)
    fresh = run.fresh().params
    models = {GENERATOR: fresh[GENERATOR], DISCRIMINATOR: sharing.discriminator(fresh)}
    sources = _sources(config, tokenizer)
    if GENERATOR in sources:
        models[GENERATOR] = sources[GENERATOR].masked_model(run, "rtd.generator", config.rtd.generator)
    if DISCRIMINATOR in sources:
        models[DISCRIMINATOR] = sources[DISCRIMINATOR].discriminator(run, models[DISCRIMINATOR])
    if sources.keys() == {GENERATOR}:
        models[DISCRIMINATOR] = _with_tables(models[DISCRIMINATOR], models[GENERATOR], sharing)
    if sources.keys() == {DISCRIMINATOR}:
        models[GENERATOR] = _with_tables(models[GENERATOR], models[DISCRIMINATOR], sharing)
    if sharing.mode == "shared":
        _check_one_table(models, sharing)
    placed = jax.tree.map(lambda leaf: leaf.sharding, run.abstract.params)
    return jax.jit(sharing.pair, out_shardings=placed)(models[GENERATOR], models[DISCRIMINATOR])


def _sources(config: Config, tokenizer: str) -> dict[str, "Source"]:
    """Where the models of a pair come from; those that start afresh are left out."""
    sources = {}
    if config.init_from != FRESH:
        sources[DISCRIMINATOR] = Source("init_from", config.init_from, tokenizer)
    if config.rtd.generator_init_from:
        if config.rtd.generator_init_from != FRESH:
            sources[GENERATOR] = Source("rtd.generator_init_from", config.rtd.generator_init_from, tokenizer)
    elif sources[DISCRIMINATOR].holds_pair:
        sources[GENERATOR] = sources[DISCRIMINATOR]
    else:
        raise Refused(
            f"init_from: {config.init_from} holds no generator; name one in rtd.generator_init_from, or say {FRESH!r}"
        )
    return sources


class Source:
    """A workdir, of a run or converted, that models are taken from."""

    def __init__(self, key: str, workdir: str, tokenizer: str):
        self._directory = Path(workdir) / CHECKPOINTS
        self._key, self._workdir = key, workdir
        step = checkpoint.newest_good(self._directory)
        if step is None:
            raise Refused(f"{key}: {workdir} holds no complete checkpoint")
        meta = checkpoint.read_meta(self._directory, step)
        if meta["tokenizer"] != tokenizer:
            raise Refused(f"{key}: {workdir} was trained with another tokenizer than the data")
        self._step, self._config = step, configs.build(meta["config"])
        self._head = meta.get("head", self._config.objective)  # converted workdirs name their head
        self.holds_pair = self._head == "rtd" and self._config.rtd is not None

    def masked_model(self, run: Run, name: str, wanted: configs.ModelConfig) -> Any:
        """The parameters of the model that predicts masked tokens; it must be as `wanted`, config.`name`."""
        if self.holds_pair:
            self._check(name, wanted, self._config.rtd.generator)
            return self._restored(run, OBJECTIVES["rtd"](self._config, run.lexicon).init)[GENERATOR]
        if self._head != "mlm":
            raise Refused(f"{self._key}: {self._workdir} has the head {self._head!r}, masked tokens need 'mlm'")
        self._check(name, wanted, self._config.model)
        return self._restored(run, init_of("mlm", self._config.model))

    def discriminator(self, run: Run, fresh: Any) -> Any:
        """The parameters of a whole discriminator; the head is that of `fresh` where there is only an encoder."""
        if self._head in ("rtd", "encoder") or self._head == "mlm":
            but = () if self._head == "rtd" else _only_used_by_decoders(run.config.model)
            self._check("model", run.config.model, self._config.model, but=but)
        if self.holds_pair:
            pair = self._restored(run, OBJECTIVES["rtd"](self._config, run.lexicon).init)
            return sharing_of(self._config).discriminator(pair)
        if self._head not in ("rtd", "mlm", "encoder"):
            raise Refused(f"{self._key}: {self._workdir} has the head {self._head!r}, a discriminator starts from none")
        model = self._restored(run, init_of(self._head, self._config.model))
        if self._head == "rtd":
            return model
        log.warning("%s: %s has no head for replaced tokens: it starts afresh", self._key, self._workdir)
        encoder = model if self._head == "encoder" else model["encoder"]
        kept = {name: encoder["embeddings"][name] for name in embeddings_of(fresh)}
        return {**fresh, "encoder": {**encoder, "embeddings": kept}}

    def _check(self, name: str, wanted: configs.ModelConfig, found: configs.ModelConfig, but: tuple = ()) -> None:
        path = self._directory / str(self._step)
        session.check_same_model(name, wanted, session.flat(configs.to_dict(found)), path, but=but)

    def _restored(self, run: Run, init) -> Any:
        log.warning("parameters from %s, step %d", self._workdir, self._step)
        shapes = abstract(init, run.config.rules, run.mesh)
        return checkpoint.restore_params(self._directory, self._step, shapes)


def _only_used_by_decoders(model: configs.ModelConfig) -> tuple[str, ...]:
    """Keys in which an encoder may differ from the masked language model that it comes from."""
    return ("decoder",) if model.has_absolute_positions else ("decoder", "max_position_embeddings")


def _with_tables(model: Any, other: Any, sharing: TableSharing) -> Any:
    """`model` with the shared tables of the `other`."""
    tables = {table: embeddings_of(other)[table] for table in sharing.tables}
    return with_embeddings(model, {**embeddings_of(model), **tables})


def _check_one_table(models: dict[str, Any], sharing: TableSharing) -> None:
    for table in sharing.tables:
        one, other = (embeddings_of(model)[table] for model in models.values())
        if not bool(jnp.array_equal(one, other)):
            raise Refused(
                f"rtd.embedding_sharing is 'shared', but init_from and rtd.generator_init_from differ in their {table} "
                "tables; 'gdes' keeps both, as a difference"
            )
