"""The scores of ReCoRD (Zhang et al. 2018): of the entity that is put into the gap of each query."""

from collections.abc import Sequence

from deberta_jax.scores import spans


def record(golds: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """{"f1", "em"}, the best over the gold answers of each query, by the rules of SQuAD v1.1 as the official scorer's.

    Raises ValueError where there are no queries, not as many predictions, or a query without a gold answer.
    """
    scores = spans.squad(golds, predicted)
    return {"f1": scores["f1"], "em": scores["exact"]}
