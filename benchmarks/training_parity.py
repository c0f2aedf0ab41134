"""The same weights, the same 50 batches, AdamW: does our loss follow that of transformers?

python -m benchmarks.training_parity --json=docs/figures/training_parity.json --png=docs/figures/training_parity.png

Masked LM (decoder none, transformers' behaviour) and classification, a v1 and a v2 model each, dropout off, float32.
Batches are real: the documentation strings of the standard library through the package's own tokenizer, packing and
masking. Our side is the training step that train.py runs; theirs is transformers' class with torch.optim.AdamW.
Needs requirements-torch.txt. Two CPU cores: about three minutes.
"""

import dataclasses
import itertools
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks import report
from configs import base
from deberta_jax import config as configs
from deberta_jax import errors
from deberta_jax.convert.load import load_with_report
from deberta_jax.data.batches import Share, train_batches
from deberta_jax.data.masking import Vocabulary
from deberta_jax.data.prepared import read_manifest
from deberta_jax.flags import Arguments
from deberta_jax.model.heads import SequenceClassifier
from deberta_jax.objectives import OBJECTIVES, Lexicon, Objective
from deberta_jax.objectives.base import WHOLE, Part
from deberta_jax.ops.cross_entropy import cross_entropy
from deberta_jax.tokenizers import load_tokenizer
from deberta_jax.tools import prepare, train_tokenizer
from deberta_jax.train.optimizer import Optimizer, make_optimizer, make_schedule
from deberta_jax.train.state import TrainState
from deberta_jax.train.step import make_train_step

STEPS, ROWS, LENGTH, CLASSES = 50, 16, 64, 3
SIZES = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
POSITIONS = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.04}
V2 = {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 32, "max_relative_positions": 64}
CONV = {"conv_kernel_size": 3, "conv_act": "gelu"}
RUNS = {  # title: (transformers' class, its switches, our head)
    "v1, masked LM": ("DebertaForMaskedLM", {}, "mlm"),
    "v2, masked LM": ("DebertaV2ForMaskedLM", V2 | CONV, "mlm"),
    "v1, classification": ("DebertaForSequenceClassification", {}, "sequence_classification"),
    "v2, classification": ("DebertaV2ForSequenceClassification", V2 | CONV, "sequence_classification"),
}
OPTIMIZER = {"learning_rate": 5e-4, "warmup_steps": 0, "schedule": "constant", "clip_norm": float("inf")}


def main(argv: list[str]) -> None:
    parser = Arguments(prog="python -m benchmarks.training_parity", description=__doc__)
    parser.add_argument("--json", required=True, type=Path)
    parser.add_argument("--png", required=True, type=Path)
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        batches, vocabulary = real_batches(Path(folder))
        traces = {title: compare(Path(folder), batches, vocabulary, *run) for title, run in RUNS.items()}
    for title, trace in traces.items():
        print(f"{title:20} loss {trace['ours'][0]:.4f} -> {trace['ours'][-1]:.4f}, {difference(trace):.1e} apart")
    args.png.parent.mkdir(parents=True, exist_ok=True)
    draw(traces).savefig(args.png, dpi=120)
    args.json.write_text(json.dumps({"setting": setting(), "traces": traces}, indent=1) + "\n")
    worst = max(map(difference, traces.values()))
    if worst > 1e-4:
        raise errors.Failed(f"the losses are up to {worst:.1e} apart, more than 1e-4")


def difference(trace: dict[str, list[float]]) -> float:
    """The largest distance between the two losses of one step, in nats."""
    return float(np.abs(np.subtract(trace["ours"], trace["theirs"])).max())


def real_batches(folder: Path) -> tuple[list[dict[str, np.ndarray]], int]:
    """(STEPS masked batches of documentation strings, number of ids)."""
    tokenizer, rows = str(folder / "tokenizer"), str(folder / "rows")
    train_tokenizer.main(["--input=builtin", "--vocab_size=2000", f"--output={tokenizer}"])
    prepare.main(["--input=builtin", f"--tokenizer={tokenizer}", f"--length={LENGTH}", f"--output={rows}"])
    data = run_config({"vocab_size": 0}).data
    spm = load_tokenizer(tokenizer)
    batches = train_batches(
        [read_manifest(rows)],
        dataclasses.replace(data, paths=(rows,), isolate_documents=False, read_threads=1),
        Vocabulary.of(spm),
        seed=0,
        share=Share.whole(ROWS),
    )
    return list(itertools.islice(batches, STEPS)), spm.size


def run_config(model: dict[str, Any]) -> configs.Config:
    c = base.get_config("tiny")
    c.model.update(model)
    c.optimizer.update(OPTIMIZER)
    return configs.build(c)


