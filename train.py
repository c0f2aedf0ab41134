"""Pretrains a DeBERTa, or fine-tunes one for a task: the config says which.

    python train.py --config=configs/NAME.py[:ARG] [--config.key=value ...] --workdir=DIR

Run the same command again to go on where it stopped. On several hosts run it on each of them: docs/pods.md. Exit
codes: docs/architecture.md.
"""

import sys

from deberta_jax import config as configs
from deberta_jax import errors, flags
from deberta_jax.dist import joining, processes


def parse(argv: list[str]):
    """(loaded config, other flags)."""
    loaded = flags.load_config(argv)
    arguments = flags.Arguments(prog="train.py", description="Trains a DeBERTa.")
    arguments.add_argument("--workdir", type=flags.not_empty, help="where checkpoints, metrics and pictures go")
    arguments.add_argument("--print_config", action="store_true", help="print the resolved config and stop")
    processes.add_flags(arguments)
    arguments.add_argument("--replay", type=flags.whole_number, help="run this one step again, without an update")
    return loaded, arguments.parse_args(loaded.rest)


def main(argv: list[str]) -> None:
    loaded, arguments = parse(argv)
    config = configs.build(loaded.config)
    if arguments.print_config:
        print(flags.describe(loaded.config, loaded.preset))
        return
    if arguments.workdir is None:
        raise errors.Refused("--workdir=DIR is missing: where checkpoints and metrics go")
    if arguments.replay is not None:
        errors.refuse_remote("--replay of --workdir", arguments.workdir)
    with joining.joined(arguments):
        from deberta_jax.train import compiled, finetune, pretrain  # imports jax: only now that the flags are right

        compiled.keep_compiled()
        of_task = isinstance(config, configs.FinetuneConfig)
        if arguments.replay is not None:
            (finetune if of_task else pretrain).replay(config, arguments.workdir, arguments.replay)
        elif of_task:
            finetune.finetune(config, arguments.workdir)
        else:
            pretrain.pretrain(config, arguments.workdir)


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
