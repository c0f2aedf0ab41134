"""The rules of SQuAD, worked out by hand from the papers and the official scorers' rules, and by brute force."""

import string

import numpy as np
import pytest

from deberta_jax.scores import spans
from deberta_jax.scores.spans import exact_match, normalised, squad, squad_v2, token_f1, token_f1_v2, with_threshold

WORDS = ["Seine", "the", "river", "Paris,", "a", "1,500", "of", "(France)"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Seine, the river!", "seine river"),
        ("  An\tapple a\nday ", "apple day"),
        ("Athens, another theatre", "athens another theatre"),  # only whole words are articles
        ("A", ""),
        ("", ""),
        ("'.'", ""),
        ("$1,500.50", "150050"),  # punctuation leaves no space behind
        ("well-known", "wellknown"),
        ("a.m.", "am"),  # punctuation goes first: no article is left
        ("the-rapist", "therapist"),
        ("an'the", "anthe"),
        ("“the” end", "“ ” end"),  # only ASCII punctuation goes, but the article's edges are those of a word
        ("ÉCOLE – the Überbau", "école – überbau"),
    ],
)
def test_normalising(answer, expected):
    assert normalised(answer) == expected


def test_normalising_twice_changes_nothing_here_and_all_ascii_punctuation_goes():
    assert normalised(string.punctuation) == ""
    assert normalised(normalised("The U.S. of A., the end")) == normalised("The U.S. of A., the end") == "us of end"


@pytest.mark.parametrize(
    ("gold", "predicted", "exact", "f1"),
    [
        ("the Seine", "Seine.", 1, 1),
        ("Seine", "Loire", 0, 0),
        # gold words: seine river; predicted: long river; 1 shared: precision 1/2, recall 1/2
        ("the Seine river", "a long river", 0, 1 / 2),
        # gold: seine; predicted: seine in paris: precision 1/3, recall 1: 2 * 1/3 / (4/3)
        ("Seine", "the Seine in Paris", 0, 1 / 2),
        # the same words in another order
        ("New York City", "City, New York", 0, 1),
        # gold: buffalo buffalo city; predicted: buffalo buffalo buffalo: 2 shared: 2/3 and 2/3
        ("buffalo buffalo city", "buffalo buffalo buffalo", 0, 2 / 3),
        # gold: ha; predicted: ha ha ha: 1 shared: 1/3 and 1
        ("ha", "ha ha ha", 0, 1 / 2),
        ("Seine", "", 0, 0),
    ],
)
def test_exact_match_and_f1_of_one_answer(gold, predicted, exact, f1):
    assert exact_match(gold, predicted) == exact
    assert token_f1(gold, predicted) == token_f1_v2(gold, predicted) == pytest.approx(f1)
    assert token_f1(predicted, gold) == pytest.approx(f1), "precision and recall change places"


def test_empty_answers_are_the_same_but_share_a_word_only_in_v2():
    for gold, predicted in [("", ""), ("", "the"), (".", "")]:
        assert (exact_match(gold, predicted), token_f1(gold, predicted), token_f1_v2(gold, predicted)) == (1, 0, 1)
    for gold, predicted in [("", "Seine"), ("Seine", "the"), ("Seine", "")]:
        assert (exact_match(gold, predicted), token_f1(gold, predicted), token_f1_v2(gold, predicted)) == (0, 0, 0)


def f1_by_pairing(gold: str, predicted: str) -> float:
    """F1 from words that are paired off one by one."""
    left, words = normalised(gold).split(), normalised(predicted).split()
    total = len(left) + len(words)
    for word in words:
        if word in left:
            left.remove(word)
    shared = len(normalised(gold).split()) - len(left)
    return 2 * shared / total if total else 0.0


def drawn(seed: int, count: int = 25) -> tuple[list[list[str]], list[str], list[str], np.ndarray]:
    """Golds, none for a third of the questions; predictions, some empty; candidates; odds, higher for the former."""
    rng = np.random.default_rng(seed)

    def phrase() -> str:
        return "Rhône " + " ".join(rng.choice(WORDS, rng.integers(1, 5)))

    golds = [[phrase() for _ in range(rng.integers(1, 4))] if rng.random() < 2 / 3 else [] for _ in range(count)]
    candidates = [str(rng.choice(answers)) if answers and rng.random() < 0.5 else phrase() for answers in golds]
    odds = rng.normal(size=count) + np.array([0 if answers else 1 for answers in golds])
    return golds, with_threshold(candidates, odds, 0.8), candidates, odds