def compare(folder: Path, batches: list, vocabulary: int, kind: str, switches: dict, head: str) -> dict[str, list]:
    """The two losses of each step, from one set of weights written by transformers."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    model_class = getattr(transformers, kind)
    fields = SIZES | POSITIONS | OFF | switches | {"vocab_size": vocabulary, "num_labels": CLASSES}
    directory = folder / kind
    theirs = model_class(model_class.config_class(**fields)).train()
    theirs.save_pretrained(directory)
    ours = list(our_losses(directory, batches, head))
    return {"ours": ours, "theirs": list(their_losses(theirs, batches, head))}


def label_of(batch: dict[str, np.ndarray]) -> np.ndarray:
    """[b] a class that can be learned: the batch's rows ranked by how many frequent pieces they have, in thirds."""
    frequent_b = (batch["input_ids"] < 100).sum(axis=1)
    rank_b = np.argsort(np.argsort(frequent_b, kind="stable"), kind="stable")
    return rank_b * CLASSES // len(rank_b)


def our_losses(directory: Path, batches: list, head: str) -> Iterator[float]:
    """Losses of the package's training step."""
    model, params, _ = load_with_report(directory, head)
    config = dataclasses.replace(run_config({}), model=model.cfg)
    nothing_special = Lexicon(top_id=0, size=model.cfg.vocab_size, special_ids=(), mask_id=model.cfg.vocab_size - 1)
    objective = OBJECTIVES["mlm"](config, nothing_special) if head == "mlm" else classification(model)
    optimizer = Optimizer(make_optimizer(config.optimizer), make_schedule(config.optimizer, STEPS))
    step = jax.jit(make_train_step(objective, {WHOLE: optimizer}, seed=0, micro_batches=1))
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(step=zero, skipped=zero, params=params, opt_state=optimizer.tx.init(params))
    for batch in batches:
        state, sums = step(state, batch | {"classes": label_of(batch)})
        total, weight = sums["loss"]
        yield float(total / weight)


def classification(model: SequenceClassifier) -> Objective:
    """Cross-entropy of a sequence's class, in the form that the training step wants."""

    def loss(params, batch, key, weights):
        inputs = (batch["input_ids"], batch["documents"])
        logits_bc = model.apply({"params": params}, *inputs, deterministic=True)
        nll_b1, _ = cross_entropy(logits_bc[:, None], batch["classes"][:, None])
        total = nll_b1.sum()
        return total / weights["rows"], ({"loss": (total, weights["rows"])}, {})

    def rows(batch):
        return {"rows": jnp.float32(batch["classes"].shape[0])}

    def never(*_):
        raise NotImplementedError("the step alone runs here")

    return Objective(
        groups=(WHOLE,),
        parts=(Part(loss, reaches=(WHOLE,)),),
        joint=False,
        init=never,
        weights=rows,
        evaluate=never,
        predict=never,
        summary=never,
        conclusion=never,
    )


def their_losses(model, batches: list, head: str) -> Iterator[float]:
    """Losses of transformers' model under torch.optim.AdamW, decay off for biases and norms as on our side."""
    import torch

    decayed = [p for name, p in model.named_parameters() if not name.endswith(("bias", "LayerNorm.weight"))]
    others = [p for name, p in model.named_parameters() if name.endswith(("bias", "LayerNorm.weight"))]
    cfg = run_config({}).optimizer
    groups = [{"params": decayed, "weight_decay": cfg.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=cfg.learning_rate, betas=(cfg.b1, cfg.b2), eps=cfg.eps)
    for batch in batches:
        labels = masked_labels(batch) if head == "mlm" else label_of(batch)
        inputs = {
            "input_ids": batch["input_ids"],
            "attention_mask": (batch["documents"] > 0).astype(np.int64),
            "labels": labels,
        }
        loss = model(**{name: torch.from_numpy(values.astype(np.int64)) for name, values in inputs.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def masked_labels(batch: dict[str, np.ndarray]) -> np.ndarray:
    """[b, l] original ids at masked positions, -100 elsewhere."""
    labels = np.full(batch["input_ids"].shape, -100)
    row, slot = np.nonzero(batch["weights"])
    labels[row, batch["masked_positions"][row, slot]] = batch["labels"][row, slot]
    return labels


def setting() -> dict[str, Any]:
    """What a reader needs to repeat this."""
    own = {"steps": STEPS, "rows": ROWS, "length": LENGTH, "optimizer": OPTIMIZER | {"clip_norm": "inf"}}
    return report.setting() | own


def draw(traces: dict[str, dict[str, list[float]]]) -> Figure:
    """Losses above, distances below."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    panels = figure.subplots(2, len(traces), squeeze=False, sharex=True)
    for (title, trace), (above, below) in zip(traces.items(), panels.T, strict=True):
        above.plot(trace["theirs"], color="#cc3311", linewidth=3, alpha=0.4, label="transformers, AdamW of torch")
        above.plot(trace["ours"], color="#4477aa", linewidth=1, label="deberta_jax")
        above.set_title(title, loc="left", fontsize=11)
        distance = np.abs(np.subtract(trace["ours"], trace["theirs"]))
        below.semilogy(np.maximum(distance, 1e-8), color="#4477aa", linewidth=1)
        below.axhline(1e-4, color="#777777", linewidth=0.8, linestyle="--")
        below.set_ylim(5e-9, 3e-4)
        below.set_xlabel("steps")
    panels[0, 0].set_ylabel("loss (nats)")
    panels[1, 0].set_ylabel("distance of the two losses")
    panels[0, 0].legend(fontsize=8, loc="lower left")
    return figure


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
