"""The state that a run starts from: where it stopped, other runs' parameters, or fresh ones."""

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax import config as configs
from deberta_jax.config import FRESH, FinetuneConfig, HeadConfig, ModelConfig, PoolerConfig
from deberta_jax.errors import Refused, nearest
from deberta_jax.objectives.base import WHOLE
from deberta_jax.objectives.embedding_sharing import (
    DISCRIMINATOR,
    GENERATOR,
    TableSharing,
    embeddings_of,
    with_embeddings,
)
from deberta_jax.objectives.models import init_of
from deberta_jax.objectives.rtd import init_of_pair, sharing_of
from deberta_jax.objectives.tasks import HEADS, head_of_task
from deberta_jax.train import checkpoint, session
from deberta_jax.train.build import Run
from deberta_jax.train.session import CHECKPOINTS
from deberta_jax.train.state import TrainState, abstract

WITH_CLASSES = ("sequence_classification", "token_classification")  # heads with a logit for each label
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
    found = _found(run, meta["tokenizer"])  # first: what does not fit is told before anything is made
    state = run.fresh()
    if WHOLE in found:  # of a task a new head keeps its fresh parameters
        return state.replace(params=state.params | found[WHOLE])
    return state.replace(params=_pair(run, state.params, found))


def task_params(run: Run, workdir: Path) -> tuple[int, Any]:
    """(step, parameters) of a workdir, converted or of a run, whose head is that of the task, for evaluation.

    Raises Refused where it is not, or where its labels are others.
    """
    source = Source(run, "workdir", str(workdir), None)
    return source.step, source.of_task(run.config, run.known, whole=True)


def pretrained_vocabulary(workdir: str) -> int:
    """Ids of the word table of a workdir that a run starts from; 0 for a fresh start."""
    if not workdir:
        return 0
    return configs.build(session.trained_meta(Path(workdir))["config"]).model.vocab_size


def _found(run: Run, tokenizer: str) -> dict[str, Any]:
    """Parameters of the models that do not start afresh: {WHOLE: ...}, or those of a pair by their names."""
    config = run.config
    if config.objective in HEADS:
        return {WHOLE: Source(run, "init_from", config.init_from, tokenizer).of_task(config, run.known, whole=False)}
    if config.rtd is None:
        source = Source(run, "init_from", config.init_from, tokenizer)
        return {WHOLE: source.masked_model("model", config.model)}
    sources = _sources(run, tokenizer)
    found = {}
    if GENERATOR in sources:
        found[GENERATOR] = sources[GENERATOR].masked_model("rtd.generator", config.rtd.generator)
    if DISCRIMINATOR in sources:
        found[DISCRIMINATOR] = sources[DISCRIMINATOR].discriminator(config.model)
    return found


def _sources(run: Run, tokenizer: str) -> dict[str, "Source"]:
    """Where the models of a pair come from; those that start afresh are left out."""
    config, generator = run.config, run.config.rtd.generator_init_from
    sources = {}
    if config.init_from != FRESH:
        sources[DISCRIMINATOR] = Source(run, "init_from", config.init_from, tokenizer)
    if not generator:  # then init_from is a workdir: RTDConfig says so
        if not sources[DISCRIMINATOR].holds_pair:
            remedy = f"name its workdir in rtd.generator_init_from, or say {FRESH!r}"
            raise Refused(f"init_from: {config.init_from} holds one model, no generator beside it; {remedy}")
        sources[GENERATOR] = sources[DISCRIMINATOR]
    elif generator != FRESH:
        sources[GENERATOR] = Source(run, "rtd.generator_init_from", generator, tokenizer)
    return sources


def _pair(run: Run, fresh: Any, found: dict[str, Any]) -> Any:
    """The parameters of a pair: the models that were `found`, the rest `fresh`.

    A model that starts afresh takes the tables of the other where they share them.
    """
    sharing = sharing_of(run.config)
    afresh = {GENERATOR: fresh[GENERATOR], DISCRIMINATOR: sharing.discriminator(fresh)}
    models = {name: model | found.get(name, {}) for name, model in afresh.items()}  # its own head where none was found
    if found.keys() == {GENERATOR}:
        models[DISCRIMINATOR] = _with_tables(models[DISCRIMINATOR], models[GENERATOR], sharing)
    if found.keys() == {DISCRIMINATOR}:
        models[GENERATOR] = _with_tables(models[GENERATOR], models[DISCRIMINATOR], sharing)
    if sharing.mode == "shared":
        _check_one_table(models, sharing)
    placed = jax.tree.map(lambda leaf: leaf.sharding, run.abstract.params)
    return jax.jit(sharing.pair, out_shardings=placed)(models[GENERATOR], models[DISCRIMINATOR])


