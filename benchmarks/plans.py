"""Plans of published sizes on two slices, without a TPU: the table of docs/pods_plan.md.

python -m benchmarks.plans [--only=v3_large_mlm_v5e,...]

Each plan is a call of tools.plan (requirements-libtpu.txt) that leaves benchmarks/results/plan_NAME.json; what is there
is not made again, so delete what should be. Ends with the table of all that are there. All of it is modelled: see the
assumptions that tools.plan prints.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from deberta_jax import errors
from deberta_jax.flags import Arguments

RESULTS = Path(__file__).parent / "results"
SLICES = {"v5e": ("v5e:16x16", 256), "v5p": ("v5p:4x4x4", 64)}  # topology, chips


class Case(NamedTuple):
    """A run to plan. `rows` on a chip is where the search starts."""

    size: str
    objective: str  # the config file
    chip: str
    rules: str
    rows: int
    remat: str = "dots"

    @property
    def name(self) -> str:
        return f"{self.size}_{self.objective}_{self.chip}"

    @property
    def flags(self) -> list[str]:
        topology, chips = SLICES[self.chip]
        split = 1 if self.rules == "dp" else 16
        return [
            f"--config=configs/{self.objective}.py:{self.size},{self.rules}",
            f"--topology={topology}",
            f"--config.mesh=(('data',-1),('fsdp',{split}),('tensor',1))",
            f"--config.model.remat={self.remat}",
            f"--config.batch_size={self.rows * chips}",
        ]


CASES = [
    Case("v3_large", "mlm", "v5e", "dp", 32),
    Case("v3_large", "rtd", "v5e", "fsdp", 56),
    Case("v3_base", "mlm", "v5e", "dp", 96),
    Case("v2_xxlarge", "mlm", "v5e", "fsdp", 16),
    Case("v3_large", "mlm", "v5p", "dp", 304),
    Case("v3_large", "rtd", "v5p", "dp", 304),
    Case("v3_base", "mlm", "v5p", "dp", 640),
    Case("v2_xxlarge", "mlm", "v5p", "fsdp", 128),
]


def main(argv: list[str]) -> None:
    parser = Arguments(prog="python -m benchmarks.plans", description=__doc__)
    parser.add_argument("--only", default=",".join(case.name for case in CASES), help="names, separated by commas")
    wanted = parser.parse_args(argv).only.split(",")
    for name in set(wanted) - {case.name for case in CASES}:
        raise errors.Refused(f"--only: no plan {name!r}{errors.nearest(name, [case.name for case in CASES])}")
    for case in CASES:
        if case.name in wanted and not path_of(case).exists():
            make(case)
    print(
        report.table([row_of(case, json.loads(path_of(case).read_text())) for case in CASES if path_of(case).exists()])
    )


def path_of(case: Case) -> Path:
    return RESULTS / f"plan_{case.name}.json"


def make(case: Case) -> None:
    """Runs tools.plan; that the batch it starts from does not fit is no failure."""
    command = [sys.executable, "-m", "deberta_jax.tools.plan", *case.flags, f"--json={os.path.relpath(path_of(case))}"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, errors.DoesNotFit.exit_code):
        raise errors.Failed(f"the plan {case.name} ended with {done.returncode}")


def row_of(case: Case, plan: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: the largest batch that fits."""
    point = plan["largest"]
    sent = [f"{kind} {total['count']}: {total['bytes'] / 1e9:.2f}" for kind, total in point["collectives"].items()]
    times = {name: 1e3 * seconds for name, seconds in point["seconds_of"].items()}
    return {
        "run": f"{case.size} {case.objective.upper()}",
        "slice": plan["topology"]["name"],
        "rules, remat": f"{case.rules}, {case.remat}",
        "rows a chip": f"{point['rows']} ({plan['search']['too_many']} do not fit)",
        "state GiB": sum(plan["state"].values()) / 2**30,
        "all GiB": f"{point['bytes'] / 2**30:.1f} of {plan['topology']['room'] / 2**30:.1f}",
        "collectives, GB": ", ".join(sent),
        "messages ms": f"{times['waiting']:.0f} + {times['hidden']:.0f} hidden",
        "step ms": 1e3 * point["step_seconds"],
        "tokens/s": point["tokens_per_second"],
        "MFU %": 100 * point["mfu"],
    }


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
