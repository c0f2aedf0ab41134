"""Sentences as rows and back: ids, starts and labels of words, against the words joined by spaces."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Sentence
from deberta_jax.tasks.tagging import decode_tags, sentence_rows
from deberta_jax.tokenizers import SentencePieceTokenizer, Tokenizer, load_tokenizer

LABELS = ("O", "B-PER", "I-PER", "B-LOC")


def byte_level_bpe(documents: list[str], directory: Path) -> Tokenizer:
    """A byte-level BPE of 500 pieces that the library trained, which gives a text's first word no mark."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(documents[:50], trainer)
    library.save(str(directory / "tokenizer.json"))
    return load_tokenizer(directory)


def keeping_spaces(model: bytes) -> Tokenizer:
    """A sentencepiece tokenizer to which a space before a text is one more than the one it writes itself."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.normalizer_spec.remove_extra_whitespaces = False
    return SentencePieceTokenizer(proto.SerializeToString())


@pytest.fixture(scope="module", params=["sentencepiece", "spaces kept", "bpe", "bpe with a space before the text"])
def tokenizer(request, spm_dir, documents, tmp_path_factory) -> Tokenizer:
    if request.param == "sentencepiece":
        return load_tokenizer(spm_dir)
    if request.param == "spaces kept":
        return keeping_spaces((spm_dir / "spm.model").read_bytes())
    directory = tmp_path_factory.mktemp("bpe")
    if request.param != "bpe":
        (directory / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    return byte_level_bpe(documents, directory)


@pytest.fixture(scope="module")
def sentences(documents) -> list[Sentence]:
    """Sentences of made-up words and punctuation, tagged at random."""
    rng = np.random.default_rng(0)
    made = []
    for number, document in enumerate(documents[:60]):
        words = document.replace(".", " .").split()[: rng.integers(1, 60)]
        made.append(Sentence(str(number), tuple(words), tuple(rng.choice(LABELS, len(words)).tolist())))
    return made


def first_tokens(words: tuple[str, ...], tokenizer: Tokenizer) -> list[int]:
    """Where each word starts in [CLS] words [SEP], by the characters that tokens come from.

    The mark of a word's start may be a token of its own, which comes from the space before the word.
    """
    offsets = tokenizer.encode(" ".join(words)).offsets[1:-1]
    ends = itertools.accumulate(len(word) + 1 for word in words)
    starts = [end - len(word) - 1 for word, end in zip(words, ends, strict=True)]
    return [next(token for token, (s, _) in enumerate(offsets, 1) if s >= start - 1) for start in starts]


def test_a_row_has_the_ids_of_the_words_joined_by_spaces(tokenizer, sentences):
    rows = sentence_rows(sentences, tokenizer, max_length=1000, labels=LABELS)
    assert [row.example for row in rows] == list(range(len(sentences)))
    for row, sentence in zip(rows, sentences, strict=True):
        assert row.ids.tolist() == tokenizer.encode(" ".join(sentence.words)).ids
        assert row.starts.tolist() == first_tokens(sentence.words, tokenizer)
        assert [LABELS[label] for label in row.labels] == list(sentence.tags)
        assert {array.dtype for array in (row.ids, row.starts, row.labels)} == {np.dtype(np.int32)}


@pytest.mark.parametrize("max_length", [3, 4, 9, 30])
def test_a_long_sentence_is_cut_at_words_and_a_long_word_within(tokenizer, sentences, max_length):
    rows = sentence_rows(sentences, tokenizer, max_length=max_length, labels=LABELS)
    whole = sentence_rows(sentences, tokenizer, max_length=1000, labels=LABELS)
    for number, uncut in enumerate(whole):
        parts = [row for row in rows if row.example == number]
        of_words = np.split(uncut.ids[1:-1], uncut.starts[1:] - 1)
        found = [word for row in parts for word in np.split(row.ids[1:-1], row.starts[1:] - 1)]
        assert [word.tolist() for word in found] == [word[: max_length - 2].tolist() for word in of_words]
        assert np.concatenate([row.labels for row in parts]).tolist() == uncut.labels.tolist()
        for row in parts:
            assert row.ids[0] == tokenizer.cls_id and row.ids[-1] == tokenizer.sep_id
            assert row.starts[0] == 1 and len(row.ids) <= max_length
        for row, following in itertools.pairwise(parts):  # as many words as fit
            word = [*following.starts[1:], len(following.ids) - 1][0] - 1
            assert len(row.ids) + word > max_length
    assert [row.example for row in rows] == sorted(row.example for row in rows)


def test_a_word_without_tokens_is_unknown(tokenizer):
    words = ("ka", "", "te", "")
    (row,) = sentence_rows([Sentence("a", words, None)], tokenizer, max_length=30, labels=LABELS)
    assert row.ids[row.starts[[1, 3]]].tolist() == [tokenizer.unk_id] * 2
    assert np.delete(row.ids, row.starts[[1, 3]]).tolist() == tokenizer.encode("ka te").ids
    (row,) = sentence_rows([Sentence("a", ("",), None)], tokenizer, max_length=3, labels=LABELS)
    assert row.ids.tolist() == [tokenizer.cls_id, tokenizer.unk_id, tokenizer.sep_id]


def test_a_sentence_without_words_is_a_row_without_any(tokenizer):
    (row,) = sentence_rows([Sentence("a", (), ())], tokenizer, max_length=3, labels=LABELS)
    assert row.ids.tolist() == [tokenizer.cls_id, tokenizer.sep_id]
    assert row.starts.shape == row.labels.shape == (0,)
    assert decode_tags([row], [np.zeros(5, int)], LABELS, 0) == ()
    assert sentence_rows([], tokenizer, max_length=3, labels=LABELS) == []


def test_hidden_tags_are_minus_one(tokenizer):
    (row,) = sentence_rows([Sentence("a", ("ka", "te"), None)], tokenizer, max_length=30, labels=LABELS)
    assert row.labels.tolist() == [-1, -1]


@pytest.mark.parametrize("max_length", [3, 8, 1000])
def test_tags_come_back_from_the_first_token_of_each_word(tokenizer, sentences, max_length):
    rng = np.random.default_rng(0)
    rows = sentence_rows(sentences, tokenizer, max_length=max_length, labels=LABELS)
    for number, sentence in enumerate(sentences):
        parts = [row for row in rows if row.example == number]
        predicted = [rng.integers(0, len(LABELS), len(row.ids) + rng.integers(0, 5)) for row in parts]
        for row, numbers in zip(parts, predicted, strict=True):
            numbers[row.starts] = row.labels
        assert decode_tags(parts, predicted, LABELS, len(sentence.words)) == sentence.tags


def test_rows_of_another_sentence_are_no_tags(tokenizer):
    rows = sentence_rows([Sentence("a", ("ka", "te"), None)], tokenizer, max_length=30, labels=LABELS)
    with pytest.raises(ValueError, match="2 words of a sentence of 3"):
        decode_tags(rows, [np.zeros(30, int)], LABELS, 3)
    with pytest.raises(ValueError, match="shorter"):
        decode_tags(rows, [], LABELS, 2)


def test_wrong_tags_are_refused(tokenizer):
    def rows(*tags: str):
        return sentence_rows([Sentence("s7", ("ka", "te"), tags)], tokenizer, max_length=30, labels=LABELS)

    message = "example s7: tag 'B-PERS' of 'te' is none of O, B-PER, I-PER, B-LOC, did you mean 'B-PER'"
    with pytest.raises(Refused, match=message):
        rows("O", "B-PERS")
    with pytest.raises(Refused, match="example s7: 1 tags for 2 words"):
        rows("O")
    with pytest.raises(Refused, match="data.max_length 2 is too small"):
        sentence_rows([], tokenizer, max_length=2, labels=LABELS)
