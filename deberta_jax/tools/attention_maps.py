"""Draws what a trained model attends to in a text, and what in its scores comes from content and what from position.

python -m deberta_jax.tools.attention_maps --checkpoint=WORKDIR --text="Paris is the [MASK] of France." --output=DIR

DIR gets layer_00.png, ... with a row for each head (its probabilities, then the parts of its scores), overview.png with
the probabilities of all layers and heads, by_distance.png and by_distance.csv with their means by relative distance,
and attention.npz with all numbers. docs/attention_maps.md says what is scaled how. WORKDIR is of a run, pretrained or
fine-tuned (its best parameters), or of converted weights; of a run with the objective rtd --model says which model.
"""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deberta_jax import errors, flags
from deberta_jax.errors import Failed, Refused, nearest

if TYPE_CHECKING:  # what imports jax or matplotlib waits until the flags are right
    from deberta_jax.config import ModelConfig
    from deberta_jax.ops.attention.problem import Problem
    from deberta_jax.reports.attention_pictures import ByDistance, Layer
    from deberta_jax.tokenizers import Tokenizer

PAIR = {"discriminator": "rtd", "generator": "mlm"}  # model of a run with the objective rtd -> its head
MOST_TOKENS = 128  # whose squares are still seen


class Trained(NamedTuple):
    """A model of a workdir."""

    step: int
    head: str
    cfg: "ModelConfig"
    params: Any


def main(argv: list[str]) -> None:
    """Draws what `argv` asks for."""
    args = _parser().parse_args(argv)
    if not args.text.strip():
        raise Refused("--text is empty")
    if args.output.is_dir() and any(args.output.iterdir()):
        raise Refused(f"{args.output} is not empty")
    from deberta_jax.tokenizers import load_tokenizer
    from deberta_jax.train import session

    workdir = existing_folder(args.checkpoint)
    tokenizer = load_tokenizer(workdir / session.TOKENIZER)
    ids = ids_of(tokenizer, args.text)
    trained = read_model(workdir, args.model)
    layers = attention_to(ids, trained)
    output = session.open_workdir(str(args.output))
    title = f"{workdir}, step {trained.step}: {args.text}"
    write_pictures(output, layers, [shown(tokenizer, index) for index in ids], title)
    heads = len(layers[0].probability_hqk)
    names = f"{layers[0].name} to {layers[-1].name}"
    print(f"{names}, {heads} heads each, {len(ids)} tokens: pictures and numbers in {output}")


def _parser() -> flags.Arguments:
    parser = flags.Arguments(prog="python -m deberta_jax.tools.attention_maps", description=__doc__)
    parser.add_argument("--checkpoint", required=True, type=flags.local_path, help="workdir of a run, or converted")
    parser.add_argument("--text", required=True, help='to attend to; "[MASK]" in it is the special token')
    parser.add_argument("--output", required=True, type=flags.local_path, help="folder for the pictures")
    parser.add_argument("--model", choices=tuple(PAIR), help="of a pair; discriminator without it")
    return parser


def existing_folder(path: Path) -> Path:
    """`path`. Raises Refused, with the nearest right one, where it is no folder."""
    if not path.is_dir():
        names = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
        raise Refused(f"--checkpoint: there is no folder {path}{nearest(path.name, names)}")
    return path


def ids_of(tokenizer: "Tokenizer", text: str) -> list[int]:
    """[CLS] text [SEP]. Raises Refused where that is too long to be seen, or no text."""
    try:
        ids = tokenizer.encode_masked(text)
    except ValueError as error:  # bytes of the command line that are no UTF-8
        raise Refused(f"--text: {error}") from error
    if len(ids) > MOST_TOKENS:
        raise Refused(f"--text: {len(ids)} tokens, more than the {MOST_TOKENS} that a picture can show")
    return ids


def read_model(workdir: Path, asked: str | None) -> Trained:
    """The model of a workdir that `asked` names; for pictures any implementation of attention will do."""
    from deberta_jax.tools import convert
    from deberta_jax.train import session

    pair = convert.holds_pair(session.trained_meta(workdir))
    if asked and not pair:
        raise Refused(f"--model={asked}: {workdir} holds one model and no pair; leave it out")
    step, models = convert.trained_models(workdir, PAIR[asked or "discriminator"] if pair else "auto")
    ((head, (model, params)),) = models.items()
    return Trained(step, head, dataclasses.replace(model.cfg, attention="auto"), params)


