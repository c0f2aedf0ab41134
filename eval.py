"""Evaluates a trained run.

python eval.py --workdir=DIR                                   its held-out loss, perplexity, accuracy
python eval.py --workdir=DIR --data=PREPARED                   the same on any prepared set
python eval.py --workdir=DIR --fill_mask="Paris is the [MASK] of France."

Of a run that was fine-tuned for a task, or, with --config=configs/finetune.py:TASK,SIZE, of converted weights that have
its head:

python eval.py --workdir=DIR                                   the validation splits with the best checkpoint
python eval.py --workdir=DIR --split=test                      another split, or a file; may be repeated
python eval.py --workdir=DIR --task=ax --data=glue/AX          another task with the same labels, from another folder
"""

import argparse
import sys
from collections.abc import Sequence

from deberta_jax import config as configs
from deberta_jax import errors, flags
from deberta_jax.dist import joining, processes

SETTLED = {  # flag -> keys of the config whose place it takes: --data means all rows of that set
    "data": ("data.paths", "data.weights", "eval.paths", "eval.max_rows"),
    "task": ("data.task", "data.labels", "data.columns", "data.validation"),
    "split": ("data.validation",),
}


def main(argv: list[str]) -> None:
    split = flags.split_config_flags(argv)
    arguments = flags.Arguments(prog="eval.py", description="Evaluates a trained run.")
    text = {"type": flags.not_empty}
    arguments.add_argument("--workdir", **text, required=True, help="of the run")
    arguments.add_argument("--data", **text, help="a prepared set, instead of the run's held-out rows; a task's folder")
    arguments.add_argument("--task", **text, help="another task with the same labels")
    arguments.add_argument("--split", **text, action="append", default=[], help="of the task, or a file; repeatable")
    arguments.add_argument("--output", **text, help="where scores.json and predictions go; WORKDIR/eval without it")
    arguments.add_argument("--fill_mask", action="append", help="a sentence with [MASK] in it; may be repeated")
    processes.add_flags(arguments)
    parsed = arguments.parse_args(split.rest)
    for name in ("workdir", "data", "output"):
        errors.refuse_remote(f"--{name}", vars(parsed)[name] or "")
    source = split.source or f"{parsed.workdir}/config.json"
    config = configs.build(flags.read_config(source, split.assignments).config)
    of_task = isinstance(config, configs.FinetuneConfig)
    check(parsed, of_task=of_task)
    check_overrides(parsed, [key for key, _ in split.assignments])
    with joining.joined(parsed):
        from deberta_jax.train import compiled, finetune, pretrain  # imports jax: only now that the flags are right

        compiled.keep_compiled()
        if of_task:
            names = {"task_name": parsed.task, "directory": parsed.data, "splits": parsed.split}
            finetune.evaluate_task(config, parsed.workdir, **names, output=parsed.output)
        elif parsed.fill_mask:
            pretrain.fill_masks(config, parsed.workdir, parsed.fill_mask)
        else:
            pretrain.evaluate_workdir(config, parsed.workdir, parsed.data, parsed.output)


def check(parsed: argparse.Namespace, *, of_task: bool) -> None:
    """Raises Refused for flags that say nothing to this kind of run."""
    if of_task and parsed.fill_mask:
        raise errors.Refused(f"--fill_mask: {parsed.workdir} was fine-tuned, it predicts no masked tokens")
    if not of_task and (parsed.task or parsed.split):
        raise errors.Refused("--task and --split are of runs that were fine-tuned; prepared rows are named in --data")
    if parsed.fill_mask and (parsed.data or parsed.output):
        raise errors.Refused("--fill_mask prints and reads no rows: leave --data and --output out")


def check_overrides(parsed: argparse.Namespace, keys: Sequence[str]) -> None:
    """Raises Refused for an overridden key of the config that a flag takes the place of."""
    for flag, settled in SETTLED.items():
        for key in keys:
            if vars(parsed)[flag] and any(key == name or key.startswith(name + ".") for name in settled):
                raise errors.Refused(f"--config.{key} says nothing beside --{flag}: leave one of them out")


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
