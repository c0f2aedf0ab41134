"""What is trained. An objective turns a model config into init, loss and evaluation sums."""

from deberta_jax.objectives.base import Objective
from deberta_jax.objectives.mlm import masked_language_model

OBJECTIVES = {"mlm": masked_language_model}

__all__ = ["OBJECTIVES", "Objective"]
