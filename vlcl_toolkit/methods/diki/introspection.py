"""What DIKI and prefix tuning show of themselves to probes: routes are the prompts of tasks."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vlcl_toolkit.methods.diki.gaussians import Decision, TaskGaussians
from vlcl_toolkit.methods.diki.prompts import PromptPool, Share
from vlcl_toolkit.methods.diki.towers import PromptedTowers
from vlcl_toolkit.methods.introspection import Introspection, Routes, Watcher
from vlcl_toolkit.streams.base import Task


class PromptObservation(Introspection):
    """The probes' view of a method with a prompt pool."""

    share: Share
    pool: PromptPool
    towers: PromptedTowers
    gaussians: TaskGaussians
    decide: Callable[[Float64[Tensor, "b tasks"]], Decision]
    text_is_plain: Callable[[int], bool]

    @torch.no_grad()
    def routes(self, images: Float[Tensor, "n 3 h w"]) -> Routes:
        """By the Gaussians over frozen features, as `predict` decides."""
        log_probs = self.gaussians.log_probs(self.clip.encode_image(images))
        decision = self.decide(log_probs)
        names = tuple(f"task {number + 1}" for number in range(len(self.pool)))
        return Routes(
            names=names,
            chosen=decision.task,
            scores=log_probs,
            score_names=names,
            image_strength=decision.image_weight,
            text_strength=decision.text_weight,
        )

    def settled_routes(self) -> int:
        """Prompts are trained in their own task alone."""
        return len(self.pool) - 1

    def route_image_features(
        self,
        images: Float[Tensor, "n 3 h w"],
        route: int,
        strength: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n dim"]:
        """With the prompts of task `route`."""
        return self.towers.image_features(images, route, strength)

    def route_class_features(
        self, task: Task, route: int, strengths: Float[Tensor, " sets"] | None = None
    ) -> Float[Tensor, "sets classes dim"]:
        """With the prompts of task `route`; one set if no strength changes the texts."""
        if strengths is not None and self.text_is_plain(route):
            strengths = strengths[:1]
        return self.towers.text_features(task, route, strengths)

    @contextlib.contextmanager
    def watch(self, watcher: Watcher) -> Iterator[None]:
        """Tells the prompts' share at every place."""

        def listen(name: str, *arguments: object) -> None:
            tower = "image" if name.startswith("visual.") else "text"
            watcher.prompts(tower, int(name.rsplit(".", 1)[1]), self.share(*arguments))

        self.pool.listener = listen
        try:
            yield
        finally:
            self.pool.listener = None

    def added_parameters(self) -> dict[str, Tensor]:
        """The prompts of all tasks."""
        return self.pool.state_dict()
