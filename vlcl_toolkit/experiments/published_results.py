"""The published results of `data/published_results.json`, their sources, and whether somebody looked them up there."""

import json
import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import data_path
from vlcl_toolkit.streams.splits import facts

if TYPE_CHECKING:
    import pandas as pd

SCORES = ("transfer", "average", "last")


@dataclass(frozen=True, eq=False)
class Published:
    """One published result, percent.

    Attributes:
        protocol, method: the two parts of a recipe's name.
        source: where the numbers stand. `verified`: read in the paper, or read or recomputed from
            a repository, of the method's authors; False: quoted by others, as the source says.
        scores: "transfer", "average", "last"; nan where not published.
        label_space: see `streams/label_space.py`. `split`: "zscl", "coop", "unclear"; None: the benchmark has one.
        stages: class-incremental, accuracy over the classes seen so far after each task.
        cost: "gpu_hours", "peak_gpu_gb", "trained_parameters", "source"; empty where not published.
    """

    id: str
    protocol: str
    method: str
    source: str
    verified: bool
    label_space: str
    split: str | None
    scores: dict[str, float]
    matrix: list[list[float]] | None = None
    zero_shot: dict[str, float] | None = None
    stages: list[float] | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def order(self) -> list[str]:
        """The data sets of MTIL in this result's order."""
        return list(facts("mtil")["orders"][self.protocol.removeprefix("mtil-order-")])

    @property
    def accuracy(self) -> "pd.DataFrame":
        """`[T+1, T]`, as of a `RunResult`; its first row is the published zero-shot accuracy.

        Raises:
            UserError: no matrix was published.
        """
        import pandas as pd

        from vlcl_toolkit.training.results import row_names

        if self.matrix is None:
            raise UserError(f"{self.id} has no accuracy matrix; its scores are all that there is")
        names = self.order
        frozen = next(e.zero_shot for e in published_for(self.protocol, "zero_shot"))
        first = [(frozen or {}).get(name, math.nan) for name in names]
        return pd.DataFrame([first, *self.matrix], row_names(names), names, dtype=float)


@lru_cache(maxsize=1)
def published_results() -> tuple[Published, ...]:
    """Everything in `data/published_results.json`."""
    path = data_path("published_results.json")
    entries = json.loads(path.read_text(encoding="utf-8"))["entries"]
    for entry in entries:
        scores = entry["scores"].items()
        entry["scores"] = {name: math.nan if value is None else value for name, value in scores}
    return tuple(Published(**entry) for entry in entries)


def published_for(protocol: str, method: str) -> list[Published]:
    """The published results of a recipe, those with most detail and verified first."""
    fitting = [p for p in published_results() if (p.protocol, p.method) == (protocol, method)]
    return sorted(fitting, key=lambda p: (not (p.matrix or p.stages), not p.verified))
