"""The scores of every kind of task, from its examples and predictions, counted by hand."""

import numpy as np
import pytest

from deberta_jax.tasks import scoring
from deberta_jax.tasks.examples import Answer, Choice, Prediction, Question, Sentence, Text


def texts(*labels, groups=None) -> list[Text]:
    groups = groups or [""] * len(labels)
    pairs = enumerate(zip(labels, groups, strict=True))
    return [Text(f"t{number}", ("some text",), label, group) for number, (label, group) in pairs]


def said(*values) -> list[Prediction]:
    return [Prediction(value) for value in values]


def question(name: str, *answers: str, impossible: bool | None = False) -> Question:
    return Question(name, "what?", "context", tuple(Answer(text, -1) for text in answers), impossible)


YES_NO = texts("yes", "yes", "no", "no", "no")
GUESSES = said("yes", "no", "yes", "no", "no")  # 1 true positive, 1 false negative, 1 false positive, 2 left


def test_accuracy():
    assert scoring.accuracy(YES_NO, GUESSES) == {"accuracy": 3 / 5}


def test_accuracy_and_f1_of_the_positive_label():
    assert scoring.accuracy_and_f1("yes")(YES_NO, GUESSES) == pytest.approx({"accuracy": 3 / 5, "f1": 1 / 2})
    assert scoring.accuracy_and_f1("no")(YES_NO, GUESSES) == pytest.approx({"accuracy": 3 / 5, "f1": 2 / 3})


def test_matthews_and_accuracy():
    expected = (1 * 2 - 1 * 1) / np.sqrt(2 * 2 * 3 * 3)
    assert scoring.matthews(YES_NO, GUESSES) == pytest.approx({"matthews": expected, "accuracy": 3 / 5})


def test_accuracy_and_macro_f1():
    score = scoring.accuracy_and_macro_f1(("yes", "no", "maybe"))
    assert score(YES_NO, GUESSES) == pytest.approx({"accuracy": 3 / 5, "macro_f1": (1 / 2 + 2 / 3) / 2})
    with pytest.raises(ValueError, match="'oui' is none of the labels"):
        score(texts("yes"), said("oui"))


def test_correlation():
    found = scoring.correlation(texts(1.0, 2.0, 3.0, 4.0), said(1.0, 0.0, 2.0, 5.0))
    assert found == pytest.approx({"pearson": 7 / np.sqrt(5 * 14), "spearman": 0.8})
    assert scoring.correlation(texts(1.0, 2.0), said(0.3, 0.3)) == {"pearson": 0.0, "spearman": 0.0}


def test_choices():
    examples = [Choice(str(i), (("x",), ("y",)), label) for i, label in enumerate([0, 1, 1, 0])]
    assert scoring.choices(examples, said(0, 1, 0, 0)) == {"accuracy": 3 / 4}


def test_accuracy_by_group():
    examples = texts("a", "a", "b", "b", groups=["fiction", "de", "fiction", "fiction"])
    found = scoring.accuracy_by_group(examples, said("a", "b", "b", "a"))
    assert list(found) == ["accuracy", "accuracy/de", "accuracy/fiction", "accuracy/mean"]
    assert list(found.values()) == pytest.approx([2 / 4, 0, 2 / 3, 1 / 3])


def test_one_group_has_no_mean_and_texts_without_a_group_no_name():
    predictions = said("a", "b", "b")
    found = scoring.accuracy_by_group(texts("a", "a", "a", groups=["en", "en", "en"]), predictions)
    assert found == pytest.approx({"accuracy": 1 / 3, "accuracy/en": 1 / 3})
    assert scoring.accuracy_by_group(texts("a", "a", "a"), predictions) == pytest.approx({"accuracy": 1 / 3})
    found = scoring.accuracy_by_group(texts("a", "a", "a", groups=["", "en", "en"]), predictions)
    assert found == pytest.approx({"accuracy": 1 / 3, "accuracy/en": 0})


