"""What tasks are made of: the examples of each kind, and what is predicted for one."""

from typing import NamedTuple

KINDS = ("classification", "regression", "multiple_choice", "tagging", "span")


class Text(NamedTuple):
    """Of "classification" and "regression": one sequence of one or more segments and its label.

    Where several texts make up what is scored (the answers to a question of MultiRC, the candidates for a gap of
    ReCoRD), they share a `group`.
    """

    id: str  # names the example in predictions and submissions; unique in its split
    segments: tuple[str, ...]  # read as [CLS] first [SEP] second [SEP] ...
    label: str | float | None  # None where it is hidden
    group: str = ""  # of MultiRC and ReCoRD the question; of MNLI the genre, of XNLI the language
    candidate: str = ""  # of ReCoRD: what this text puts into the gap
    golds: tuple[str, ...] = ()  # of ReCoRD: the right answers to the group


class Choice(NamedTuple):
    """Of "multiple_choice": one sequence for each option."""

    id: str
    options: tuple[tuple[str, ...], ...]  # the segments of each
    label: int | None  # number of the right option, from 0


class Sentence(NamedTuple):
    """Of "tagging"."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None  # one for each word, IOB2 where they mark entities


class Answer(NamedTuple):
    """A gold answer: context[start : start + len(text)] == text, or start is -1 where the file's start is wrong."""

    text: str
    start: int


class Question(NamedTuple):
    """Of "span": the answer is a stretch of the context, or there is none."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]  # () where there is none, or where they are hidden
    impossible: bool | None  # None where it is hidden


Example = Text | Choice | Sentence | Question


class Prediction(NamedTuple):
    """What a model says about one example."""

    value: str | float | int | tuple[str, ...]  # label, number, option, tags, or answer ("" = none)
    probabilities: tuple[float, ...] = ()  # of the labels or options, in order
    best: tuple[tuple[str, float], ...] = ()  # of "span": the best answers (text, probability), none of them empty
    null_odds: float = 0.0  # of "span": score of no answer less that of the best answer
