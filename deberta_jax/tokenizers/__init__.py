"""Text to ids and back. NumPy and sentencepiece only."""

from deberta_jax.tokenizers.spm import Encoding, SentencePieceTokenizer, load_tokenizer

__all__ = ["Encoding", "SentencePieceTokenizer", "load_tokenizer"]
