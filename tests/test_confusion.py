import matplotlib.image
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from deberta_jax.reports import confusion

LABELS = ["entailment", "neutral", "contradiction"]
GOLD = ["entailment"] * 4 + ["neutral"] * 2
SAID = ["entailment", "entailment", "entailment", "neutral", "contradiction", "neutral"]
COUNTS = [[3, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_counts_by_hand_and_in_the_order_of_the_labels():
    np.testing.assert_array_equal(confusion.confusion(GOLD, SAID, LABELS), COUNTS)
    np.testing.assert_array_equal(confusion.confusion(GOLD, SAID, LABELS[::-1]), np.array(COUNTS)[::-1, ::-1])


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_scikit_learn(seed):
    gold, said = np.random.default_rng(seed).choice(LABELS, (2, 200)).tolist()
    expected = confusion_matrix(gold, said, labels=LABELS)
    np.testing.assert_array_equal(confusion.confusion(gold, said, LABELS), expected)


def test_unknown_labels_and_unequal_lengths_are_errors():
    with pytest.raises(ValueError, match="'maybe' is none of the labels entailment, neutral, contradiction"):
        confusion.confusion(["neutral"], ["maybe"], LABELS)
    with pytest.raises(ValueError, match="'maybe'"):
        confusion.confusion(["maybe"], ["neutral"], LABELS)
    with pytest.raises(ValueError):
        confusion.confusion(["neutral", "neutral"], ["neutral"], LABELS)


def test_each_cell_says_its_count_and_its_share_of_the_gold_label():
    axes = confusion.draw_confusion(np.array(COUNTS), LABELS, "MNLI").axes[0]
    said = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row)
    assert said == {
        (0, 0): "3\n0.750",
        (1, 0): "1\n0.250",
        (2, 0): "0\n0.000",
        (0, 1): "0\n0.000",
        (1, 1): "1\n0.500",
        (2, 1): "1\n0.500",
        (0, 2): "0",
        (1, 2): "0",
        (2, 2): "0",
    }


def test_cells_are_as_dark_as_their_share_and_numbers_can_be_read():
    axes = confusion.draw_confusion(np.array(COUNTS), LABELS, "MNLI").axes[0]
    (image,) = axes.images
    np.testing.assert_allclose(image.get_array(), [[0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 0]])
    assert image.get_clim() == (0, 1)
    for text in axes.texts:
        column, row = text.get_position()
        shade = image.cmap(image.norm(image.get_array()[row, column]))[:3]
        assert abs(np.mean(shade) - (1 if text.get_color() == "white" else 0)) > 0.4


def test_labels_are_named_on_both_axes():
    axes = confusion.draw_confusion(np.array(COUNTS), LABELS, "MNLI").axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == LABELS
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("predicted", "gold", "MNLI")


def test_the_picture_grows_with_the_labels():
    few, many = (confusion.draw_confusion(np.eye(count), "x" * count, "").get_size_inches() for count in (3, 20))
    assert (many > 2 * few).all()


def test_the_picture_shows_the_cells(tmp_path):
    confusion.plot_confusion(GOLD, SAID, LABELS, tmp_path / "three.png", "three")
    three = matplotlib.image.imread(tmp_path / "three.png")[..., :3]
    dark = (three.max(-1) > 0.3) & (three[..., 2] > three[..., 0] + 0.3)  # a cell of 3 in 4 is blue
    assert dark.sum() > 5000
