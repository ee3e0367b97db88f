"""What MoE-Adapters shows of itself to probes: routes are the routers of tasks."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from vlcl_toolkit.methods.introspection import Introspection, Routes, Watcher
from vlcl_toolkit.methods.moe_adapters.config import MoEAdaptersConfig
from vlcl_toolkit.methods.moe_adapters.experts import Place, Routing
from vlcl_toolkit.methods.moe_adapters.selector import AutoSelector
from vlcl_toolkit.methods.moe_adapters.towers import ExpertTowers
from vlcl_toolkit.streams.base import Task


class ExpertObservation(Introspection):
    """The probes' view of a method with experts and an auto-selector."""

    config: MoEAdaptersConfig
    towers: ExpertTowers
    selector: AutoSelector | None
    image_features: Callable[[Tensor, int], Tensor]
    compute_head: Callable[[Task, int], Tensor]
    decide_routes: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def routes(self, images: Float[Tensor, "n 3 h w"]) -> Routes | None:
        """By the errors of the autoencoders, as `predict` decides; None without a selector."""
        if self.selector is None:
            return None
        features = self.selector.features
        errors = self.selector.errors(features.finish(features.extract(images)))
        names = tuple(f"task {number + 1}" for number in range(self.selector.tasks))
        return Routes(
            names=names,
            chosen=self.decide_routes(errors),
            scores=errors.double(),
            score_names=("reference", *names) if self.config.selector_reference else names,
            thresholds=torch.tensor(self.selector.thresholds, dtype=torch.float64),
        )

    def route_image_features(
        self,
        images: Float[Tensor, "n 3 h w"],
        route: int,
        strength: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n dim"]:
        """By the router of task `route`."""
        return self.image_features(images, self._known(route))

    def route_class_features(
        self, task: Task, route: int, strengths: Float[Tensor, " sets"] | None = None
    ) -> Float[Tensor, "sets classes dim"]:
        """By the router of task `route`, computed anew."""
        return self.compute_head(task, self._known(route))[None]

    def _known(self, route: int) -> int:
        return min(route, self.towers.routers - 1)

    def logit_factor(self) -> float:
        """`eval_scale`, or the model's own."""
        scale = self.config.eval_scale
        return self.clip.logit_scale if scale is None else scale

    @contextlib.contextmanager
    def watch(self, watcher: Watcher) -> Iterator[None]:
        """Tells the gates of every block; prompts that choose alike show one row."""

        def observe(place: Place, routing: Routing) -> None:
            watcher.experts(place.tower, place.layer, routing.gates())

        self.towers.mode.observer = observe
        try:
            yield
        finally:
            self.towers.mode.observer = None

    def added_parameters(self) -> dict[str, Tensor]:
        """Experts and routers."""
        parameters = self.towers.named().items()
        return {name: value.detach() for name, value in parameters if value.is_floating_point()}

    def expert_of(self, name: str) -> int | None:
        """The number in its name."""
        _, found, rest = name.partition(".adaptmlp_list.")
        return int(rest.split(".", 1)[0]) if found else None
