"""The pieces that tokenizer.json's normaliser is made of: the model's table, patterns, exceptions."""

import io
import re

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, normalizers

from deberta_jax.tokenizers.charsmap import charsmap_rules
from deberta_jax.tokenizers.normalizer import exceptions
from deberta_jax.tokenizers.patterns import character_class, literal, longest_of

RULES = {"a": "1", "ab": "2", "abc": "", "x": "yy", "é": "e", "👍": "👎", "日本": "j"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> sentencepiece_model_pb2.ModelProto:
    """A model whose normalisation is RULES and nothing else."""
    table = tmp_path_factory.mktemp("rules") / "rules.tsv"
    lines = [" ".join(f"{ord(c):X}" for c in key) + "\t" + " ".join(f"{ord(c):X}" for c in RULES[key]) for key in RULES]
    table.write_text("\n".join(lines) + "\n")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ka te mo ne"] * 20),
        model_writer=model,
        vocab_size=12,
        normalization_rule_tsv=str(table),
        minloglevel=2,
    )
    return sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())


def test_the_table_is_read_as_it_was_written(model):
    assert charsmap_rules(model.normalizer_spec.precompiled_charsmap) == RULES
    assert charsmap_rules(b"") == {}


def test_the_published_tables_do_what_their_rules_say(spm_dir):
    proto = sentencepiece_model_pb2.ModelProto.FromString((spm_dir / "spm.model").read_bytes())
    rules = charsmap_rules(proto.normalizer_spec.precompiled_charsmap)
    assert len(rules) > 200_000
    proto.normalizer_spec.add_dummy_prefix = proto.normalizer_spec.remove_extra_whitespaces = False
    plain = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    some = list(rules)[::97]
    assert [plain.normalize(key) for key in some] == [rules[key].replace(" ", "▁") for key in some]


def test_patterns_match_exactly_what_they_are_made_of():
    matches = normalizers.Replace(Regex(longest_of(RULES)), "#").normalize_str
    assert matches("abcababx日本日é👍d") == "#####日##d"
    assert normalizers.Replace(Regex(longest_of([])), "#").normalize_str("ab") == "ab"
    assert normalizers.Replace(Regex(literal("a.[")), "#").normalize_str("a.[axx[") == "#axx["
    letters = "abcxyz-]^\\"
    replaced = normalizers.Replace(Regex(character_class(letters)), "").normalize_str("abcdxyzw-]^\\.")
    assert replaced == re.sub(f"[{re.escape(letters)}]", "", "abcdxyzw-]^\\.") == "dw."


def test_what_steps_get_wrong_is_found():
    assert exceptions([normalizers.Replace("x", "y")], {"x": "y", "ab": "ab"}) == {}
    assert exceptions([normalizers.Replace("x", "y")], {"x": "z", "ax": "y", "é": "e"}) == {
        "x": "z",
        "ax": "y",
        "é": "e",
    }
    assert exceptions([normalizers.Replace("x", "y")], {}) == {"x": "x"}
