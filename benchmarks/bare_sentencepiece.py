"""Encodes a text file, block by block, and forgets what comes out: what `prepare` is compared with.

python -m benchmarks.bare_sentencepiece MODEL FILE
"""

import sys
from pathlib import Path

from sentencepiece import SentencePieceProcessor


def main(model: str, file: str) -> None:
    processor = SentencePieceProcessor(model_file=model)
    for block in Path(file).read_text(encoding="utf-8").split("\n\n"):
        processor.encode(block)


if __name__ == "__main__":
    main(*sys.argv[1:])
