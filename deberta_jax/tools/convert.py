"""Other people's weights as a workdir of ours, and back.

python -m deberta_jax.tools.convert --source=HF_DIR --output=WORKDIR      config.json + safetensors or pytorch_model.bin
python -m deberta_jax.tools.convert --checkpoint=WORKDIR --output=HF_DIR  what transformers' from_pretrained loads

Of a run with the objective rtd, HF_DIR/discriminator gets the discriminator, its word table whole (the generator's plus
the difference that was trained), and HF_DIR/generator the masked language model; with --head=rtd or --head=mlm that
model alone goes into HF_DIR itself.

Training starts from a converted workdir with train.py --config.init_from=WORKDIR; eval.py --fill_mask reads it as it
is. Run it where configs/ is: a workdir's config.json takes what the weights do not say from --config.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from deberta_jax import config as configs
from deberta_jax import errors, flags
from deberta_jax.errors import Refused

HEADS = (
    *("auto", "encoder", "mlm", "rtd", "sequence_classification", "token_classification"),
    *("question_answering", "multiple_choice"),
)
BASE = "configs/base.py"
OF_PAIR = {"rtd": "discriminator", "mlm": "generator"}  # head -> model of a run with the objective rtd


def main(argv: list[str]) -> None:
    """Converts what the flags in `argv` say."""
    args = _parser().parse_args(argv)
    if (args.source is None) == (args.checkpoint is None):
        raise Refused("give either --source=HF_DIR or --checkpoint=WORKDIR")
    logging.basicConfig(format="%(message)s")
    if args.source is not None:
        config = configs.build(flags.read_config(args.config or BASE, []).config)
        import_directory(args, config)
    else:
        _check_export(args)
        export_workdir(args.checkpoint, args.output, args.head)


def _parser() -> flags.Arguments:
    parser = flags.Arguments(prog="python -m deberta_jax.tools.convert", description=__doc__)
    parser.add_argument("--source", type=flags.local_path, help="directory of Hugging Face or Microsoft")
    parser.add_argument("--checkpoint", type=flags.local_path, help="workdir of a run, or a converted one")
    parser.add_argument("--output", required=True, type=flags.local_path)
    which = "of --source; auto: the one that is in the file. Of --checkpoint with two models: rtd or mlm, auto: both"
    parser.add_argument("--head", default="auto", choices=HEADS, help=which)
    parser.add_argument("--decoder", default="auto", choices=("auto", "emd", "none"), help="of --source, for head mlm")
    parser.add_argument("--allow", action="append", default=[], help="pattern of tensors that may be missing or unused")
    parser.add_argument("--vocab_size", type=flags.whole_number, help="rows of the word table, to add tokens")
    parser.add_argument("--config", help=f"of the workdir, for all but the model; {BASE} without it")
    return parser


def _check_export(args: argparse.Namespace) -> None:
    """Raises Refused for flags that say nothing to an export: parameters are written as they are."""
    unsaid = {"decoder": "auto", "allow": [], "vocab_size": None, "config": None}
    for name, value in unsaid.items():
        if vars(args)[name] != value:
            raise Refused(f"--{name} is of --source; a checkpoint is written as it is")


def import_directory(args, config: configs.Config) -> None:
    """Writes WORKDIR: checkpoints/0 with the parameters, config.json (head mlm), tokenizer/ if there is one."""
    import dataclasses

    from deberta_jax.convert.load import load_with_report
    from deberta_jax.convert.source import open_source, record_origin
    from deberta_jax.model.by_head import head_of
    from deberta_jax.tokenizers import find_tokenizer
    from deberta_jax.train import session

    if args.output.is_dir() and any(args.output.iterdir()):
        raise Refused(f"{args.output} is not empty")
    source, _ = open_source(args.source)
    head = _head_of_file(source) if args.head == "auto" else args.head
    options = {"allow": args.allow, "decoder": args.decoder, "vocab_size": args.vocab_size}
    model, params, report = load_with_report(args.source, head, **options)
    print(report)
    workdir = session.open_workdir(str(args.output))
    config = dataclasses.replace(config, model=model.cfg)
    meta = {"config": configs.to_dict(config), "tokenizer": "", "manifests": [], "top_id": None, "head": head}
    meta["head_config"] = dataclasses.asdict(head_cfg) if (head_cfg := head_of(model)[1]) else None
    if (tokenizer := find_tokenizer(args.source)) is not None:
        tokenizer.save_vocabulary(workdir / session.TOKENIZER)
        meta["tokenizer"] = tokenizer.fingerprint
    record_origin(source, workdir)
    if head == "mlm":
        (workdir / session.CONFIG).write_text(json.dumps(meta["config"], indent=2, sort_keys=True) + "\n")
    _save_params(workdir, config, params, meta)


def _head_of_file(source) -> str:
    from deberta_jax.convert.names import heads_in

    multiple_choice = any("ForMultipleChoice" in name for name in source.fields.get("architectures") or ())
    heads = heads_in(source.dtypes.keys())
    if len(heads) > 1:
        raise Refused(f"{source.path} holds the heads {', '.join(heads)}: choose one with --head")
    return "multiple_choice" if multiple_choice else heads[0]


def _save_params(workdir: Path, config: configs.Config, params, meta: dict) -> None:
    import time

    import jax.numpy as jnp

    from deberta_jax.train import session
    from deberta_jax.train.checkpoint import Checkpoints
    from deberta_jax.train.state import TrainState

    zero = jnp.zeros((), jnp.int32)
    state = TrainState(step=zero, skipped=zero, params=params, opt_state=())
    with Checkpoints(workdir / session.CHECKPOINTS, config.checkpoint, time.monotonic) as checkpoints:
        checkpoints.save(0, state, meta)
        checkpoints.wait()


def export_workdir(workdir: Path, output: Path, head: str) -> None:
    """Writes the newest good checkpoint of a workdir as a directory that transformers reads, or as two of them."""
    from deberta_jax.convert.hf_config import fields_of
    from deberta_jax.convert.save import save_pretrained
    from deberta_jax.tokenizers import load_tokenizer
    from deberta_jax.train import session

    if output.is_dir() and any(output.iterdir()):
        raise Refused(f"{output} is not empty")
    step, models = trained_models(workdir, head)
    for model, _ in models.values():
        fields_of(model.cfg)  # refuses what transformers lacks before the first of two is written
    vocabulary = workdir / session.TOKENIZER
    tokenizer = load_tokenizer(vocabulary) if vocabulary.is_dir() else None
    for name, (model, params) in models.items():
        place = output / OF_PAIR[name] if len(models) > 1 else output
        save_pretrained(place, model, params, tokenizer=tokenizer)
        print(f"{place}: step {step} of {workdir}, head {name}")


def trained_models(workdir: Path, head: str) -> tuple[int, dict]:
    """(step, {head: (model, parameters)}) of the checkpoint that counts: of one model, or of those of a pair that the
    `head` asks for, "auto" for all. Raises Refused for a head that is not there."""
    from deberta_jax.train import checkpoint, session

    directory, step = session.trained_checkpoint(workdir)
    meta = checkpoint.read_meta(directory, step)
    read = _read_pair if holds_pair(meta) else _read_model
    return step, read(workdir, directory, step, meta, head)


def holds_pair(meta: dict) -> bool:
    """Whether a checkpoint that says `meta` is of two models: a run's own of rtd. (A converted one names its head.)"""
    return "head" not in meta and meta["config"]["objective"] == "rtd"