def _with_tables(model: Any, other: Any, sharing: TableSharing) -> Any:
    """`model` with the shared tables of the `other`."""
    tables = {table: embeddings_of(other)[table] for table in sharing.tables}
    return with_embeddings(model, {**embeddings_of(model), **tables})


def _check_one_table(models: dict[str, Any], sharing: TableSharing) -> None:
    for table in sharing.tables:
        one, other = (embeddings_of(model)[table] for model in models.values())
        if not bool(jnp.array_equal(one, other)):
            raise Refused(
                f"rtd.embedding_sharing is 'shared', but the models of init_from and rtd.generator_init_from have "
                f"different {table} tables; 'gdes' keeps both, as a difference"
            )


class Source:
    """A workdir, of a run or converted, that models of `run` are taken from; `key` of the config names it."""

    def __init__(self, run: Run, key: str, workdir: str, tokenizer: str | None):
        """`tokenizer`: fingerprint of the one that is needed; None = its own."""
        self._run, self._key, self._workdir = run, key, workdir
        self._directory, self.step = self._newest()
        meta = checkpoint.read_meta(self._directory, self.step)
        if tokenizer is not None:
            self._check_tokenizer(meta["tokenizer"], tokenizer)
        self._config = configs.build(meta["config"])
        named = "head" in meta  # a pretraining run's own checkpoint names no head: it has its objective's
        self._head = meta["head"] if named else self._config.objective
        self._head_cfg = HeadConfig(**_tuples(meta["head_config"])) if named and meta["head_config"] else None
        self.holds_pair = self._head == "rtd" and not named

    def masked_model(self, name: str, wanted: ModelConfig) -> Any:
        """The parameters of the model that predicts masked tokens; it must be as `wanted`, config.`name`."""
        if self.holds_pair:
            self._check(name, wanted, self._config.rtd.generator)
            return self._pair[GENERATOR]
        if self._head != "mlm":
            raise Refused(f"{self._key}: {self._workdir} has the head {self._head!r}, masked tokens need 'mlm'")
        self._check(name, wanted, self._config.model)
        return self._restored(init_of("mlm", self._config.model))

    def discriminator(self, wanted: ModelConfig) -> Any:
        """The parameters of a whole discriminator, as `wanted`; without its head where the source has another."""
        if self._head not in ("rtd", "mlm", "encoder"):
            heads = "'rtd', 'mlm' or 'encoder'"
            raise Refused(f"{self._key}: {self._workdir} has the head {self._head!r}, a discriminator needs {heads}")
        model = self._model(wanted)
        if self._head != "rtd":
            log.warning("%s: %s has no head for replaced tokens: it starts afresh", self._key, self._workdir)
            model = {"encoder": model["encoder"]}
        return model

    def of_task(self, config: FinetuneConfig, labels: Sequence[str], *, whole: bool) -> Any:
        """The encoder, and as much of the task's head as the source has: the pooler, and the classifier where it is of
        the same kind with the same labels, put in this order. `whole`: raises Refused where anything is lacking."""
        head, head_cfg = head_of_task(config, labels)
        lacking = self._lacking(head, head_cfg)
        if whole and lacking:
            raise Refused(f"{self._workdir}: {lacking}, {config.data.task} cannot be predicted with it")
        model = self._model(config.model)
        kept = {"encoder": model["encoder"]}
        if head_cfg is not None and "pooler" in model and head != "token_classification":
            self._check_pooler(config.head)
            kept["pooler"] = model["pooler"]
        if not lacking:
            kept |= {name: model[name] for name in model.keys() - {"encoder", "pooler"}}
            if head in WITH_CLASSES:
                order = np.array(_places(self._head_cfg.labels, head_cfg.labels))
                kept["classifier"] = {name: leaf[..., order] for name, leaf in kept["classifier"].items()}
        elif not whole:
            log.warning("%s: %s: the rest of the head starts afresh", self._key, lacking)
        return kept

    def _lacking(self, head: str, head_cfg: HeadConfig | None) -> str:
        """Why the source's last layer is not that of the task; "" where it is."""
        if self._head != head:
            return f"its head is {self._head!r}, the task's {head!r}"
        if head in WITH_CLASSES:
            theirs, ours = self._head_cfg.labels, head_cfg.labels
            if _places(theirs, ours) is None:
                return f"its head has the labels {', '.join(theirs)}, the task {', '.join(ours)}"
        return ""

    def _check_pooler(self, wanted: PoolerConfig) -> None:
        if self._head_cfg.pooler_activation != wanted.pooler_activation:
            theirs = self._head_cfg.pooler_activation
            raise Refused(
                f"{self._key}: {self._workdir} has a pooler with {theirs!r}, head.pooler_activation is "
                f"{wanted.pooler_activation!r}"
            )

    def _model(self, wanted: ModelConfig) -> Any:
        """All parameters of the source's model, of a pair those of its discriminator; tables as `wanted` has them."""
        self._check("model", wanted, self._config.model, but=_only_used_by_decoders(wanted))
        if self.holds_pair:
            model = sharing_of(self._config).discriminator(self._pair)
        else:
            model = self._restored(init_of(self._head, self._config.model, self._head_cfg))
        model = {"encoder": model} if self._head == "encoder" else model
        kept = dict(embeddings_of(model))
        if not wanted.has_absolute_positions:
            kept.pop("position", None)  # a decoder's
        return with_embeddings(model, kept)

    @functools.cached_property
    def _pair(self) -> Any:
        return self._restored(init_of_pair(self._config))

    def _newest(self) -> tuple[Path, int]:
        path = Path(self._workdir)
        directory = path / session.BEST if checkpoint.steps_in(path / session.BEST) else path / CHECKPOINTS
        step = checkpoint.newest_good(directory)
        if step is None:
            beside = path.parent.iterdir() if path.parent.is_dir() and not path.exists() else ()
            meant = nearest(path.name, sorted(other.name for other in beside))
            raise Refused(f"{self._key}: {self._workdir} holds no complete checkpoint{meant}")
        return directory, step

    def _check_tokenizer(self, found: str, wanted: str) -> None:
        if not found:
            remedy = "convert it again with the tokenizer's files (spm.model, ...) beside its config.json"
            raise Refused(f"{self._key}: {self._workdir} was converted without a tokenizer; {remedy}")
        if found != wanted:
            raise Refused(f"{self._key}: {self._workdir} was trained with another tokenizer than the data")

    def _check(self, name: str, wanted: ModelConfig, found: ModelConfig, but: tuple[str, ...] = ()) -> None:
        path = self._directory / str(self.step)
        session.check_same_model(name, wanted, session.flat(configs.to_dict(found)), path, but=but)

    def _restored(self, init: Callable[[jax.Array], Any]) -> Any:
        log.warning("parameters from %s, step %d", self._workdir, self.step)
        shapes = abstract(init, self._run.config.rules, self._run.mesh)
        return checkpoint.restore_params(self._directory, self.step, shapes)


def _only_used_by_decoders(model: ModelConfig) -> tuple[str, ...]:
    """Keys in which an encoder may differ from the model with a decoder that it comes from."""
    return ("decoder",) if model.has_absolute_positions else ("decoder", "max_position_embeddings")


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """A HeadConfig's values as JSON has them."""
    return values | {"labels": tuple(values["labels"])}


def _places(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """Where each of our labels is among theirs; None where they are other labels.

    Names may differ in case where that leaves no doubt. The one output of a regression may have any name.
    """
    if len(theirs) == len(ours) == 1:
        return [0]
    for form in (str, str.casefold):
        found, wanted = [form(label) for label in theirs], [form(label) for label in ours]
        if sorted(found) == sorted(wanted) and len(set(found)) == len(found):
            return [found.index(label) for label in wanted]
    return None
