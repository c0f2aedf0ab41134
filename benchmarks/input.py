"""How fast rows are prepared, read and masked.

python -m benchmarks.input [--input='text/*.txt'] [--vocab_size=8000] [--megabytes=400] [--processes=2] [--json=FILE]

The text (of --input, or the documentation strings of the standard library) gives a tokenizer and is repeated to so many
megabytes. `deberta_jax.tools.prepare` packs it, by its own clock from the start of its processes to the manifest; bare
sentencepiece encodes the same text in as many processes, each one part of it, and writes nothing. Then batches of 256
masked rows are taken as fast as they come. All is measured once in every round; shown are the medians, of `of bare` the
median of each round's ratio.
"""

import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import report
from deberta_jax import errors
from deberta_jax.config import DataConfig, MaskConfig
from deberta_jax.data.batches import Share, train_batches
from deberta_jax.data.documents import read_documents
from deberta_jax.data.masking import Vocabulary
from deberta_jax.data.prepared import Manifest, read_manifest
from deberta_jax.flags import Arguments, whole_number
from deberta_jax.tokenizers import load_tokenizer
from deberta_jax.tools import train_tokenizer

LENGTHS = (128, 512)
BATCH = 256
THREADS = (1, 2, 4, 8)
SECONDS = 0.4  # of reading batches in a round


class Stream(NamedTuple):
    """A setting of the pipeline."""

    length: int
    unit: str
    max_ngram: int
    threads: int


STREAMS = [Stream(*values) for values in itertools.product(LENGTHS, ("token", "word"), (1, 3), THREADS)]


def main(argv: list[str]) -> None:
    parser = Arguments(prog="python -m benchmarks.input", description=__doc__)
    parser.add_argument("--input", default="builtin", help="glob of text files, or builtin")
    parser.add_argument("--vocab_size", default=8000, type=whole_number)
    parser.add_argument("--megabytes", default=400, type=whole_number, help="of text that is prepared")
    parser.add_argument("--processes", default=2, type=whole_number, help="of prepare and of bare sentencepiece")
    parser.add_argument("--rounds", default=3, type=whole_number)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = folder / "tokenizer"
        train_tokenizer.main([f"--input={args.input}", f"--vocab_size={args.vocab_size}", f"--output={tokenizer}"])
        texts = [document.text for document in read_documents(args.input)]
        files = write_parts(texts, 10**6 * args.megabytes, args.processes, folder)
        rows = [*preparing(files, tokenizer, args.rounds), *streaming(folder, args.rounds)]
    print(report.table(rows))
    if args.json:
        report.write(args.json, rows)


def write_parts(texts: Sequence[str], size: int, parts: int, folder: Path) -> list[Path]:
    """Writes `texts` again and again to files of about equal size, `size` bytes in all; a text is one block."""
    files = [folder / f"text-{number}.txt" for number in range(parts)]
    endless = itertools.cycle(re.sub(r"\n\s*\n", "\n", text.strip()) for text in texts)
    for path in files:
        left = size // parts
        with path.open("wb") as file:
            while left > 0:
                left -= file.write(next(endless).encode() + b"\n\n")
    return files


def preparing(files: Sequence[Path], tokenizer: Path, rounds: int) -> list[dict[str, Any]]:
    """Bare sentencepiece and `prepare` to rows of each length, which are left in the files' folder."""
    bare, speeds = [], {length: [] for length in LENGTHS}
    for _ in range(rounds):
        bare.append(megabytes_bare(files, tokenizer))
        for length, found in speeds.items():
            found.append(megabytes_prepared(files, tokenizer, length))
    first = {"what": "bare sentencepiece", "processes": len(files), "MB/s": median(bare)}
    return [first, *(prepared_row(length, len(files), found, bare) for length, found in speeds.items())]


def prepared_row(length: int, processes: int, speeds: Sequence[float], bare: Sequence[float]) -> dict[str, Any]:
    """A row of the table, from the speeds of each round."""
    ratio = median(speed / other for speed, other in zip(speeds, bare, strict=True))
    return {"what": "prepare", "processes": processes, "MB/s": median(speeds), "of bare": ratio, "length": length}


def megabytes_bare(files: Sequence[Path], tokenizer: Path) -> float:
    """MB/s of one process of bare sentencepiece a file."""
    command = [sys.executable, "-m", "benchmarks.bare_sentencepiece", str(tokenizer / "spm.model")]
    start = time.monotonic()
    processes = [subprocess.Popen([*command, str(file)]) for file in files]
    if any([process.wait() for process in processes]):
        raise errors.Failed("bare sentencepiece failed")
    return sum(file.stat().st_size for file in files) / 1e6 / (time.monotonic() - start)


def megabytes_prepared(files: Sequence[Path], tokenizer: Path, length: int) -> float:
    """MB/s of `prepare` into a fresh directory, by its own account."""
    output = directory_of(files[0].parent, length)
    if output.exists():
        shutil.rmtree(output)
    flags = [f"--input={files[0].parent}/text-*.txt", f"--tokenizer={tokenizer}", f"--length={length}"]
    command = [sys.executable, "-m", "deberta_jax.tools.prepare", *flags, f"--processes={len(files)}"]
    done = subprocess.run([*command, f"--output={output}"], capture_output=True, text=True)
    if done.returncode:
        raise errors.Failed(f"prepare: {done.stderr.strip().splitlines()[-1]}")
    megabytes, seconds = re.search(r"([\d,.]+) MB in ([\d,.]+) s,", done.stdout).groups()
    return float(megabytes.replace(",", "")) / float(seconds.replace(",", ""))


def directory_of(folder: Path, length: int) -> Path:
    return folder / f"rows-{length}"


def streaming(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Tokens a second of each stream over the rows that `preparing` left."""
    manifests = {length: read_manifest(directory_of(folder, length)) for length in LENGTHS}
    vocabulary = Vocabulary.of(load_tokenizer(manifests[LENGTHS[0]].tokenizer_path))
    speeds = {stream: [] for stream in STREAMS}
    for _ in range(rounds):
        for stream, found in speeds.items():
            found.append(tokens_a_second(manifests[stream.length], vocabulary, stream))
    return [
        {"what": "batches", "Mtokens/s": median(found) / 1e6} | stream._asdict() for stream, found in speeds.items()
    ]


def tokens_a_second(manifest: Manifest, vocabulary: Vocabulary, stream: Stream) -> float:
    """Positions of the batches that come in SECONDS, once the threads are under way."""
    mask = MaskConfig(rate=0.15, mask_share=0.8, random_share=0.1, unit=stream.unit, max_ngram=stream.max_ngram)
    data = DataConfig(
        paths=(str(manifest.path),),
        weights=(),
        sampling_exponent=1.0,
        isolate_documents=True,
        mask=mask,
        read_threads=stream.threads,
    )
    batches = train_batches([manifest], data, vocabulary, seed=0, share=Share.whole(BATCH))
    for _ in range(2 * stream.threads + 1):  # what is read ahead
        next(batches)
    start, count = time.monotonic(), 0
    while time.monotonic() - start < SECONDS:
        count += next(batches)["input_ids"].size
    speed = count / (time.monotonic() - start)
    batches.close()
    return speed


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