def test_entities():
    examples = [Sentence("1", ("Ada", "met", "Bob"), ("B-PER", "O", "B-PER")), Sentence("2", ("hi",), ("O",))]
    found = scoring.entities(examples, said(("B-PER", "O", "B-LOC"), ("B-LOC",)))
    # 1 of 3 predicted and of 2 gold entities: F1 2/5; 2 of 4 words
    assert found == pytest.approx({"f1": 2 / 5, "precision": 1 / 3, "recall": 1 / 2, "token_accuracy": 2 / 4})


def test_squad():
    examples = [question("1", "Denver", "Denver Broncos"), question("2", "the Seine river")]
    found = scoring.squad(examples, said("the Denver Broncos", "Seine"))
    assert found == pytest.approx({"exact": 1 / 2, "f1": (1 + 2 / 3) / 2})
    with pytest.raises(ValueError, match="no gold answer"):
        scoring.squad([question("1")], said("Denver"))


def test_squad_v2_tries_thresholds_on_the_best_answers():
    examples = [question("1", "Paris"), question("2", impossible=True), question("3", "Seine river")]
    predictions = [
        Prediction("", (), (("Paris", 0.4), ("Rome", 0.3)), -0.5),
        Prediction("London", (), (("London", 0.9),), 0.5),
        Prediction("", (), (("Seine", 0.2),), 0.0),
    ]
    found = scoring.squad_v2(examples, predictions)
    # as predicted, nothing is right. By threshold: nothing 1; Paris at -0.5: 2; Seine at 0: F1 2/3; London at 0.5: -1
    zero = dict.fromkeys(["exact", "f1", "has_answer_exact", "has_answer_f1", "no_answer_exact", "no_answer_f1"], 0)
    best = {"best_exact": 2 / 3, "best_exact_threshold": -0.5, "best_f1": (2 + 2 / 3) / 3, "best_f1_threshold": 0}
    assert found == pytest.approx(zero | best)


def test_squad_v2_of_a_prediction_that_has_no_best_answer():
    examples = [question("1", impossible=True), question("2", "Paris")]
    found = scoring.squad_v2(
        examples, [Prediction("", null_odds=-9.0), Prediction("Paris", (), (("Paris", 1.0),), 0.0)]
    )
    assert (found["exact"], found["best_exact"], found["best_exact_threshold"]) == (1, 1, 0.0)


def test_multirc():
    groups = ["p1q1", "p1q1", "p1q2", "p1q1"]  # the answers to a question need not be neighbours
    found = scoring.multirc(
        texts("true", "false", "true", "false", groups=groups), said("true", "false", "true", "true")
    )
    assert found == pytest.approx({"f1a": 2 * 2 / (2 * 2 + 1), "em": 1 / 2})


def candidates(group: str, golds: tuple[str, ...], names: list[str]) -> list[Text]:
    labels = {True: "true", False: "false"}
    return [Text(f"{group}-{name}", ("s",), labels[name in golds], group, name, golds) for name in names]


def judged(*true: float) -> list[Prediction]:
    """What a classifier says that finds each candidate right with this probability."""
    return [Prediction("true" if share > 0.5 else "false", (1 - share, share)) for share in true]


def test_record_takes_the_likeliest_candidate_of_each_group():
    examples = candidates("q1", ("Ada Lovelace", "Lovelace"), ["Byron", "Lovelace", "Ada"])
    examples += candidates("q2", ("New York City",), ["Boston", "York City"])
    predictions = judged(0.2, 0.4, 0.3, 0.6, 0.9)
    # Lovelace, the second gold, though "true" is the less likely; "York City": precision 1, recall 2/3, F1 4/5
    assert scoring.record(examples, predictions) == pytest.approx({"f1": (1 + 4 / 5) / 2, "em": 1 / 2})
    order = [3, 0, 4, 2, 1]
    turned = scoring.record([examples[i] for i in order], [predictions[i] for i in order])
    assert turned == pytest.approx({"f1": (1 + 4 / 5) / 2, "em": 1 / 2})
    assert scoring.record(examples, judged(0.9, 0.4, 0.3, 0.6, 0.5)) == {"f1": 0, "em": 0}


