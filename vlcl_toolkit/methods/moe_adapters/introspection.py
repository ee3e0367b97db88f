"""Introspection hooks of MoE-Adapters: routes are the routers of tasks."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from vlcl_toolkit.methods.introspection import Introspection, Routes, Watcher
from vlcl_toolkit.methods.moe_adapters.experts import Place, Routing
from vlcl_toolkit.streams.base import Task

if TYPE_CHECKING:
    from vlcl_toolkit.methods.moe_adapters.moe_adapters import MoEAdapters


class ExpertIntrospection(Introspection):
    """Of a method with experts and an auto-selector."""

    method: "MoEAdapters"

    @torch.no_grad()
    def routes(self, images: Float[Tensor, "n 3 h w"]) -> Routes | None:
        """By the errors of the autoencoders, as `predict` decides; None without a selector."""
        selector = self.method.selector
        if selector is None:
            return None
        errors = selector.errors(selector.features.finish(selector.features.extract(images)))
        names = tuple(f"task {number + 1}" for number in range(selector.tasks))
        return Routes(
            names=names,
            chosen=self.method.decide_routes(errors),
            scores=errors.double(),
            score_names=("reference", *names) if self.method.config.selector_reference else names,
            thresholds=torch.tensor(selector.thresholds, dtype=torch.float64),
        )

    def route_image_features(
        self,
        images: Float[Tensor, "n 3 h w"],
        route: int,
        strength: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n dim"]:
        """By the router of task `route`."""
        return self.method.image_features(images, self._known(route))

    def route_class_features(
        self, task: Task, route: int, strengths: Float[Tensor, " sets"] | None = None
    ) -> Float[Tensor, "sets classes dim"]:
        """By the router of task `route`; computed for every call."""
        return self.method.compute_head(task, self._known(route))[None]

    def _known(self, route: int) -> int:
        return min(route, self.method.towers.routers - 1)

    @property
    def logit_scale(self) -> float:
        """`eval_scale`, or the model's own."""
        return self.method.logit_scale

    @contextlib.contextmanager
    def watch(self, watcher: Watcher) -> Iterator[None]:
        """Calls `watcher.experts` for every block; prompts that choose alike are one row."""

        def observe(place: Place, routing: Routing) -> None:
            watcher.experts(place.tower, place.layer, routing.gates())

        self.method.towers.mode.observer = observe
        try:
            yield
        finally:
            self.method.towers.mode.observer = None

    def added_parameters(self) -> dict[str, Tensor]:
        """Experts and routers."""
        parameters = self.method.towers.named().items()
        return {name: value.detach() for name, value in parameters if value.is_floating_point()}

    def expert_of(self, name: str) -> int | None:
        """The number in its name."""
        _, found, rest = name.partition(".adaptmlp_list.")
        return int(rest.split(".", 1)[0]) if found else None
