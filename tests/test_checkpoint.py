"""Checkpoints: what is damaged is never read, what is kept is what was asked for."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from deberta_jax.config import CheckpointConfig
from deberta_jax.dist.mesh import make_mesh
from deberta_jax.errors import Failed, Refused
from deberta_jax.train import checkpoint
from deberta_jax.train.checkpoint import Checkpoints
from deberta_jax.train.state import TrainState
from limits import files_no_larger_than

META = {"config": {"seed": 0, "model": {"pos_att_type": ["c2p", "p2c"]}}, "tokenizer": "abc"}
EVERY_3 = CheckpointConfig(every_steps=3, every_minutes=0.0, keep_last=3, keep_every=0)
KERNEL = PartitionSpec("fsdp", "tensor")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def state_at(step: int, mesh=(8, 1, 1), rows: int = 16, dtype=jnp.float32) -> TrainState:
    """A state like a model's, small, with values of its own at each step; split over (data, fsdp, tensor) of `mesh`."""
    mesh = make_mesh(tuple(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
    kernel = jax.random.normal(jax.random.key(step), (rows, 4), dtype)
    params = {
        "encoder": {"kernel": jax.device_put(kernel, NamedSharding(mesh, KERNEL)), "bias": jnp.arange(4.0) + step}
    }
    counts = {"step": jnp.int32(step), "skipped": jnp.int32(0)}
    state = TrainState(**counts, params=params, opt_state=optax.scale_by_adam().init(params))
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: x if x.ndim == 2 else jax.device_put(x, whole), state)


def abstract(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def save(directory: Path, *steps: int, config: CheckpointConfig = EVERY_3) -> None:
    with Checkpoints(directory, config, Clock()) as saves:
        for step in steps:
            saves.save(step, state_at(step), META)
        saves.wait()


def assert_same(tree, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    """Steps 3 and 6, both good."""
    directory = tmp_path_factory.mktemp("two_steps") / "checkpoints"
    save(directory, 3, 6)
    return directory


@pytest.fixture
def checkpoints(two_steps: Path, tmp_path: Path) -> Path:
    """A copy of `two_steps` to be damaged."""
    return shutil.copytree(two_steps, tmp_path / "checkpoints")


def largest_file(directory: Path) -> Path:
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def array_file(directory: Path) -> Path:
    """The largest file that is not the digest: array data."""
    return largest_file(directory / "state")


def flip_a_byte(step: Path) -> None:
    data = bytearray(array_file(step).read_bytes())
    data[len(data) // 2] ^= 1
    array_file(step).write_bytes(data)


def truncate_a_file(step: Path) -> None:
    file = array_file(step)
    file.write_bytes(file.read_bytes()[:-1])


def remove_a_file(step: Path) -> None:
    array_file(step).unlink()


def add_a_file(step: Path) -> None:
    (step / "state" / "stray").write_text("")


def remove_the_digest(step: Path) -> None:
    (step / checkpoint.DIGEST).unlink()


def damage_the_digest(step: Path) -> None:
    (step / checkpoint.DIGEST).write_text('{"half": "a dig')


def empty_the_directory(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


DAMAGES = [
    flip_a_byte,
    truncate_a_file,
    remove_a_file,
    add_a_file,
    remove_the_digest,
    damage_the_digest,
    empty_the_directory,
]


def test_a_saved_state_comes_back_bit_for_bit_with_its_meta(two_steps):
    assert checkpoint.newest_good(two_steps) == 6
    restored = checkpoint.restore(two_steps, 6, abstract(state_at(0)))
    assert_same(restored, state_at(6))
    assert checkpoint.read_meta(two_steps, 6) == META
    assert_same(checkpoint.restore(two_steps, 3, abstract(state_at(0))), state_at(3))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_step_is_skipped_for_the_one_before(damage: Callable, checkpoints, caplog):
    damage(checkpoints / "6")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_good(checkpoints) == 3
    assert [f"checkpoint {checkpoints / '6'} skipped" in record.message for record in caplog.records] == [True]
    assert checkpoint.fault_of(checkpoints / "6")
    checkpoint.set_aside(checkpoints, after=3)
    assert checkpoint.steps_in(checkpoints) == [3]
    assert (checkpoints.parent / "rejected" / "6-0").is_dir()  # moved, not deleted
    save(checkpoints, 6)  # and the run can write that step anew
    assert checkpoint.newest_good(checkpoints) == 6


def test_any_single_flipped_byte_is_noticed(checkpoints):
    for file in sorted(p for p in (checkpoints / "6").rglob("*") if p.is_file()):
        good = file.read_bytes()
        for place in (0, len(good) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[place] ^= 0x10
            file.write_bytes(bad)
            assert checkpoint.fault_of(checkpoints / "6"), file
        file.write_bytes(good)
    assert not checkpoint.fault_of(checkpoints / "6")


def test_where_all_steps_are_damaged_a_fresh_start_is_refused(checkpoints):
    flip_a_byte(checkpoints / "3")
    truncate_a_file(checkpoints / "6")
    with pytest.raises(Refused, match="every checkpoint in .* is damaged"):
        checkpoint.newest_good(checkpoints)
    assert checkpoint.steps_in(checkpoints) == [6, 3]  # nothing was moved


def test_steps_that_were_never_completed_leave_a_fresh_start(tmp_path):
    assert checkpoint.newest_good(tmp_path / "nowhere") is None
    (tmp_path / "7").mkdir()
    assert checkpoint.newest_good(tmp_path) is None


def test_setting_the_same_step_aside_twice_keeps_both(tmp_path):
    directory = tmp_path / "checkpoints"
    for _ in range(2):
        (directory / "4").mkdir(parents=True)
        checkpoint.set_aside(directory, after=None)
    assert sorted(p.name for p in (tmp_path / "rejected").iterdir()) == ["4-0", "4-1"]


def test_a_state_is_restored_onto_another_mesh(two_steps):
    wanted = abstract(state_at(0, mesh=(2, 2, 2)))
    restored = checkpoint.restore(two_steps, 6, wanted)
    assert_same(restored, state_at(6))
    kernel = restored.params["encoder"]["kernel"]
    assert kernel.sharding == wanted.params["encoder"]["kernel"].sharding
    assert kernel.addressable_shards[0].data.shape == (8, 2)


def test_parameters_alone_are_restored_onto_any_mesh(two_steps):
    wanted = abstract(state_at(0, mesh=(2, 4, 1))).params
    restored = checkpoint.restore_params(two_steps, 6, wanted)
    assert_same(restored, state_at(6).params)
    assert restored["encoder"]["kernel"].addressable_shards[0].data.shape == (4, 4)


def lacking_a_bias(state: TrainState) -> TrainState:
    return state.replace(params={"encoder": {"kernel": state.params["encoder"]["kernel"]}})


def with_a_new_layer(state: TrainState) -> TrainState:
    return state.replace(params=state.params | {"extra": state.params["encoder"]["bias"]})


OTHERS = {
    "holds params/encoder/bias, which": lacking_a_bias(state_at(0)),
    "lacks the parameter params/extra": with_a_new_layer(state_at(0)),
    r"encoder/kernel is \(\(16, 4\), 'float32'\), this model's is \(\(24, 4\)": state_at(0, rows=24),
    r"encoder/kernel is .*'float32'\), this model's is .*'bfloat16'": state_at(0, dtype=jnp.bfloat16),
}


@pytest.mark.parametrize(("message", "other"), OTHERS.items(), ids=["leaf less", "leaf more", "shape", "dtype"])
def test_another_model_is_refused_by_the_name_of_the_leaf(message: str, other: TrainState, two_steps):
    with pytest.raises(Refused, match=message):
        checkpoint.restore(two_steps, 6, abstract(other))
    with pytest.raises(Refused, match=message):
        checkpoint.restore_params(two_steps, 6, abstract(other).params)


def test_the_last_steps_and_the_round_ones_are_kept(tmp_path):
    keep = CheckpointConfig(every_steps=1, every_minutes=0.0, keep_last=2, keep_every=4)
    save(tmp_path / "checkpoints", *range(1, 8), config=keep)
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [7, 6, 4]
    assert not any(checkpoint.fault_of(tmp_path / "checkpoints" / name) for name in ("4", "6", "7"))


def test_a_save_is_due_by_steps_and_by_minutes(tmp_path):
    clock = Clock()
    both = CheckpointConfig(every_steps=100, every_minutes=2.0, keep_last=2, keep_every=0)
    with Checkpoints(tmp_path / "checkpoints", both, clock) as saves:
        assert [step for step in range(1, 301) if saves.due(step)] == [100, 200, 300]
        clock.now += 119
        assert not saves.late()
        clock.now += 1
        assert saves.late()
        saves.save(1, state_at(1), META)
        assert not saves.late()  # the minutes count from the last save
    never = CheckpointConfig(every_steps=0, every_minutes=0.0, keep_last=2, keep_every=0)
    with Checkpoints(tmp_path / "never", never, clock) as saves:
        clock.now += 1e9
        assert not saves.late() and not any(saves.due(step) for step in range(1, 301))


def test_a_step_that_is_there_already_is_not_written_again(checkpoints):
    before = (checkpoints / "6" / checkpoint.DIGEST).stat().st_mtime_ns
    save(checkpoints, 6, 6)  # as a run does that is stopped before its first step
    assert (checkpoints / "6" / checkpoint.DIGEST).stat().st_mtime_ns == before
    assert checkpoint.newest_good(checkpoints) == 6


def test_a_save_that_fails_is_raised_once_by_its_name_and_the_one_before_is_kept(tmp_path):
    directory = tmp_path / "checkpoints"
    saves = Checkpoints(directory, EVERY_3, Clock())
    saves.save(3, state_at(3), META)
    saves.wait()
    with files_no_larger_than(1 << 18):
        saves.save(6, state_at(6, rows=1 << 16), META)
        with pytest.raises(Failed, match="checkpoint .*/checkpoints/6 was not saved: File too large; run the same"):
            saves.wait()
    with pytest.raises(Failed, match="checkpoint .*/checkpoints/6 was not saved: File too large"):
        saves.__exit__()  # which Orbax fails too
    assert checkpoint.newest_good(directory) == 3
    assert {path.name for path in directory.iterdir()} == {"3", "6" + ocp.utils.TMP_DIR_SUFFIX}
    deadline = time.monotonic() + 60
    while {path.name for path in directory.iterdir()} != {"3"}:
        checkpoint.set_aside(directory, after=3)  # as the next start does; threads of the failed save still write
        assert time.monotonic() < deadline


def test_a_step_that_was_not_written_is_not_vouched_for(tmp_path):
    with pytest.raises(Failed, match="was not written"):
        checkpoint.seal(tmp_path / "checkpoints" / "9")


def test_a_state_may_be_given_away_once_it_is_saved(tmp_path):
    donate = jax.jit(lambda state: jax.tree.map(lambda x: x * 0, state), donate_argnums=0)
    with Checkpoints(tmp_path / "checkpoints", EVERY_3, Clock()) as saves:
        state = state_at(5)
        saves.save(5, state, META)
        donate(state)  # what the next training step does with its buffers
        saves.wait()
    assert_same(checkpoint.restore(tmp_path / "checkpoints", 5, abstract(state_at(0))), state_at(5))
