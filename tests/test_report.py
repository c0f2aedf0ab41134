import fnmatch
import re

import pytest

from deberta_jax.convert.report import Report, check_allowed
from deberta_jax.errors import Refused

MISSING = ("classifier.weight", "classifier.bias", "deberta.embeddings.position_embeddings.weight")
UNUSED = ("lm_predictions.lm_head.bias", "lm_predictions.lm_head.dense.weight")


def refusal(missing, unused, allow):
    with pytest.raises(Refused) as refused:
        check_allowed("DIR", missing, unused, allow)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("DIR: ")
    return str(refused.value)


def hint_of(message):
    """The patterns a message proposes, read as the Python that they are copied into."""
    return eval(re.search(r"allow=(\(.*\))$", message)[1])


def test_nothing_missing_and_nothing_unused_needs_no_permission():
    check_allowed("DIR", (), (), ())


@pytest.mark.parametrize(
    "allow",
    [
        (*MISSING, *UNUSED),
        ("classifier.*", "deberta.embeddings.position_embeddings.weight", "lm_predictions.*"),
        ("*",),
        ("[cl]*", "*position*"),
    ],
)
def test_what_is_allowed_by_name_or_pattern_passes(allow):
    check_allowed("DIR", MISSING, UNUSED, allow)


def test_every_name_that_is_not_allowed_is_told_and_no_other():
    message = refusal(MISSING, UNUSED, ())
    assert f"missing: {', '.join(MISSING)}; unused: {', '.join(UNUSED)}. " in message
    message = refusal(MISSING, UNUSED, ("*bias",))
    assert "missing: classifier.weight, deberta.embeddings.position_embeddings.weight; " in message
    assert "unused: lm_predictions.lm_head.dense.weight. " in message
    assert "unused" not in refusal(MISSING, UNUSED, ("lm_predictions.*",))
    assert "missing:" not in refusal(MISSING, UNUSED, ("classifier.*", "deberta.*"))


@pytest.mark.parametrize(
    ("missing", "unused", "allow"),
    [
        (MISSING, UNUSED, ()),
        (MISSING, UNUSED, ("deberta.*", "*.bias")),  # what was allowed before must stay so
        (("bert.encoder.layer.0.output.dense.bias",), (), ()),
        (("encoder.LayerNorm.weight",), ("pooler.dense.bias", "scalar"), ()),
        ((), ("odd[0].weight", "what?", "stars**"), ()),
        ((), ("it's", 'it"s'), ()),
    ],
)
def test_the_hint_works_when_it_is_copied(missing, unused, allow):
    hint = hint_of(refusal(missing, unused, allow))
    check_allowed("DIR", missing, unused, hint)


def test_the_hint_names_heads_as_a_whole_and_encoder_tensors_one_by_one():
    assert set(hint_of(refusal(MISSING, UNUSED, ()))) == {
        "classifier.*",
        "deberta.embeddings.position_embeddings.weight",
        "lm_predictions.*",
    }


@pytest.mark.parametrize("allow", [("clasifier.*",), ("classifier.*", "encoder.*"), ("Classifier.*",)])
def test_a_pattern_that_matches_nothing_is_refused(allow):
    wrong = next(pattern for pattern in allow if not fnmatch.filter(MISSING, pattern))
    assert f"allow={wrong!r} matches no missing or unused tensor" in refusal(MISSING, UNUSED, allow)
    assert f"allow={wrong!r} matches no" in refusal((), (), (wrong,))


def test_the_report_tells_all_that_was_found_and_nothing_that_was_not():
    found = Report("DIR", "mlm", 7, ("float16", "float32"), "emd: asked for", ("a", "b"), (), ("head/bias",))
    assert str(found).splitlines() == [
        "DIR: 7 tensors (float16, float32) for head 'mlm'",
        "  decoder emd: asked for",
        "  missing (2): a, b",
        "  new (1): head/bias",
    ]