@pytest.mark.parametrize("seed", range(3))
def test_squad_is_the_mean_of_each_questions_best_gold(seed):
    golds, _, candidates, _ = drawn(seed)
    asked = [index for index, answers in enumerate(golds) if answers]
    golds, predicted = [golds[index] for index in asked], [candidates[index] for index in asked]
    pairs = list(zip(golds, predicted, strict=True))
    exact = [any(normalised(text) == normalised(said) for text in answers) for answers, said in pairs]
    f1 = [max(f1_by_pairing(text, said) for text in answers) for answers, said in pairs]
    assert squad(golds, predicted) == pytest.approx({"exact": np.mean(exact), "f1": np.mean(f1)})


def test_squad_by_hand():
    golds = [["Denver Broncos", "The Denver Broncos!"], ["gold", "golden anniversary"], ["1,500"]]
    # the second gold of the first; "golden": precision 1, recall 1/2, F1 2/3 against "golden anniversary"; 1500 = 1,500
    assert squad(golds, ["the Denver Broncos", "golden", "1500"]) == pytest.approx({"exact": 2 / 3, "f1": 8 / 9})
    assert squad(golds, [answers[-1] for answers in golds]) == {"exact": 1, "f1": 1}


def test_squad_v1_gives_no_f1_for_an_answer_that_is_an_article():
    assert squad([["A"]], ["A"]) == {"exact": 1, "f1": 0}


def v2(golds, predicted, candidates=None, odds=None) -> dict[str, float]:
    return squad_v2(golds, predicted, candidates or predicted, [0.0] * len(golds) if odds is None else odds)


def test_squad_v2_by_hand():
    golds = [["the Seine river"], ["Paris"], [], []]
    predicted = ["Seine", "Paris", "", "London"]
    # exact: 0 1 1 0. F1: precision 1 and recall 1/2 give 2/3; then 1 1 0
    expected = {
        "exact": 2 / 4,
        "f1": (2 / 3 + 1 + 1 + 0) / 4,
        "has_answer_exact": 1 / 2,
        "has_answer_f1": (2 / 3 + 1) / 2,
        "no_answer_exact": 1 / 2,
        "no_answer_f1": 1 / 2,
    }
    found = v2(golds, predicted)
    assert {name: value for name, value in found.items() if "best" not in name} == pytest.approx(expected)


def test_a_kind_of_question_that_does_not_occur_is_left_out():
    best = {"best_exact", "best_exact_threshold", "best_f1", "best_f1_threshold"}
    assert v2([["Seine"]], ["Seine"]).keys() == best | {"exact", "f1", "has_answer_exact", "has_answer_f1"}
    assert v2([[]], [""]).keys() == best | {"exact", "f1", "no_answer_exact", "no_answer_f1"}


def test_an_empty_gold_does_not_count_in_v2_where_there_is_another():
    # of ["Seine", "."] the second is empty once normalised: saying nothing is wrong
    assert v2([["Seine", "."]], [""])["exact"] == v2([["Seine", "."]], [""])["f1"] == 0
    assert squad([["Seine", "."]], [""])["exact"] == 1, "v1.1 has no such rule"
    # where no gold is left, nothing is the right answer; the question is still one with an answer
    found = v2([["."]], [""])
    assert (found["has_answer_exact"], found["has_answer_f1"], found["exact"], found["f1"]) == (1, 1, 1, 1)
    assert v2([["."]], ["Seine"])["f1"] == 0


def test_a_wrong_answer_to_a_question_without_one_counts_unless_it_is_empty_once_normalised():
    found = v2([[], []], ["the", "Seine"])
    assert (found["exact"], found["f1"]) == (1 / 2, 1 / 2)


def test_best_thresholds_by_hand():
    golds = [["Paris"], [], ["the Seine river"], []]
    candidates, odds = ["Paris", "London", "Seine", "Rome"], [-2.0, 3.0, 1.0, 2.0]
    found = squad_v2(golds, ["", "", "", ""], candidates, odds)
    # nothing answered: 2 of 4 right. In the order of the odds:
    #   -2 Paris, right:  exact 3, F1 3
    #    1 Seine, F1 2/3: exact 3, F1 3 2/3
    #    2 Rome, wrong:   exact 2, F1 2 2/3
    #    3 London, wrong: exact 1, F1 1 2/3
    assert (found["best_exact"], found["best_exact_threshold"]) == (3 / 4, -2.0)
    assert (found["best_f1"], found["best_f1_threshold"]) == (pytest.approx((3 + 2 / 3) / 4), 1.0)
    assert found["exact"] == 1 / 2, "of what was predicted, whatever is best"
    assert with_threshold(candidates, odds, 1.0) == ["Paris", "", "Seine", ""]


