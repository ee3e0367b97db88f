"""Introspection hooks of DIKI and prefix tuning: routes are the prompts of tasks."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlcl_toolkit.methods.diki.prompts import residual_branch
from vlcl_toolkit.methods.introspection import Introspection, Routes, Watcher
from vlcl_toolkit.streams.base import Task

if TYPE_CHECKING:
    from vlcl_toolkit.methods.diki.diki import Diki

PromptAttention = Callable[..., Tensor]
"""`f(attention, plain, query, prompts, weights, mask)`, arguments as of `Attend`: one number per
sequence, the mean over its tokens."""


def residual_prompt_attention(
    attention: nn.MultiheadAttention,
    plain: Callable[[], Float[Tensor, "n length width"]],
    query: Float[Tensor, "n length width"],
    prompts: Float[Tensor, "2 prompts width"],
    weights: Float[Tensor, " n"] | None,
    mask: Float[Tensor, "length length"] | None,
) -> Float[Tensor, " n"]:
    """DIKI: length of the branch's output over length of CLIP's own attention output, >= 0.

    0 means that nothing was added. CLIP's own attention is whole at any value.
    """
    branch = residual_branch(attention, query, prompts, weights)
    return (branch.norm(dim=-1) / plain().norm(dim=-1)).mean(dim=1).float()


class PromptIntrospection(Introspection):
    """Of a method with a prompt pool."""

    method: "Diki"

    def __init__(self, method: "Diki", prompt_attention: PromptAttention):
        super().__init__(method)
        self.prompt_attention = prompt_attention

    @torch.no_grad()
    def routes(self, images: Float[Tensor, "n 3 h w"]) -> Routes:
        """By the Gaussians over frozen features, as `predict` decides."""
        log_probs = self.method.gaussians.log_probs(self.clip.encode_image(images))
        decision = self.method.decide(log_probs)
        names = tuple(f"task {number + 1}" for number in range(len(self.method.pool)))
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
        return len(self.method.pool) - 1

    def route_image_features(
        self,
        images: Float[Tensor, "n 3 h w"],
        route: int,
        strength: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n dim"]:
        """With the prompts of task `route`."""
        return self.method.towers.image_features(images, route, strength)

    def route_class_features(
        self, task: Task, route: int, strengths: Float[Tensor, " sets"] | None = None
    ) -> Float[Tensor, "sets classes dim"]:
        """With the prompts of task `route`; one set if no strength changes the texts."""
        if strengths is not None and self.method.text_is_plain(route):
            strengths = strengths[:1]
        return self.method.towers.text_features(task, route, strengths)

    @contextlib.contextmanager
    def watch(self, watcher: Watcher) -> Iterator[None]:
        """Calls `watcher.prompts` for every attention with prompts."""

        def listen(name: str, *arguments: object) -> None:
            tower = "image" if name.startswith("visual.") else "text"
            watcher.prompts(tower, int(name.rsplit(".", 1)[1]), self.prompt_attention(*arguments))

        self.method.pool.listener = listen
        try:
            yield
        finally:
            self.method.pool.listener = None

    def added_parameters(self) -> dict[str, Tensor]:
        """The prompts of all tasks."""
        return self.method.pool.state_dict()
