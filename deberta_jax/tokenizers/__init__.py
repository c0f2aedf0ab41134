"""Text to ids and back. NumPy, sentencepiece and tokenizers only."""

from deberta_jax.tokenizers.bpe import ByteLevelBPETokenizer
from deberta_jax.tokenizers.interface import Encoding, Tokenizer
from deberta_jax.tokenizers.load import find_tokenizer, load_tokenizer
from deberta_jax.tokenizers.spm import SentencePieceTokenizer

__all__ = [
    "ByteLevelBPETokenizer",
    "Encoding",
    "SentencePieceTokenizer",
    "Tokenizer",
    "find_tokenizer",
    "load_tokenizer",
]
