"""Shows what a run's checkpoints hold, or how a config's parameters are split over devices, which need not be there.

python -m deberta_jax.tools.inspect WORKDIR
python -m deberta_jax.tools.inspect --config=configs/mlm.py:v3_large,fsdp --devices=256 \
    --config.mesh="(('data',-1),('fsdp',16),('tensor',1))"

The first reads every file of the checkpoints, to say which of them are good, and lists the parameters of the newest
good one and how they lay when they were saved. In the second --devices says what -1 in the mesh stands for (without it:
1), and --slices of how many TPU slices they are; --config=WORKDIR/config.json is a run's own config. No accelerator is
used.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from deberta_jax import config as configs
from deberta_jax import errors, flags
from deberta_jax.errors import Refused, nearest


def main(argv: list[str]) -> None:
    """Prints what `argv` asks for."""
    parser = flags.Arguments(prog="python -m deberta_jax.tools.inspect", description=__doc__)
    parser.add_argument("workdir", nargs="?", type=flags.local_path, help="of a run")
    parser.add_argument("--devices", type=flags.count, help="with --config: that the parameters are split over")
    parser.add_argument("--slices", type=flags.count, default=1, help="with --config: TPU slices of the devices")
    split = flags.split_config_flags(argv)
    args = parser.parse_args(split.rest)
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax looks for an accelerator
    if args.workdir is None and split.source is None:
        raise Refused("give a WORKDIR, or --config=PATH.py and --devices=N")
    if args.workdir is None:
        config = configs.build(flags.read_config(split.source, split.assignments).config)
        lines = of_config(split.source, config, args)
    elif split.source or split.assignments or args.devices or args.slices != 1:
        raise Refused(f"to see how {args.workdir} would be split give --config={args.workdir}/config.json in its place")
    else:
        lines = of_workdir(existing_workdir(args.workdir))
    for line in lines:
        print(line)


def existing_workdir(path: Path) -> Path:
    """`path`. Raises Refused, with the nearest right one, where it is no workdir."""
    for place in [*reversed(path.parents), path]:
        if not place.exists():
            names = [each.name for each in place.parent.iterdir() if each.is_dir()]
            raise Refused(f"{place} does not exist{nearest(place.name, names)}")
    if not (path / "config.json").is_file():
        above = [str(place) for place in path.parents if (place / "config.json").is_file()]
        hint = f", did you mean {above[0]!r}?" if above else ""
        raise Refused(f"{path} is no workdir, it has no config.json{hint}")
    return path


def of_workdir(workdir: Path) -> Iterator[str]:
    """Lines on a run's config, its checkpoints, and the parameters of the newest good one."""
    from deberta_jax.train import checkpoint, listing, session

    yield from summary(configs.build(flags.read_config(str(workdir / session.CONFIG), []).config), str(workdir))
    good = []
    for folder in (session.BEST, session.CHECKPOINTS):
        for step in checkpoint.steps_in(workdir / folder):
            fault = checkpoint.fault_of(workdir / folder / str(step))
            yield f"{folder}/{step}: {'damaged, ' + fault if fault else 'good'}"
            good += [] if fault else [(folder, step)]
    if not good:
        yield "no good checkpoint"
        return
    folder, step = good[0]
    yield f"\nparameters of {folder}/{step}"
    yield from listing.of_saved(checkpoint.contents(workdir / folder, step))


def summary(config: configs.RunConfig, name: str) -> Iterator[str]:
    """What a run is, in a few lines."""
    from deberta_jax.train import listing
    from deberta_jax.train.build import models_of

    yield f"{name}: {config.objective}, {config.steps:,} steps of {config.batch_size:,} rows, seed {config.seed}"
    for key, model in models_of(config).items():
        size = f"{model.num_layers} layers of {model.hidden_size}, {model.num_heads} heads of {model.head_size}"
        yield f"  {key}: {size}, {model.vocab_size:,} ids, decoder {model.decoder}, {model.dtype}"
    across = f", across slices {listing.sizes_text(config.dcn_mesh)}" if config.dcn_mesh else ""
    yield f"  mesh {listing.sizes_text(config.mesh)}{across}"


def of_config(source: str, config: configs.RunConfig, args: argparse.Namespace) -> Iterator[str]:
    """Lines on how each parameter of a config is split over the devices."""
    if not isinstance(config, configs.Config):
        raise Refused(f"objective {config.objective!r}: splits are listed for pretraining, mlm and rtd")
    from deberta_jax.dist.mesh import abstract_mesh
    from deberta_jax.objectives import Lexicon
    from deberta_jax.tools import plan
    from deberta_jax.train import listing
    from deberta_jax.train.build import state_on

    config = plan.with_data(config, source, None).config
    devices = args.devices
    if devices is None:
        devices = math.prod(abs(size) for _, size in (*config.mesh, *config.dcn_mesh))
    mesh = abstract_mesh(config.mesh, devices, dcn_axes=config.dcn_mesh, slices=args.slices)
    # Ids of special tokens are made up: no shape depends on them.
    known = Lexicon(top_id=5, size=config.model.vocab_size, special_ids=(0, 1, 2, 3), mask_id=4)
    yield f"{source} on {devices:,} devices, mesh {listing.sizes_text(list(mesh.shape.items()))}"
    yield from listing.of_state(state_on(mesh, config, known), mesh)


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
