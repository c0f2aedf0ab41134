"""Training a SentencePiece unigram model on a stream of texts."""

import io
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from deberta_jax.errors import Refused

SENTENCE_CHARACTERS = 1000  # longer lines are cut at a space: sentencepiece drops what exceeds its limit
THREADS = 8  # a constant: the model's last bits depend on the number of threads, not on the machine


def train_unigram(
    texts: Iterable[str], *, vocab_size: int, byte_fallback: bool, character_coverage: float, max_sentences: int
) -> bytes:
    """The bytes of a model with `vocab_size` pieces: [PAD] 0, [CLS] 1, [SEP] 2, [UNK] 3, then learned ones.

    Equal input gives equal bytes. `max_sentences` sentences are sampled from the whole stream; 0 takes all, in memory.
    Raises Refused when the text is too small for the vocabulary, or the vocabulary for the text's characters.
    """
    if vocab_size < 8:
        raise Refused(f"--vocab_size={vocab_size} leaves no room beside the special pieces")
    if max_sentences != 0 and max_sentences <= 100:  # sentencepiece's own limit
        raise Refused(f"--max_sentences={max_sentences} must be 0, for all, or more than 100")
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(0)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            byte_fallback=byte_fallback,
            character_coverage=character_coverage,
            input_sentence_size=max_sentences,
            max_sentence_length=4 * SENTENCE_CHARACTERS,  # bytes
            num_threads=THREADS,
            minloglevel=2,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece="[PAD]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
            unk_piece="[UNK]",
        )
    except (RuntimeError, ValueError) as error:  # ValueError: a number beyond its 32 bits
        raise Refused(_explain(str(error), vocab_size)) from error
    return model.getvalue()


def sentences(texts: Iterable[str]) -> Iterator[str]:
    """The non-empty lines of all texts, none longer than SENTENCE_CHARACTERS."""
    for text in texts:
        for line in text.splitlines():
            while len(line) > SENTENCE_CHARACTERS:
                cut = line.rfind(" ", 1, SENTENCE_CHARACTERS)
                cut = cut if cut > 0 else SENTENCE_CHARACTERS
                yield line[:cut]
                line = line[cut:]
            if line.strip():
                yield line


def _explain(message: str, vocab_size: int) -> str:
    if too_high := re.search(r"too high .* <= (\d+)", message):
        return f"--vocab_size={vocab_size}: this text gives at most {too_high[1]} pieces"
    if too_small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"--vocab_size={vocab_size}: the text's characters alone need {too_small[1]} pieces; "
            "raise it, or lower --character_coverage"
        )
    if "sentences_.empty()" in message:
        return "--input holds no text"
    return f"sentencepiece could not train: {message}"
