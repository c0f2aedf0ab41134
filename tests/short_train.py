"""train.py for the commands that the pages show: the command line as it is, and at its end what makes a run short.

In the folder of tests/newcomer.py this file stands in train.py's place, so the runs that the tools start are short too.
Data, tokenizer, rates and options are those of the command; steps, sizes and rows are these.
"""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deberta_jax import flags  # noqa: E402
from deberta_jax.errors import Refused  # noqa: E402

MODEL = {  # also of the model that tests/newcomer.py publishes
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 64,
    "position_buckets": 8,
    "max_relative_positions": 16,
}
SHORT = {
    **{f"model.{key}": value for key, value in MODEL.items()},
    "model.dtype": "float32",
    "model.attention": "reference",  # compiles fastest
    "rtd.generator.num_layers": 2,  # half of the discriminator's are too few for the decoder
    "batch_size": 8,
    "log_every": 1,
    "optimizer.warmup_steps": 2,
    "rtd.optimizer.warmup_steps": 2,
    "eval.every": 0,
    "eval.batch_size": 32,
    "checkpoint.every_steps": 0,
    "checkpoint.every_minutes": 0.0,
}
OF_PRETRAINING = {"steps": 4, "eval.max_rows": 8, "eval.samples": 2}
OF_A_TASK = {"epochs": 1.0, "data.max_length": 32, "data.buckets": (32,), "data.stride": 8, "data.max_query": 8}


def shortened(argv: list[str]) -> list[str]:
    """`argv` with overrides of the keys that its config has; as it is where it is refused, as train.py will say."""
    try:
        config = flags.load_config(argv).config
    except Refused:
        return argv
    values = SHORT | (OF_A_TASK if "epochs" in config else OF_PRETRAINING)
    known = {key: value for key, value in values.items() if has(config, key)}
    return [*argv, *(f"--config.{key}={value}" for key, value in known.items())]


def has(config, key: str) -> bool:
    name, _, rest = key.partition(".")
    return config is not None and name in config and (not rest or has(config[name], rest))


if __name__ == "__main__":
    sys.argv[1:] = shortened(sys.argv[1:])
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
