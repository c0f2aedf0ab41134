"""What is trained. An objective turns a config into init, losses and evaluation sums."""

from deberta_jax.objectives.base import Lexicon, Objective
from deberta_jax.objectives.mlm import masked_language_model
from deberta_jax.objectives.rtd import replaced_token_detection
from deberta_jax.objectives.tasks import HEADS, task_objective

OBJECTIVES = {"mlm": masked_language_model, "rtd": replaced_token_detection} | dict.fromkeys(HEADS, task_objective)

__all__ = ["OBJECTIVES", "Lexicon", "Objective"]
