import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.objectives.scored import Scored, plain_loss

BATCH = {"inputs": np.float32([[1, 2], [3, 4], [5, 6]]), "weights": np.float32([1, 0, 2])}
PARAMS = np.float32([0.5, -2])


def line(seen):
    """Scores each row by a scalar product and keeps what it was called with."""

    def apply(params, batch, key, variables):
        seen.append((key, variables))
        return batch["inputs"] @ params

    def sums(outputs, batch):
        return {
            "loss": (jnp.square(outputs) @ batch["weights"], batch["weights"].sum()),
            "largest": (outputs.max(), jnp.ones(())),
        }

    return Scored(apply, sums, compared=lambda *_: (), regression=True, perturbed=lambda _: ())


def test_the_plain_loss_is_the_sum_over_the_weight_that_is_named():
    seen, key = [], jax.random.key(3)
    loss = plain_loss(line(seen), "task")
    total, (sums, found) = loss(PARAMS, BATCH, key, {"other": 3.0, "task": 8.0})
    squares = (BATCH["inputs"] @ PARAMS) ** 2
    assert float(sums["loss"][0]) == pytest.approx(squares @ BATCH["weights"], rel=1e-6)
    assert float(total) == pytest.approx(squares @ BATCH["weights"] / 8, rel=1e-6)
    assert sums["loss"][1] == 3 and sums["largest"][0] == -3.5 and found == {}
    assert len(seen) == 1 and seen[0] == (key, {})


def test_the_losses_of_parts_of_a_batch_add():
    loss = plain_loss(line([]), "task")
    weights = {"task": BATCH["weights"].sum()}
    parts = [{name: values[rows] for name, values in BATCH.items()} for rows in (slice(1), slice(1, 3))]
    whole, *halves = (loss(PARAMS, each, jax.random.key(0), weights)[0] for each in (BATCH, *parts))
    assert float(whole) == pytest.approx(float(sum(halves)), rel=1e-6)
