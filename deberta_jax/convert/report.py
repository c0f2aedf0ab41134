"""What loading found: tensors that no parameter wanted, and parameters that no tensor filled."""

import dataclasses
import fnmatch
import glob
from collections.abc import Iterable, Sequence

from deberta_jax.errors import Refused

HEAD_PREFIXES = ("lm_predictions.", "cls.", "mask_predictions.", "pooler.", "classifier.", "qa_outputs.")


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of loading one directory."""

    source: str
    head: str
    tensors: int  # read
    dtypes: tuple[str, ...]  # of the file
    decoder: str  # head mlm: which one was chosen and why
    missing: tuple[str, ...]  # tensors that the model needs and the file lacks
    unused: tuple[str, ...]  # tensors of the file that the model has no use for
    new: tuple[str, ...]  # parameters, or rows of them, that were initialised afresh

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.tensors} tensors ({', '.join(self.dtypes)}) for head {self.head!r}"]
        lines += [f"  decoder {self.decoder}"] if self.head == "mlm" else []
        for title in ("missing", "unused", "new"):
            names = getattr(self, title)
            lines += [f"  {title} ({len(names)}): {', '.join(names)}"] if names else []
        return "\n".join(lines)


def check_allowed(source: str, missing: Sequence[str], unused: Sequence[str], allow: Sequence[str]) -> None:
    """Raises Refused, naming every tensor that is missing or unused and matches none of the patterns `allow`.

    A pattern that matches nothing is refused too, it was meant for something; but a whole head may be absent, so that
    one script reads checkpoints that do and do not have it.
    """
    named = (*missing, *unused)
    for pattern in allow:
        if not fnmatch.filter(named, pattern) and not pattern.startswith(HEAD_PREFIXES):
            raise Refused(f"{source}: allow={pattern!r} matches no missing or unused tensor")
    faults = []
    for title, names in (("missing", missing), ("unused", unused)):
        rest = [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)]
        faults += [f"{title}: {', '.join(rest)}"] if rest else []
    if faults:
        rest = [name for name in named if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)]
        hint = ", ".join(repr(pattern) for pattern in sorted({*allow, *_patterns(rest)}))
        raise Refused(f"{source}: {'; '.join(faults)}. If that is meant: allow=({hint},)")


def _patterns(names: Iterable[str]) -> Iterable[str]:
    """Short patterns for what usually goes together: a whole head, one encoder tensor."""
    for name in names:
        first, dot, _ = name.partition(".")
        whole = not dot or first in ("deberta", "bert", "embeddings", "encoder")
        yield glob.escape(name) if whole else glob.escape(first) + ".*"