def attention_to(ids: Sequence[int], trained: Trained) -> list["Layer"]:
    """Each layer's attention to a text as an encoder runs it, then that of the decoder's passes if there are any.

    The parts are the scores' own, nothing is taken off. Raises Refused for more tokens than the model has positions.
    """
    import jax

    from deberta_jax.model.encoder import Encoder
    from deberta_jax.model.masked_lm import MaskedLM
    from deberta_jax.model.problems import decoder_problems, encoder_problems

    _, head, cfg, params = trained
    decodes = head == "mlm" and cfg.decoder == "emd"
    if (cfg.position_biased_input or decodes) and len(ids) > cfg.max_position_embeddings:
        raise Refused(f"--text: {len(ids)} tokens, the model has {cfg.max_position_embeddings} positions")
    row = np.array([ids], np.int32), np.ones((1, len(ids)), np.int32)
    with jax.default_matmul_precision("highest"):  # products of bfloat16 are the same at any
        problems = encoder_problems(Encoder(cfg), params if head == "encoder" else params["encoder"], *row)
        layers = [layer_of(f"layer {number}", problem) for number, problem in enumerate(problems)]
        if decodes:
            problems = decoder_problems(MaskedLM(cfg), params, *row)
            layers += [layer_of(f"decoder pass {number}", problem) for number, problem in enumerate(problems, 1)]
    return layers


def layer_of(name: str, problem: "Problem") -> "Layer":
    """The probabilities and the parts of the scores of the only row of a problem. Raises Failed where some are NaN."""
    from deberta_jax.ops.attention.parts import score_parts
    from deberta_jax.ops.attention.reference import probabilities
    from deberta_jax.reports.attention_pictures import Layer

    parts = {term: np.asarray(part_hbqk[:, 0]) for term, part_hbqk in score_parts(problem).items()}
    if not all(np.isfinite(part_hqk).all() for part_hqk in parts.values()):
        raise Failed(f"{name}: the scores are not finite")
    return Layer(name, np.asarray(probabilities(problem)[:, 0]), parts)


def shown(tokenizer: "Tokenizer", index: int) -> str:
    """A token as people read it, with ▁ before what begins a word; special ones and single bytes by their name."""
    text = tokenizer.decode([index]).strip()
    if index in tokenizer.special_ids or not text or "�" in text:
        return tokenizer.piece(index)
    return ("▁" if tokenizer.starts_word[index] else "") + text


def write_pictures(output: Path, layers: Sequence["Layer"], tokens: Sequence[str], title: str) -> None:
    """Writes all that the head of this file lists into the folder `output`."""
    from deberta_jax.reports import attention_pictures as pictures

    _write_numbers(output / "attention.npz", layers, tokens)
    means = [by_distance(layer) for layer in layers]
    _write_means(output / "by_distance.csv", means)
    pictures.plot_by_distance(means, output / "by_distance.png")
    pictures.plot_overview(layers, output / "overview.png", title=title)
    for layer in layers:
        kind, _, number = layer.name.rpartition(" ")
        place = output / f"{kind.replace(' ', '_')}_{int(number):02d}.png"
        pictures.plot_layer(relative_to_queries(layer), tokens, place)


def relative_to_queries(layer: "Layer") -> "Layer":
    """The layer with each query's mean taken off its parts: what a softmax does not see is not drawn."""
    from deberta_jax.ops.attention.parts import without_query_mean

    parts = {name: without_query_mean(part_hqk) for name, part_hqk in layer.parts.items()}
    return dataclasses.replace(layer, parts=parts)


def by_distance(layer: "Layer") -> "ByDistance":
    """Means over heads and the pairs of each distance; of the parts less their mean over all pairs of the head."""
    from deberta_jax.ops.attention.parts import mean_by_distance
    from deberta_jax.reports.attention_pictures import ByDistance

    parts = {
        name: mean_by_distance(part_hqk - part_hqk.mean((1, 2), keepdims=True)).mean(0)
        for name, part_hqk in layer.parts.items()
    }
    return ByDistance(layer.name, mean_by_distance(layer.probability_hqk).mean(0), parts)


def _write_numbers(path: Path, layers: Sequence["Layer"], tokens: Sequence[str]) -> None:
    """All that was computed, [layer, head, query, key] by name, and the names of tokens and layers."""
    arrays = {name: np.stack([layer.parts[name] for layer in layers]) for name in layers[0].parts}
    arrays["probability"] = np.stack([layer.probability_hqk for layer in layers])
    np.savez_compressed(path, tokens=np.array(tokens), layers=np.array([layer.name for layer in layers]), **arrays)


def _write_means(path: Path, layers: Sequence["ByDistance"]) -> None:
    """A line for each layer and distance; `pairs` is how many a head has of it."""
    reach = len(layers[0].probability_d) // 2
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "distance", "pairs", "probability", *layers[0].parts])
        for layer in layers:
            columns = zip(layer.probability_d, *layer.parts.values(), strict=True)
            for distance, values in enumerate(columns, -reach):
                writer.writerow([layer.name, distance, reach + 1 - abs(distance), *map(float, values)])


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
