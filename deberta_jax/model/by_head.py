"""The models by the name of their head: what weights are read into and tasks are trained with."""

from flax import linen as nn

from deberta_jax.config import HeadConfig, ModelConfig
from deberta_jax.errors import Refused
from deberta_jax.model.encoder import Encoder
from deberta_jax.model.heads import MultipleChoice, QuestionAnswering, SequenceClassifier, TokenClassifier
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.replaced_token import ReplacedTokenDetector

MODELS: dict[str, type[nn.Module]] = {
    "encoder": Encoder,
    "mlm": MaskedLM,
    "rtd": ReplacedTokenDetector,
    "sequence_classification": SequenceClassifier,
    "token_classification": TokenClassifier,
    "question_answering": QuestionAnswering,
    "multiple_choice": MultipleChoice,
}
WITH_LABELS = ("sequence_classification", "token_classification", "multiple_choice")


def build_model(head: str, cfg: ModelConfig, head_cfg: HeadConfig | None, origin: str = "") -> nn.Module:
    """The model with a named head; `head_cfg` for those WITH_LABELS."""
    if head in WITH_LABELS:
        return MODELS[head](cfg, head_cfg, origin=origin)
    return MODELS[head](cfg, origin=origin)


def head_of(model: nn.Module) -> tuple[str, HeadConfig | None]:
    """(the name of a model's head, its configuration if it has one). Raises Refused for other modules."""
    for name, kind in MODELS.items():
        if type(model) is kind:
            return name, model.head if name in WITH_LABELS else None
    raise Refused(f"a {type(model).__name__} cannot be written; {', '.join(k.__name__ for k in MODELS.values())} can")


def outputs_of(head_cfg: HeadConfig | None) -> int:
    """How many logits the head has for each item; 0 where its kind decides that."""
    return len(head_cfg.labels) if head_cfg else 0
