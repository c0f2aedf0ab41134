"""Sentencepiece's normalisation as steps of the tokenizers library, with the same result for every text.

The library has a step for sentencepiece's tables, `Precompiled`, but it looks at grapheme clusters: a cluster of less
than six bytes is looked up whole and takes the replacement of its shortest prefix, a longer one character by character.
Sentencepiece replaces the longest key at each place. The two differ for letters with combining marks, decomposed
Hangul, kana with separate voicing marks and others. Here a text is first cut where sentencepiece cuts it, into keys of
the table and single characters, by writing a separator after each. Between separators NFKC composes what a key of
several characters stands for, and `Precompiled` sees one character at a time, for which it is right. What still comes
out otherwise is found by trying all keys and all characters, and carried around both steps by a mark.
"""

import functools
import sys
from collections.abc import Iterable, Mapping

from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, normalizers

from deberta_jax.errors import Refused
from deberta_jax.tokenizers.charsmap import charsmap_rules
from deberta_jax.tokenizers.chunks import is_punctuation
from deberta_jax.tokenizers.patterns import character_class, literal, longest_of

# Characters to work with. Two that Unicode promises never to assign, and after the first of them a private one, which
# no text can hold at that place because the text's own ESCAPE is written as ESCAPE and ESCAPED[0].
ESCAPE, SEPARATOR = "\ufdd0", "\ufdd1"
ESCAPED = ("\ue000", "\ue001")  # stand for ESCAPE and SEPARATOR of the text
CHUNK = ESCAPE + "\ue002"  # where sentencepiece begins with a text of its own
FIRST_MARK = 0xE003
MARKS = 0xF8FF - FIRST_MARK + 1
SPACE = "▁"

_TYPES = sentencepiece_model_pb2.ModelProto.SentencePiece


def sentencepiece_normalizer(
    proto: sentencepiece_model_pb2.ModelProto, do_lower_case: bool, split_by_punct: bool
) -> normalizers.Sequence:
    """Steps whose result equals `SentencePieceProcessor.normalize` of the same model for every text.

    `do_lower_case` and `split_by_punct` come before it, as in `SentencePieceTokenizer`. Raises Refused for a model that
    uses the characters with which this works, or needs too many exceptions.
    """
    spec = proto.normalizer_spec
    symbols = [p.piece for p in proto.pieces if p.type == _TYPES.USER_DEFINED]
    rules = charsmap_rules(spec.precompiled_charsmap)
    _check_characters(rules, symbols)
    steps = [_replace(ESCAPE, ESCAPE + ESCAPED[0]), _replace(SEPARATOR, ESCAPE + ESCAPED[1])]
    if do_lower_case:
        steps += _lower_case_steps()
    if split_by_punct:
        steps.append(_break_at_punctuation())
    steps.append(normalizers.Prepend(CHUNK))
    if rules:
        steps += _table_steps(spec.precompiled_charsmap, tuple(symbols))
    steps += _white_space_steps(spec)
    steps += [_replace(ESCAPE + ESCAPED[1], SEPARATOR), _replace(ESCAPE + ESCAPED[0], ESCAPE)]
    return normalizers.Sequence(steps)


def _replace(text: str, content: str) -> normalizers.Normalizer:
    return normalizers.Replace(text, content)


def _replace_pattern(pattern: str, content: str) -> normalizers.Normalizer:
    return normalizers.Replace(Regex(pattern), content)


def _every_character() -> list[str]:
    return [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]


def _check_characters(rules: Mapping[str, str], symbols: Iterable[str]) -> None:
    worked_with = {ESCAPE, SEPARATOR, *map(chr, range(0xE000, FIRST_MARK + MARKS))}
    if found := worked_with & set().union(*rules, *rules.values(), *symbols):
        raise Refused(f"the model's normalisation uses {min(found)!r}, which tokenizer.json needs for itself")