def _read_model(workdir: Path, directory: Path, step: int, meta: dict, asked: str) -> dict:
    """{head: (model, parameters)} of a workdir that holds one model."""
    from deberta_jax.config import HeadConfig
    from deberta_jax.convert.load import parameter_shapes
    from deberta_jax.convert.source import ORIGIN
    from deberta_jax.model.by_head import build_model
    from deberta_jax.train import checkpoint

    config = configs.build(meta["config"])
    # A run's own checkpoint names no head: it has its objective's.
    head, head_values = meta.get("head", config.objective), meta.get("head_config")
    if asked not in ("auto", head):
        raise Refused(f"{workdir} has the head {head!r}, --head={asked} asks for another; leave it out")
    head_cfg = HeadConfig(**head_values | {"labels": tuple(head_values["labels"])}) if head_values else None
    origin = str(workdir) if (workdir / ORIGIN).is_file() else ""
    model = build_model(head, config.model, head_cfg, origin=origin)
    return {head: (model, checkpoint.restore_params(directory, step, parameter_shapes(model)))}


def _read_pair(workdir: Path, directory: Path, step: int, meta: dict, asked: str) -> dict:
    """{head: (model, parameters)} of the models that are `asked` for, each whole, of a run that trains two."""
    import jax

    from deberta_jax.convert.load import parameter_shapes
    from deberta_jax.model.by_head import build_model
    from deberta_jax.objectives.rtd import sharing_of
    from deberta_jax.train import checkpoint

    if asked not in ("auto", *OF_PAIR):
        named = " and ".join(f"a {model} ({head})" for head, model in OF_PAIR.items())
        raise Refused(f"{workdir} holds {named}, none with the head {asked!r}")
    config = configs.build(meta["config"])
    sharing, place = sharing_of(config), jax.sharding.SingleDeviceSharding(jax.devices()[0])
    models = {"mlm": build_model("mlm", config.rtd.generator, None), "rtd": build_model("rtd", config.model, None)}
    shapes = jax.eval_shape(sharing.pair, *map(parameter_shapes, models.values()))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)
    pair = checkpoint.restore_params(directory, step, shapes)
    params = {"mlm": pair["generator"], "rtd": sharing.discriminator(pair)}
    return {head: (models[head], params[head]) for head in OF_PAIR if asked in ("auto", head)}


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
