"""Every benchmark, one after the other, each in a process of its own: what to run when an accelerator is at hand.

python -m benchmarks.suite --output=benchmarks/results [--only=train_step_cpu,input] [--dry_run]

Writes OUTPUT/NAME.json for each; on an accelerator the names end with what it is, gpu or tpu. All are run, whatever
becomes of the others; where one failed the last line names it and the exit status is 1. On an accelerator steps are
those of whole models in bfloat16, with attention dropout and without. Peers need requirements-torch.txt, the TPU
compiler's schedule requirements-libtpu.txt, GPUs' compiler requirements-cuda.txt.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deberta_jax import errors
from deberta_jax.errors import Failed, Refused, nearest
from deberta_jax.flags import Arguments

STEP = ("train_step", "--compare")
ON_CPU = {
    "train_step_cpu": (*STEP, "--layers=4"),
    "attention_cpu": ("attention", "--tokens=2048", "--rounds=3", "--memory=4", "--compare"),
    "attention_cpu_bfloat16": ("attention", "--tokens=512", "--rounds=3", "--lengths=128,512", "--dtype=bfloat16"),
    "compile_cpu": ("compile",),
    "input": ("input",),
    "blockwise_memory": ("blockwise_memory",),
    "tpu_schedule": ("tpu_schedule",),
    "gpu_traffic": ("gpu_traffic",),
}
ON_ACCELERATOR = {
    "train_step_base": (*STEP, "--dtype=bfloat16", "--shapes=64x128,32x512,2x4096", "--torch_compile"),
    "train_step_base_no_dropout": (*STEP, "--dtype=bfloat16", "--shapes=64x128,32x512", "--attention_dropout=0"),
    "train_step_large": (*STEP, "--size=v3_large", "--dtype=bfloat16", "--shapes=16x512"),
    "train_step_large_no_dropout": (
        *(*STEP, "--size=v3_large", "--dtype=bfloat16", "--shapes=16x512"),
        "--attention_dropout=0",
    ),
    "attention": ("attention", "--dtype=bfloat16", "--tokens=16384", "--compare"),
    "attention_no_dropout": ("attention", "--dtype=bfloat16", "--tokens=16384", "--dropout=0"),
    "compile": ("compile",),
}


def main(argv: list[str]) -> None:
    parser = Arguments(prog="python -m benchmarks.suite", description=__doc__)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--only", default=(), type=lambda names: tuple(names.split(",")), help="names, by commas")
    parser.add_argument("--dry_run", action="store_true", help="print the commands")
    args = parser.parse_args(argv)
    chosen = commands(args.output, args.only, platform())
    failed = [name for name, command in chosen.items() if not done(command, args.dry_run)]
    if failed:
        raise Failed(f"{', '.join(failed)}: see above")


def platform() -> str:
    """cpu, gpu or tpu, as another process finds it: this one would keep a TPU from the benchmarks."""
    code = "import jax; print(jax.default_backend())"
    return subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def commands(output: Path, only: Sequence[str], platform: str) -> dict[str, list[str]]:
    """Each benchmark's command by its name. Raises Refused for a name that this platform has not."""
    on_accelerator = {f"{name}_{platform}": what for name, what in ON_ACCELERATOR.items()}
    suite = ON_CPU if platform == "cpu" else on_accelerator
    for name in only:
        if name not in suite:
            raise Refused(f"--only: no {name!r} on this {platform}{nearest(name, suite)}")
    return {
        name: [sys.executable, "-m", f"benchmarks.{suite[name][0]}", *suite[name][1:], f"--json={output}/{name}.json"]
        for name in only or suite
    }


def done(command: Sequence[str], dry_run: bool) -> bool:
    """Whether the command ended well."""
    print(shlex.join(command), flush=True)
    return dry_run or not subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
