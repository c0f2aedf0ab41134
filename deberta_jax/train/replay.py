"""A step computed again, to see what was not finite."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from deberta_jax.dist import hosts
from deberta_jax.errors import Failed
from deberta_jax.train.build import Run
from deberta_jax.train.optimizer import named_leaves


def replay_step(run: Run, params: Any, saved: int, batches: Iterator[dict[str, np.ndarray]], step: int) -> None:
    """Computes step number `step` (from 1), whose batch is the next of `batches`, with the parameters of step `saved`.

    Prints the loss and the gradient's norm. Raises Failed, naming what, when something is not finite.
    """
    with contextlib.closing(batches):
        batch = next(batches)
    gradients, loss = run.gradients(params, run.place(batch), step - 1)
    norm = optax.global_norm(gradients)  # on every host, although one prints it
    if hosts.is_lead():
        print(f"step {step} with the parameters of step {saved}: loss {float(loss)}")
        print(f"gradient norm {float(norm)}, rows {batch['examples'].tolist()}")
    bad = [name for name, leaf in named_leaves(gradients) if not jnp.isfinite(leaf).all()]
    if bad or not np.isfinite(float(loss)):
        raise Failed(f"step {step} is not finite; gradients that are not: {', '.join(bad) or 'none'}")
