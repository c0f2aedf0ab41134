"""Evaluates a trained run.

python eval.py --workdir=DIR                                   its held-out loss, perplexity, accuracy
python eval.py --workdir=DIR --data=PREPARED                   the same on any prepared set
python eval.py --workdir=DIR --fill_mask="Paris is the [MASK] of France."
"""

import logging
import sys

from deberta_jax import config as configs
from deberta_jax import errors, flags


def main(argv: list[str]) -> None:
    split = flags.split_config_flags(argv)
    arguments = flags.Arguments(prog="eval.py", description="Evaluates a trained run.")
    arguments.add_argument("--workdir", required=True, help="of the run")
    arguments.add_argument("--data", help="a prepared directory, instead of the run's held-out rows")
    arguments.add_argument("--output", help="where scores.json goes; WORKDIR/eval without it")
    arguments.add_argument("--fill_mask", action="append", help="a sentence with [MASK] in it; may be repeated")
    parsed = arguments.parse_args(split.rest)
    source = split.source or f"{parsed.workdir}/config.json"
    config = configs.build(flags.read_config(source, split.assignments).config)
    logging.basicConfig(format="%(message)s")
    from deberta_jax.train import pretrain  # imports jax: only now that the flags are known to be right

    if parsed.fill_mask and (parsed.data or parsed.output):
        raise errors.Refused("--fill_mask prints and reads no rows: leave --data and --output out")
    if parsed.fill_mask:
        pretrain.fill_masks(config, parsed.workdir, parsed.fill_mask)
    else:
        pretrain.evaluate_workdir(config, parsed.workdir, parsed.data, parsed.output)


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
