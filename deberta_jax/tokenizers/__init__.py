"""Text to ids and back. NumPy, sentencepiece and tokenizers only."""

from deberta_jax.tokenizers.bpe import ByteLevelBPETokenizer
from deberta_jax.tokenizers.interface import Encoding, Tokenizer
from deberta_jax.tokenizers.load import load_tokenizer
from deberta_jax.tokenizers.spm import SentencePieceTokenizer

__all__ = ["ByteLevelBPETokenizer", "Encoding", "SentencePieceTokenizer", "Tokenizer", "load_tokenizer"]