@functools.cache
def _lower_case_steps() -> list[normalizers.Normalizer]:
    """str.lower: the library's, which goes by single characters, after the sigmas that end a word.

    Letters that are in the tables of the library only, or of Python, are exceptions.
    """
    ends_word = {c for c in _every_character() if f".{c}Σ".lower().endswith("ς")}  # letters that have a case
    ignored = {c for c in _every_character() if f"A{c}Σ".lower().endswith("ς")} - ends_word
    between = character_class(ignored) + "*"
    cased = character_class(ends_word)
    final_sigma = _replace_pattern(f"{cased}{between}\\KΣ(?!{between}{cased})", "ς")
    lower = normalizers.Lowercase()
    others = {c: c.lower() for c in _every_character() if lower.normalize_str(c) != c.lower()}
    before, after = _carried(others, "{}")
    return [final_sigma, *before, lower, *after]


@functools.cache
def _break_at_punctuation() -> normalizers.Normalizer:
    punctuation = character_class(filter(is_punctuation, _every_character()))
    return _replace_pattern(f"(?<={punctuation})(?!\\z)|(?!\\A)(?={punctuation})", CHUNK)


@functools.lru_cache(maxsize=4)  # seconds; most models have sentencepiece's own table
def _table_steps(charsmap: bytes, symbols: tuple[str, ...]) -> list[normalizers.Normalizer]:
    """The replacements of the table; user-defined symbols are not looked at."""
    rules = charsmap_rules(charsmap)
    keys = [key for key in rules if len(key) > 1]
    units = "|".join([f"{ESCAPE}.", *map(literal, sorted(symbols, key=len, reverse=True)), longest_of(keys), "."])
    mapping = [*([normalizers.NFKC()] if keys else []), normalizers.Precompiled(charsmap)]
    wrong = exceptions(mapping, {**rules, **{symbol: symbol for symbol in symbols}})
    before, after = _carried(wrong, f"(?<={SEPARATOR}){{}}(?={SEPARATOR})")
    cut = _replace_pattern(f"(?m:{units})\\K", SEPARATOR)
    return [cut, *before, *mapping, _replace(SEPARATOR, ""), *after]


def _carried(units: Mapping[str, str], where: str) -> tuple[list[normalizers.Normalizer], list[normalizers.Normalizer]]:
    """Steps that replace each of the `units` by a mark, and steps that replace the marks by what the units become.

    `where` is the pattern around the unit, with {} in its place.
    """
    if len(units) > MARKS:
        raise Refused(f"the model's normalisation has {len(units)} rules that tokenizer.json cannot express")
    marks = [ESCAPE + chr(FIRST_MARK + number) for number in range(len(units))]
    before = [_replace_pattern(where.format(literal(u)), m) for u, m in zip(units, marks, strict=True)]
    return before, [_replace(mark, content) for mark, content in zip(marks, units.values(), strict=True)]


def exceptions(steps: Iterable[normalizers.Normalizer], rules: Mapping[str, str]) -> dict[str, str]:
    """The keys of `rules`, and the characters without a rule, that the steps do not turn into what they should."""
    expected = {c: c for c in _every_character() if c not in (ESCAPE, SEPARATOR)} | dict(rules)
    normalizer = normalizers.Sequence(list(steps))
    units, wrong = list(expected), {}
    for start in range(0, len(units), 50_000):
        some = units[start : start + 50_000]
        results = normalizer.normalize_str(SEPARATOR.join(some)).split(SEPARATOR)
        wrong |= {u: expected[u] for u, result in zip(some, results, strict=True) if result != expected[u]}
    return wrong


def _white_space_steps(spec: sentencepiece_model_pb2.NormalizerSpec) -> list[normalizers.Normalizer]:
    """What sentencepiece does to spaces, in each chunk of the text."""
    steps = []
    if spec.remove_extra_whitespaces:
        trailing = f"[ {SPACE}]+" if spec.escape_whitespaces else " +"  # it strips after it escaped
        steps += [
            _replace_pattern(f"(?<={CHUNK}) +", ""),
            _replace_pattern(" {2,}", " "),
            _replace_pattern(f"{trailing}(?={CHUNK}|\\z)", ""),
            _replace_pattern(f"{CHUNK}(?={CHUNK}|\\z)", ""),
        ]
    steps.append(_replace(CHUNK, " " if spec.add_dummy_prefix else ""))
    return [*steps, _replace(" ", SPACE)] if spec.escape_whitespaces else steps
