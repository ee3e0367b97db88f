"""Introspection hooks that a method offers to the probe recorder; none of them changes a prediction.

An image takes a route through the network: the router or the prompts of a task, or the frozen
network. A method with a single route (fine-tuning, say) keeps all the defaults.
"""

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vlcl_toolkit.streams.base import Task

if TYPE_CHECKING:
    from vlcl_toolkit.methods.base import Method


FROZEN = -1


@dataclass(frozen=True)
class Routes:
    """The routes of a batch of images.

    Attributes:
        names: of the routes learned so far; FROZEN is none of them.
        chosen: of each image, an index into `names` or FROZEN.
        scores: what decided, one column per entry of `score_names`.
        thresholds: per column, what a score must not exceed; None: there are none.
        image_strength, text_strength: calibration weight of each image in both towers; None: 1.
    """

    names: tuple[str, ...]
    chosen: Int64[Tensor, " n"]
    scores: Float64[Tensor, "n scores"]
    score_names: tuple[str, ...]
    thresholds: Float64[Tensor, " scores"] | None = None
    image_strength: Float[Tensor, " n"] | None = None
    text_strength: Float[Tensor, " n"] | None = None


@runtime_checkable
class Watcher(Protocol):
    """Is called from inside the blocks; rows are the inputs of the tower that runs."""

    def prompts(self, tower: str, block: int, attention: Float[Tensor, " rows"]) -> None:
        """Attention that prompts get, or add, in block `block` (from 0)."""

    def experts(self, tower: str, block: int, gates: Float[Tensor, "rows experts"]) -> None:
        """The weight of every expert, 0 where it was not chosen."""


class Introspection:
    """What probes ask an attached method; tested to agree with its `predict`."""

    method: Any

    def __init__(self, method: "Method"):
        self.method, self.clip = method, method.clip

    def routes(self, images: Float[Tensor, "n 3 h w"]) -> Routes | None:
        """Which routes a test batch takes; None: there is a single one."""
        return None

    def settled_routes(self) -> int:
        """How many routes, from the first, are those of the stage before."""
        return 0

    def route_image_features(
        self,
        images: Float[Tensor, "n 3 h w"],
        route: int,
        strength: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n dim"]:
        """Unit-norm image features by a route."""
        return self.clip.encode_image(images)

    def route_class_features(
        self, task: Task, route: int, strengths: Float[Tensor, " sets"] | None = None
    ) -> Float[Tensor, "sets classes dim"]:
        """Unit-norm class features by a route, as at test time: one set per strength, or one for all."""
        return self.clip.class_features(task.class_names, task.templates)[None]

    @property
    def logit_scale(self) -> float:
        """Logits per cosine of methods with routes."""
        return self.clip.logit_scale

    def watch(self, watcher: Watcher) -> contextlib.AbstractContextManager:
        """Context in which forward passes call `watcher`."""
        return contextlib.nullcontext()

    def added_parameters(self) -> dict[str, Tensor]:
        """What the method added to the backbone's weights; names hold "resblocks.<block>"."""
        return {}

    def expert_of(self, name: str) -> int | None:
        """Number of the expert that an added parameter belongs to; None: to no expert."""
        return None
