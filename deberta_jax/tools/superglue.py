"""Fine-tunes a model for every task of SuperGLUE with several seeds, and writes a table of the scores with pictures.

    python -m deberta_jax.tools.superglue --init=WORKDIR --data=SUPERGLUE --workdir=DIR [--size=v3_base]
        [--tasks=cb,copa] [--seeds=5] [--option=sift ...] [--config.KEY=VALUE ...]

SUPERGLUE holds the folders of the release (BoolQ, CB, ...). All else is as tools/glue.py says.
"""

import sys

from deberta_jax import errors
from deberta_jax.tasks import registry
from deberta_jax.tools.glue import Benchmark, run_benchmark

SUPERGLUE = Benchmark("SuperGLUE", "deberta_jax.tools.superglue", registry.SUPERGLUE, from_mnli=())


def main(argv: list[str]) -> None:
    """Runs SuperGLUE as the flags in `argv` say."""
    run_benchmark(SUPERGLUE, argv, __doc__)


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