def test_record_takes_the_first_of_equally_likely_candidates():
    examples = candidates("q", ("Ada",), ["Ada", "Byron"])
    assert scoring.record(examples, judged(0.5, 0.5)) == {"f1": 1, "em": 1}
    assert scoring.record(examples[::-1], judged(0.5, 0.5)) == {"f1": 0, "em": 0}


KINDS = [  # a score, a labelled example, the right prediction, and the same example with its label hidden
    *(
        (score, Text("7", ("s",), "true", "g", "Ada", ("Ada",)), Prediction("true", (0.0, 1.0)), {"label": None})
        for score in (
            scoring.accuracy,
            scoring.accuracy_by_group,
            scoring.accuracy_and_f1("true"),
            scoring.accuracy_and_macro_f1(("true", "false")),
            scoring.matthews,
            scoring.multirc,
            scoring.record,
        )
    ),
    (scoring.correlation, Text("7", ("s",), 2.5), Prediction(2.5), {"label": None}),
    (scoring.choices, Choice("7", (("s",), ("t",)), 1), Prediction(1), {"label": None}),
    (scoring.entities, Sentence("7", ("Ada",), ("B-PER",)), Prediction(("B-PER",)), {"tags": None}),
    (scoring.squad, question("7", "Ada"), Prediction("Ada"), {"answers": (), "impossible": None}),
    (
        scoring.squad_v2,
        question("7", "Ada"),
        Prediction("Ada", (), (("Ada", 1.0),)),
        {"answers": (), "impossible": None},
    ),
]


@pytest.mark.parametrize(("score", "example", "right", "hidden"), KINDS)
def test_only_labelled_examples_with_a_prediction_each_are_scored(score, example, right, hidden):
    with pytest.raises(ValueError, match="2 examples, but 1 predictions"):
        score([example, example], [right])
    with pytest.raises(ValueError, match="1 examples, but 2 predictions"):
        score([example], [right, right])
    with pytest.raises(ValueError, match="example 7 has no label"):
        score([example, example._replace(**hidden)], [right, right])
    with pytest.raises(ValueError, match="no examples"):
        score([], [])


@pytest.mark.parametrize(("score", "example", "right", "hidden"), KINDS)
def test_what_is_right_scores_one_and_is_plain_floats(score, example, right, hidden):
    del hidden
    found = score([example] * 2, [right] * 2)
    assert {type(value) for value in found.values()} == {float}
    undefined = {"matthews", "pearson", "spearman", "best_exact_threshold", "best_f1_threshold"}  # of one label only
    assert {name: value for name, value in found.items() if name not in undefined} == dict.fromkeys(
        found.keys() - undefined, 1.0
    )


@pytest.mark.parametrize(
    "score",
    [
        scoring.accuracy,
        scoring.accuracy_by_group,
        scoring.multirc,
        scoring.matthews,
        scoring.accuracy_and_f1("true"),
        scoring.accuracy_and_macro_f1(("true", "false")),
        scoring.record,
    ],
)
def test_the_order_of_the_examples_changes_nothing(score):
    rng = np.random.default_rng(3)
    names = rng.permutation([f"name {i} {j}" for i in range(10) for j in range(4)]).reshape(10, 4).tolist()
    examples = [text for i in range(10) for text in candidates(f"q{i}", tuple(names[i][:2]), names[i])]
    predictions = judged(*rng.random(40))
    order = rng.permutation(40)
    turned = score([examples[i] for i in order], [predictions[i] for i in order])
    assert turned == pytest.approx(score(examples, predictions))
    assert list(turned) == list(score(examples, predictions))
