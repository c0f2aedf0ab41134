"""What a run starts from: its own checkpoint first, then what init_from and rtd.generator_init_from name.

The workdirs are real, with parameters that were drawn, not trained. So is the fresh state: making one compiles.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from builders import LEXICON, scrambled, tiny_config, tiny_pair_config
from deberta_jax import config as configs
from deberta_jax.config import Config
from deberta_jax.errors import Refused
from deberta_jax.objectives.models import init_of
from deberta_jax.train.build import Run, build_run
from deberta_jax.train.initial import starting_state
from deberta_jax.train.state import TrainState
from runs import save_run

MODES = ("none", "shared", "gdes")
HEADS = ("mlm", "rtd", "encoder")
TOKENIZER = "f" * 64
BIASED = {"model": {"position_biased_input": True}, "generator": {"decoder": "none"}}  # both have a table of positions


def meta_of(config: Config, **changes: Any) -> dict[str, Any]:
    """What a checkpoint says about itself, as it comes back from disk."""
    meta = {"config": configs.to_dict(config), "tokenizer": TOKENIZER, "manifests": ["m"], "top_id": LEXICON.top_id}
    return json.loads(json.dumps(meta | changes))


@functools.cache
def run_of(config: Config) -> Run:
    """A run whose fresh parameters are drawn."""
    run = build_run(config, LEXICON)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), run.abstract)
    state = zeros.replace(params=scrambled(run.abstract.params, seed=9))
    state = jax.tree.map(lambda x, leaf: jax.device_put(x, leaf.sharding), state, run.abstract)
    return dataclasses.replace(run, fresh=lambda: state)


def started(config: Config, workdir: Path, init_from: object = "", generator: object = "") -> TrainState:
    """The first state of a run in `workdir`; its models come from init_from and rtd.generator_init_from."""
    run, rtd = run_of(config), config.rtd
    if rtd is not None:
        rtd = dataclasses.replace(rtd, generator_init_from=str(generator))
    config = dataclasses.replace(config, init_from=str(init_from), rtd=rtd)
    return starting_state(dataclasses.replace(run, config=config), workdir, meta_of(config))


def tables(model: Any) -> Any:
    return model["encoder"]["embeddings"]


def whole(params: Any) -> Any:
    """The discriminator of a pair with tables of its own."""
    lent, own = tables(params["generator"]), dict(tables(params["discriminator"]))
    for table in ("word", "position"):
        if f"{table}_delta" in own:
            own[table] = lent[table] + own.pop(f"{table}_delta")
    return with_tables(params["discriminator"], {"word": lent["word"]} | own)


def with_tables(model: Any, embeddings: Any) -> Any:
    return model | {"encoder": model["encoder"] | {"embeddings": embeddings}}


def assert_same(tree: Any, other: Any, tolerance: float = 0) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), tree, other)


@functools.cache
def drawn_pair(config: Config) -> Any:
    return scrambled(run_of(config).abstract.params, seed=20 + MODES.index(config.rtd.embedding_sharing))


@functools.cache
def drawn(head: str) -> Any:
    """Parameters of a single model as the generator of a tiny pair is, or its encoder under another head."""
    shapes = jax.eval_shape(init_of(head, tiny_config(num_layers=2).model), jax.random.key(0))
    return scrambled(shapes, seed=HEADS.index(head))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory) -> Path:
    """Workdirs: a pair of each mode; an own run "run"; converted ones, named after their heads, all with the decoder's
    table as in the released files, but "bare"."""
    root, single = tmp_path_factory.mktemp("workdirs"), tiny_config(num_layers=2)
    for mode in MODES:
        config = tiny_pair_config(embedding_sharing=mode)
        save_run(root / mode, config, drawn_pair(config), meta_of(config), step=7)
    save_run(root / "run", single, drawn("mlm"), meta_of(single))
    for head in HEADS:
        save_run(root / head, single, drawn(head), meta_of(single, head=head, head_config=None))
    save_run(
        root / "question_answering",
        single,
        {"x": jnp.zeros(1)},
        meta_of(single, head="question_answering", head_config=None),
    )
    save_run(root / "bare", single, drawn("mlm"), meta_of(single, head="mlm", head_config=None, tokenizer=""))
    save_run(root / "foreign", single, drawn("mlm"), meta_of(single, tokenizer="0" * 64))
    return root


def test_a_workdir_with_a_checkpoint_goes_on_whatever_init_from_says(workdirs, tmp_path):
    config = tiny_pair_config()
    state = jax.tree.map(lambda x: np.asarray(x) + 1, run_of(config).fresh())
    save_run(tmp_path, config, state.params, meta_of(config), step=4, opt_state=state.opt_state)
    found = started(config, tmp_path, workdirs / "nowhere")
    assert int(found.step) == 4
    assert_same((found.params, found.opt_state), (state.params, state.opt_state))


@pytest.mark.parametrize("new", MODES)
@pytest.mark.parametrize("old", MODES)
def test_a_pair_computes_what_it_did_however_it_shares_its_tables_now(old, new, workdirs, tmp_path, caplog):
    config, before = tiny_pair_config(embedding_sharing=new), drawn_pair(tiny_pair_config(embedding_sharing=old))
    if new == "shared" != old:
        with pytest.raises(Refused, match="embedding_sharing is 'shared', but .* have different word tables; 'gdes'"):
            started(config, tmp_path, workdirs / old)
        return
    state = started(config, tmp_path, workdirs / old)
    assert_same(state.params["generator"], before["generator"])
    assert_same(whole(state.params), whole(before), 1e-6)
    assert_like_a_new_run(state, config)
    assert caplog.messages == [f"parameters from {workdirs / old}, step 7"]


def assert_like_a_new_run(state: TrainState, config: Config) -> None:
    """All but the parameters is fresh; all is placed as a run wants it, in arrays that a step can overwrite."""
    run = run_of(config)
    fresh = run.fresh()
    assert_same(state.replace(params=()), fresh.replace(params=()))
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, run.abstract)
    leaves = jax.tree.leaves(state.params)
    assert len({leaf.addressable_data(0).unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_both_tables_are_taken_apart_where_both_are_shared(tmp_path):
    gdes, none = (tiny_pair_config(embedding_sharing=mode, **BIASED) for mode in ("gdes", "none"))
    before = drawn_pair(gdes)
    assert {"word_delta", "position_delta"} < tables(before["discriminator"]).keys()
    save_run(tmp_path / "gdes", gdes, before, meta_of(gdes))
    after = started(none, tmp_path, tmp_path / "gdes").params
    assert_same(after["generator"], before["generator"])
    assert_same(after["discriminator"], whole(before), 1e-6)


def test_a_pair_that_ends_with_equal_tables_may_share_one(tmp_path):
    gdes, shared = (tiny_pair_config(embedding_sharing=mode) for mode in ("gdes", "shared"))
    before = drawn_pair(gdes)
    own = tables(before["discriminator"])
    same = with_tables(before["discriminator"], own | {"word_delta": np.zeros_like(own["word_delta"])})
    save_run(tmp_path / "gdes", gdes, before | {"discriminator": same}, meta_of(gdes))
    state = started(shared, tmp_path, tmp_path / "gdes")
    assert_same(whole(state.params), whole(before | {"discriminator": same}))
    assert_like_a_new_run(state, shared)


@pytest.mark.parametrize("source", ["none", "shared", "gdes", "run", "mlm"])
def test_a_masked_lm_starts_from_another_one_or_from_the_generator_of_a_pair(source, workdirs, tmp_path):
    config = tiny_config(num_layers=2)
    of_pair = source in MODES
    state = started(config, tmp_path, workdirs / source)
    pair = drawn_pair(tiny_pair_config(embedding_sharing=source if of_pair else "none"))
    assert_same(state.params, pair["generator"] if of_pair else drawn("mlm"))
    assert_like_a_new_run(state, config)


@pytest.mark.parametrize(
    ("source", "mode"),
    [("gdes", "gdes"), ("run", "none"), ("mlm", "gdes"), ("rtd", "none"), ("rtd", "shared"), ("encoder", "gdes")],
)
def test_a_discriminator_starts_beside_a_fresh_generator(source, mode, workdirs, tmp_path, caplog):
    """It has the encoder of whatever there is, and the head for replaced tokens where there is one."""
    config = tiny_pair_config(embedding_sharing=mode)
    fresh, state = run_of(config).fresh().params, started(config, tmp_path, workdirs / source, "fresh")
    if source == "gdes":
        model = whole(drawn_pair(tiny_pair_config(embedding_sharing="gdes")))
    else:
        model = drawn("mlm" if source == "run" else source)
    afresh = source in ("run", "mlm", "encoder")
    encoder = model if source == "encoder" else model["encoder"]
    embeddings = {name: table for name, table in encoder["embeddings"].items() if name != "position"}  # the decoder's
    expected = {"encoder": encoder | {"embeddings": embeddings}}
    expected["head"] = fresh["discriminator"]["head"] if afresh else model["head"]
    assert_same(whole(state.params), expected, 1e-6)
    words = tables(fresh["generator"])["word"] if mode == "none" else embeddings["word"]
    assert_same(state.params["generator"], with_word(fresh["generator"], words), 1e-6)
    said = f"init_from: {workdirs / source} has no head for replaced tokens: it starts afresh"
    assert (said in caplog.messages) == afresh
    assert_like_a_new_run(state, config)


def with_word(model: Any, word: Any) -> Any:
    return with_tables(model, tables(model) | {"word": word})


@pytest.mark.parametrize(("source", "mode"), [("gdes", "gdes"), ("run", "none"), ("mlm", "shared")])
def test_a_generator_starts_beside_a_fresh_discriminator(source, mode, workdirs, tmp_path):
    config = tiny_pair_config(embedding_sharing=mode)
    fresh, state = run_of(config).fresh().params, started(config, tmp_path, "fresh", workdirs / source)
    pair = drawn_pair(tiny_pair_config(embedding_sharing="gdes"))
    generator = pair["generator"] if source == "gdes" else drawn("mlm")
    assert_same(state.params["generator"], generator)
    beside = whole(fresh)
    expected = beside if mode == "none" else with_word(beside, tables(generator)["word"])
    assert_same(whole(state.params), expected, 1e-6)
    assert_like_a_new_run(state, config)


@pytest.mark.parametrize("mode", ["none", "gdes"])
def test_the_models_may_come_from_two_places(mode, workdirs, tmp_path):
    """Of two pairs, the one's discriminator and the other's generator."""
    config = tiny_pair_config(embedding_sharing=mode)
    none, gdes = (drawn_pair(tiny_pair_config(embedding_sharing=each)) for each in ("none", "gdes"))
    params = started(config, tmp_path, workdirs / "gdes", workdirs / "none").params
    assert_same(params["generator"], none["generator"])
    assert_same(whole(params), whole(gdes), 1e-6)
    params = started(config, tmp_path, workdirs / "rtd", workdirs / "run").params
    assert_same(params["generator"], drawn("mlm"))
    assert_same(params["discriminator"]["head"], drawn("rtd")["head"])
    assert_same(tables(whole(params))["word"], tables(drawn("rtd"))["word"], 1e-6)


def test_models_that_start_from_one_masked_lm_may_share_its_table(workdirs, tmp_path):
    config = tiny_pair_config(embedding_sharing="shared")
    params = started(config, tmp_path, workdirs / "run", workdirs / "run").params
    assert_same(params["generator"], drawn("mlm"))
    assert "word" not in tables(params["discriminator"])
    with pytest.raises(Refused, match="rtd.embedding_sharing is 'shared'"):
        started(config, tmp_path, workdirs / "rtd", workdirs / "run")


@pytest.mark.parametrize("mode", MODES)
def test_a_pair_that_is_fresh_by_name_is_fresh(mode, tmp_path):
    config = tiny_pair_config(embedding_sharing=mode)
    assert_same(started(config, tmp_path, "fresh", "fresh").params, run_of(config).fresh().params, 1e-6)


DEEPER = {"num_layers": 3}
REFUSED = {  # config: (its changes, init_from, rtd.generator_init_from, what is said)
    "no workdir": ({}, "nowhere", "", "init_from: {0}/nowhere holds no complete checkpoint"),
    "a misspelt one": ({}, "gdse", "", "init_from: {0}/gdse holds no complete checkpoint, did you mean 'gdes'?"),
    "no workdir of a generator": (
        *({}, "rtd", "shard"),
        "rtd.generator_init_from: {0}/shard holds no complete checkpoint, did you mean 'shared'?",
    ),
    "a run without a generator": (
        *({}, "run", ""),
        "init_from: {0}/run holds one model, no generator beside it; "
        "name its workdir in rtd.generator_init_from, or say 'fresh'",
    ),
    "a converted discriminator without a generator": (
        {},
        "rtd",
        "",
        "init_from: {0}/rtd holds one model, no generator",
    ),
    "a tokenizer of its own": (
        {},
        "foreign",
        "fresh",
        "init_from: {0}/foreign was trained with another tokenizer than",
    ),
    "a generator with a tokenizer of its own": (
        *({}, "fresh", "foreign"),
        "rtd.generator_init_from: {0}/foreign was trained with another tokenizer than the data",
    ),
    "no tokenizer": (
        *({}, "bare", "fresh"),
        "init_from: {0}/bare was converted without a tokenizer; convert it again with the tokenizer's files "
        "(spm.model, ...) beside its config.json",
    ),
    "a generator that is none": (
        *({}, "gdes", "encoder"),
        "rtd.generator_init_from: {0}/encoder has the head 'encoder', masked tokens need 'mlm'",
    ),
    "a discriminator that is none": (
        *({}, "question_answering", "fresh"),
        "init_from: {0}/question_answering has the head 'question_answering', a discriminator needs 'rtd', 'mlm' or "
        "'encoder'",
    ),
    "another discriminator": (
        *({"model": DEEPER, "generator": {"num_layers": 2}}, "gdes", ""),
        "checkpoint {0}/gdes/checkpoints/7 has model.num_layers 2, the config says 3",
    ),
    "another generator": (
        *({"generator": DEEPER}, "gdes", ""),
        "checkpoint {0}/gdes/checkpoints/7 has rtd.generator.num_layers 2, the config says 3",
    ),
    "another encoder": (
        *({"model": {"intermediate_size": 64}}, "encoder", "fresh"),
        "checkpoint {0}/encoder/checkpoints/0 has model.intermediate_size 48, the config says 64",
    ),
    "another masked LM": (
        *({"generator": {"decoder": "none"}}, "fresh", "run"),
        "checkpoint {0}/run/checkpoints/0 has rtd.generator.decoder 'emd', the config says 'none'",
    ),
    "an input without positions": (
        *(BIASED, "rtd", "fresh"),
        "checkpoint {0}/rtd/checkpoints/0 has model.position_biased_input False, the config says True",
    ),
}


@pytest.mark.parametrize(("changes", "init_from", "generator", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_a_pair_is_refused_in_one_line(changes, init_from, generator, message, workdirs, tmp_path):
    named = [name if name in ("", "fresh") else workdirs / name for name in (init_from, generator)]
    with pytest.raises(Refused) as refused:
        started(tiny_pair_config(**changes), tmp_path, *named)
    assert str(refused.value).startswith(message.format(workdirs))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "source", "message"),
    [
        ({}, "encoder", "init_from: {0}/encoder has the head 'encoder', masked tokens need 'mlm'"),
        ({}, "rtd", "init_from: {0}/rtd has the head 'rtd', masked tokens need 'mlm'"),
        ({}, "bare", "init_from: {0}/bare was converted without a tokenizer"),
        (DEEPER, "gdes", "checkpoint {0}/gdes/checkpoints/7 has model.num_layers 2, the config says 3"),
    ],
)
def test_what_does_not_fit_a_masked_lm_is_refused_in_one_line(changes, source, message, workdirs, tmp_path):
    with pytest.raises(Refused) as refused:
        started(tiny_config(**({"num_layers": 2} | changes)), tmp_path, workdirs / source)
    assert str(refused.value).startswith(message.format(workdirs))
    assert "\n" not in str(refused.value)


def test_a_refusal_comes_before_anything_is_made(workdirs, tmp_path):
    def fresh() -> TrainState:
        raise AssertionError("a large model takes minutes")

    config = tiny_pair_config()
    rtd = dataclasses.replace(config.rtd, generator_init_from=str(workdirs / "foreign"))
    run = dataclasses.replace(
        run_of(config), config=dataclasses.replace(config, init_from="fresh", rtd=rtd), fresh=fresh
    )
    with pytest.raises(Refused, match="another tokenizer"):
        starting_state(run, tmp_path, meta_of(config))
