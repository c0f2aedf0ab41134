"""What the processes of one run have to agree on. With one process every function here is trivial."""

import jax


def is_lead() -> bool:
    """True on the process that writes what only one may write."""
    return jax.process_index() == 0
