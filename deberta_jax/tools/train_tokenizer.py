"""Trains a SentencePiece unigram tokenizer.

python -m deberta_jax.tools.train_tokenizer --input='text/*.txt' --vocab_size=16000 --output=tokenizer

Writes spm.model, and beside it every setting in tokenizer_settings.json. The pieces are [PAD] 0, [CLS] 1, [SEP] 2,
[UNK] 3 and what is learned; [MASK] is not in the model but the id after the last piece.
"""

import sys
from pathlib import Path

import sentencepiece
from tqdm import tqdm

from deberta_jax import errors
from deberta_jax.data.documents import read_documents, source_files
from deberta_jax.data.prepared import canonical_json
from deberta_jax.flags import Arguments, local_path, whole_number
from deberta_jax.tokenizers.spm import SentencePieceTokenizer
from deberta_jax.tokenizers.train import train_unigram


def main(argv: list[str]) -> None:
    """Trains what the flags in `argv` say and prints one line about it."""
    args = vars(_parser().parse_args(argv))
    source, field, output = args.pop("input"), args.pop("field"), args.pop("output")
    files = source_files(source)
    if output.is_file():
        raise errors.Refused(f"--output={output} is a file, it must be a directory")
    documents = tqdm(read_documents(source, field=field), desc="train_tokenizer", unit=" documents")
    model = train_unigram((document.text for document in documents), **args)
    names = [file.name for file in files] or [source]
    settings = {"type": "unigram", "input": names, "field": field, "sentencepiece": sentencepiece.__version__, **args}
    _save(SentencePieceTokenizer(model, canonical_json(settings).encode()), output)


def _parser() -> Arguments:
    parser = Arguments(prog="python -m deberta_jax.tools.train_tokenizer", description=__doc__)
    parser.add_argument("--input", required=True, help="glob, tfds:NAME[/CONFIG]:SPLIT:FIELD, or builtin")
    parser.add_argument("--field", default="text", help="of JSON lines, Parquet and tfds that holds the text")
    parser.add_argument("--vocab_size", required=True, type=whole_number, help="pieces, special ones included")
    parser.add_argument("--byte_fallback", action="store_true", help="unknown characters become bytes, not [UNK]")
    parser.add_argument("--character_coverage", default=0.9995, type=float, help="share of the text's characters known")
    parser.add_argument("--max_sentences", default=2_000_000, type=whole_number, help="sampled from all; 0 = all")
    parser.add_argument("--output", required=True, type=local_path)
    return parser


def _save(tokenizer: SentencePieceTokenizer, output: Path) -> None:
    try:
        tokenizer.save_vocabulary(output)
    except OSError as error:
        raise errors.Refused(f"--output={output} cannot be written: {error}") from error
    print(
        f"{output}: {tokenizer.size - 1:,} pieces, [MASK] is {tokenizer.mask_id}, sha256 {tokenizer.fingerprint[:16]}"
    )


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
