"""Says whether a pretraining run fits a TPU slice, and how fast it could be, before anybody pays for one.

python -m deberta_jax.tools.plan --config=configs/mlm.py:v3_large --topology=v5e:16x16 --config.batch_size=4096

The train step is compiled from shapes alone, on any machine with the TPU compiler (requirements-libtpu.txt), until
every array has its place in memory; --whole goes on to the machine code, minutes more. Where the compiler is missing,
only what arithmetic gives is printed. Times are modelled, not measured. Exit code 3: it does not fit.
"""

import argparse
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax import config as configs
from deberta_jax import errors, flags

LENGTH = 512
PACKAGES = ("jax", "jaxlib", "libtpu", "flax")


def main(argv: list[str]) -> None:
    """Prints the plan that the flags in `argv` ask for. Raises DoesNotFit after printing it."""
    loaded = flags.load_config(argv)
    args = _parser().parse_args(loaded.rest)
    config = configs.build(loaded.config)
    if not isinstance(config, configs.Config):
        raise errors.Refused(f"objective {config.objective!r}: plans are made for pretraining, mlm and rtd")
    if args.json and not args.json.parent.is_dir():  # now, not after minutes of compiling
        raise errors.Refused(f"--json={args.json}: the folder {args.json.parent} does not exist")
    source = flags.split_config_flags(argv).source
    from deberta_jax.plan import report  # imports jax: only now that the flags are right

    plan = make_plan(with_data(config, source, args.length), args)
    plan |= {"command": ["python", "-m", "deberta_jax.tools.plan", *argv], "config": source, "versions": _versions()}
    print(report.text(plan))
    if args.json:
        args.json.write_text(json.dumps(plan, indent=1) + "\n")
    _raise_unless_fits(plan)


def _parser() -> flags.Arguments:
    parser = flags.Arguments(prog="python -m deberta_jax.tools.plan", description=__doc__)
    parser.add_argument("--topology", required=True, help="CHIP:SHAPE, as v5e:16x16, v5p:4x4x4, v6e:16x16, v4:4x4x4")
    parser.add_argument("--slices", default=1, type=flags.count, help="so many such slices, joined by a network")
    parser.add_argument("--length", type=flags.count, help=f"tokens in a row: that of data.paths, else {LENGTH}")
    parser.add_argument("--whole", action="store_true", help="compile to the end, and count the program's code")
    parser.add_argument("--json", type=Path, help="write the plan there too")
    return parser


class Resolved(NamedTuple):
    """A config with what the data decide, and who decided it."""

    config: configs.Config
    length: int
    vocabulary_from: str


def with_data(config: configs.Config, source: str, length: int | None) -> Resolved:
    """Vocabulary and length of data.paths where given; else the config's own or the published table, and --length."""
    from deberta_jax.data.prepared import read_manifest
    from deberta_jax.train.build import resolve, with_vocabulary

    if config.data.paths:
        manifests = [read_manifest(path) for path in config.data.paths]
        if length not in (None, manifests[0].length):
            raise errors.Refused(f"--length={length}, but the rows of {manifests[0].path} have {manifests[0].length}")
        length = manifests[0].length
        return Resolved(resolve(config, manifests, length), length, f"of {manifests[0].path}")
    length = length or LENGTH
    if config.model.vocab_size:
        return Resolved(config, length, "model.vocab_size")
    return Resolved(with_vocabulary(config, _published(source)), length, "of the published table, as no data are named")


def _published(source: str) -> int:
    """Rows of the published word table of the size that --config names."""
    from configs import sizes  # beside the config file, which has been read

    size = source.rpartition(".py:")[2].partition(",")[0]
    if size not in sizes.SIZES:
        raise errors.Refused(
            "model.vocab_size is 0, as the data say: give it, or name the data with --config.data.paths"
        )
    return sizes.vocabulary(size)


def make_plan(resolved: Resolved, args: argparse.Namespace) -> dict[str, Any]:
    """All values of the plan; "configured" is None on machines without the TPU compiler."""
    import jax

    from deberta_jax.objectives import Lexicon
    from deberta_jax.plan import compiler, planning
    from deberta_jax.plan.chips import topology_of
    from deberta_jax.train.build import build_run

    topology = topology_of(args.topology, args.slices)
    config, length, _ = resolved
    # Ids of special tokens are made up: nothing else that the data decide is in a step.
    known = Lexicon(top_id=5, size=config.model.vocab_size, special_ids=(0, 1, 2, 3), mask_id=4)
    jax.config.update("jax_platforms", "cpu")
    if compiler.is_installed():
        devices = compiler.devices(args.topology, args.slices)
    else:
        jax.config.update("jax_num_cpu_devices", topology.chips)  # in their place: shapes are all that is asked
        devices, config = jax.devices(), planning.in_one_slice(config, topology)
    job = compiler.Job(config, known, args.topology, args.slices, length)
    planner = planning.Planner(job, topology, build_run(config, known, devices))
    plan = planner.facts() | {"vocabulary_from": resolved.vocabulary_from}
    if not compiler.is_installed():
        return plan | {"configured": None}
    plan["topology"]["room"] = compiler.room(args.topology)
    configured = planner.at(planner.rows, args.whole)
    searched = planning.search(planner, configured, plan["topology"]["room"], _say)
    return plan | {
        "configured": configured._asdict(),
        "search": searched.found._asdict() | {"trials": [trial._asdict() for trial in searched.found.trials]},
        "largest": searched.largest and searched.largest._asdict(),
        "activation_bytes_per_row": searched.bytes_per_row,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _versions() -> dict[str, str]:
    installed = {distribution.name for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in PACKAGES if name in installed}


def _raise_unless_fits(plan: dict[str, Any]) -> None:
    point, largest = plan["configured"], plan["largest"] if plan["configured"] else None
    if point is None or point["fits"]:
        return
    room, most = plan["topology"]["room"], f"{largest['rows']} rows at once would" if largest else "not even one would"
    raise errors.DoesNotFit(
        f"{point['rows']} rows at once on a chip need {(point['bytes'] - room) / 2**30:.2f} GiB more than the "
        f"{room / 2**30:.2f} GiB there are; {most} fit; {_advice(plan)}"
    )


def _advice(plan: dict[str, Any]) -> str:
    """What to change, the cheapest first."""
    advice = {"none": ["--config.model.remat=dots (or full)"], "dots": ["--config.model.remat=full"], "full": []}
    found = advice[plan["remat"]] + ["more --config.micro_batches"]
    if all(size == 1 for axis, size in plan["mesh"].items() if axis == "fsdp"):
        found.append("rules that split the parameters (:SIZE,fsdp with a mesh whose fsdp is larger than 1)")
    return "try " + ", ".join(found)


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
