"""DeBERTa in JAX and Flax. Importing this starts no device, reads no file and takes no time: names load when used."""

import importlib

_HOMES = {
    "load_tokenizer": "deberta_jax.tokenizers",
    "load_pretrained": "deberta_jax.convert.load",
    "load_with_report": "deberta_jax.convert.load",
    "save_pretrained": "deberta_jax.convert.save",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