@pytest.mark.parametrize("seed", range(6))
def test_the_best_thresholds_are_the_best_of_all(seed):
    golds, predicted, candidates, odds = drawn(seed)
    found = squad_v2(golds, predicted, candidates, odds)
    for name in ("exact", "f1"):
        thresholds = [odds.min() - 1, *odds]
        scores = [v2(golds, with_threshold(candidates, odds, threshold))[name] for threshold in thresholds]
        assert found[f"best_{name}"] == pytest.approx(max(scores))
        applied = with_threshold(candidates, odds, found[f"best_{name}_threshold"])
        assert v2(golds, applied)[name] == pytest.approx(max(scores))
        assert found[f"best_{name}"] > scores[0], "here it helps to answer"


@pytest.mark.parametrize("odds", [[-3.0, -2.0], [2.0, 3.0]])
def test_where_answering_helps_nothing_the_threshold_is_zero_as_the_official_scorer_says(odds):
    found = squad_v2([[], ["Seine"]], ["", ""], ["Paris", "Loire"], odds)
    assert (found["best_exact"], found["best_exact_threshold"]) == (1 / 2, 0.0)
    assert (found["best_f1"], found["best_f1_threshold"]) == (1 / 2, 0.0)


def test_the_first_of_equally_good_thresholds_counts():
    golds, candidates = [["Seine"], ["Paris"], ["Rome"], []], ["Seine", "Loire", "Rome", "Bonn"]
    # nothing answered: 1; then 2, 2, 3, and at the end 2; the fourth brings nothing new
    found = squad_v2(golds, [""] * 4, candidates, [-1.0, 0.5, 1.0, 2.0])
    assert (found["best_exact"], found["best_exact_threshold"]) == (3 / 4, 1.0)
    # here 2, 2, 1 and 2: the first 2 is kept
    found = squad_v2(golds, [""] * 4, candidates, [-1.0, 0.5, 2.0, 1.0])
    assert (found["best_exact"], found["best_exact_threshold"]) == (2 / 4, -1.0)


def test_of_equal_odds_a_part_may_be_answered_as_in_the_official_scorer():
    # no threshold tells these two apart; the official scorer takes them in their order and stops after the first
    found = squad_v2([["Seine"], []], ["", ""], ["Seine", "Paris"], [5.0, 5.0])
    assert (found["best_exact"], found["best_exact_threshold"]) == (1, 5.0)
    # ... and in the other order: 1, 0, 1
    found = squad_v2([[], ["Seine"]], ["", ""], ["Paris", "Seine"], [5.0, 5.0])
    assert (found["best_exact"], found["best_exact_threshold"]) == (1 / 2, 0.0)


def test_an_empty_candidate_costs_nothing_where_there_is_no_answer():
    found = squad_v2([[], ["Seine"]], ["", ""], ["", "Seine"], [0.0, 1.0])
    assert (found["best_exact"], found["best_exact_threshold"]) == (1, 1.0)
    # one that is empty only once normalised was an answer
    found = squad_v2([[], ["Seine"]], ["", ""], ["the", "Seine"], [0.0, 1.0])
    assert (found["best_exact"], found["best_exact_threshold"]) == (1 / 2, 0.0)


def test_only_odds_above_the_threshold_mean_no_answer():
    assert with_threshold(["x", "y", "z"], [0.5, 1.0, 1.5], 1.0) == ["x", "y", ""]


@pytest.mark.parametrize("seed", range(3))
def test_the_golds_themselves_score_one_and_the_order_changes_nothing(seed):
    golds, predicted, candidates, odds = drawn(seed)
    right = [answers[-1] if answers else "" for answers in golds]
    perfect = v2(golds, right)
    assert {value for name, value in perfect.items() if "threshold" not in name} == {1}
    order = np.random.default_rng(seed).permutation(len(golds))
    turned = ([values[i] for i in order] for values in ([answers[::-1] for answers in golds], predicted, candidates))
    assert squad_v2(*turned, odds[order]) == pytest.approx(squad_v2(golds, predicted, candidates, odds))


def test_everything_needs_as_many():
    with pytest.raises(ValueError, match="no questions"):
        squad([], [])
    with pytest.raises(ValueError, match="no questions"):
        squad_v2([], [], [], [])
    with pytest.raises(ValueError, match="2 questions, but 1 predictions"):
        squad([["a"], ["b"]], ["a"])
    for wrong in range(3):
        others = [["Seine", ""], ["Seine", "x"], [0.0, 1.0]]
        others[wrong] = others[wrong][:1]
        with pytest.raises(ValueError, match="2 questions, but 1 predictions"):
            squad_v2([["Seine"], []], *others)
    with pytest.raises(ValueError, match="no gold answer to compare 'Seine'"):
        squad([[]], ["Seine"])


def test_the_best_gold_is_taken_by_the_given_measure():
    assert spans.best_over_golds(token_f1, ["Seine", "Seine river"], "the river") == pytest.approx(2 / 3)
    assert spans.best_over_golds(exact_match, ["Seine", "Seine river"], "the river") == 0
