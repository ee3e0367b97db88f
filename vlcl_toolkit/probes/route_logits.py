"""Logits of the probe images of a domain under every route that the method has."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.methods import Method
from vlcl_toolkit.methods.introspection import FROZEN, Routes
from vlcl_toolkit.probes.files import Arrays
from vlcl_toolkit.streams.base import Task


@dataclass(frozen=True)
class Before:
    """What is known already.

    Attributes:
        frozen_logits, frozen_features: `[n, C]` and `[n, D]` of stage 0.
        keeps: images whose route and strengths are those of the stage before, bool `[n]`.
        settled: the first routes, whose weights are those of the stage before.
        route_logits, swapped: of the stage before, where anything of it is kept.
    """

    frozen_logits: np.ndarray
    frozen_features: np.ndarray
    keeps: np.ndarray
    settled: int = 0
    route_logits: np.ndarray | None = None
    swapped: np.ndarray | None = None

    @classmethod
    def of(
        cls, name: str, now: Arrays, frozen: Arrays, previous: Arrays | None, settled: int
    ) -> "Before":
        """For the domain `name`, from the arrays of the stages (files.py)."""
        logits, features = frozen[f"logits/{name}"], frozen[f"image_features/{name}"]
        if not settled or previous is None or f"route_logits/{name}" not in previous:
            return cls(logits, features, np.zeros(len(logits), bool))
        keeps = np.ones(len(logits), bool)
        for kind in ("route", "route_strength", "text_strength"):
            keeps &= now[f"{kind}/{name}"] == previous[f"{kind}/{name}"]
        kept = (f"route_logits/{name}", f"frozen_image_logits/{name}")
        return cls(logits, features, keeps, settled, *(previous[key] for key in kept))


def route_logits(
    method: Method,
    task: Task,
    images: Float[Tensor, "n 3 h w"],
    features: Float[Tensor, "n dim"],
    routes: Routes,
    before: Before,
    *,
    all_routes: bool,
) -> dict[str, np.ndarray]:
    """Arrays "logits", "frozen_image_logits" and, if asked for, "route_logits" of a domain.

    Args:
        features: of every image by its own route.
        all_routes: not only the route that an image takes.
    """
    chosen, learned = routes.chosen.cpu().numpy(), len(routes.names)
    logits = np.full((len(images), learned + 1, len(task.class_names)), np.nan, dtype=np.float32)
    logits[:, learned] = before.frozen_logits
    swapped = np.full_like(logits[:, 0], np.nan)
    for number in [FROZEN, *range(learned)]:
        own = chosen == number
        due = own.copy()
        if number != FROZEN and all_routes:
            due[:] = True
        if 0 <= number < before.settled:
            assert before.route_logits is not None
            assert before.swapped is not None
            kept = due & before.keeps
            logits[kept, number] = before.route_logits[kept, number]
            swapped[kept & own] = before.swapped[kept & own]
            due &= ~before.keeps
        if due.any():
            rows = torch.from_numpy(due.nonzero()[0])
            with_own = torch.from_numpy(own[due])
            seen = _features_by(method, images, features, routes, number, rows, with_own)
            texts = _texts_by(method, task, routes, number, rows)
            scaled = method.introspection().logit_scale * texts
            logits[due, number] = _cosines(seen, scaled)
            frozen = torch.from_numpy(before.frozen_features[due]).to(seen.device)
            swapped[due & own] = _cosines(frozen, scaled)[own[due]]
    taken = np.where(chosen == FROZEN, learned, chosen)
    found = {
        f"logits/{task.name}": logits[np.arange(len(images)), taken],
        f"frozen_image_logits/{task.name}": swapped,
    }
    return found | ({f"route_logits/{task.name}": logits} if all_routes else {})


def pick(values: Tensor | None, rows: Tensor) -> Tensor | None:
    """The entries at `rows`, if there are any values."""
    return None if values is None else values[rows]


def _features_by(
    method: Method,
    images: Tensor,
    features: Tensor,
    routes: Routes,
    number: int,
    rows: Int64[Tensor, " m"],
    with_own: Tensor,
) -> Float[Tensor, "m dim"]:
    # those that take the route are known; the others go through it now
    seen = features[rows].clone()
    others = (~with_own).nonzero()[:, 0]
    for few in others.split(method.eval_batch_size) if len(others) else ():
        strength = pick(routes.image_strength, rows[few])
        seen[few] = method.introspection().route_image_features(images[rows[few]], number, strength)
    return seen


def _texts_by(
    method: Method, task: Task, routes: Routes, number: int, rows: Int64[Tensor, " m"]
) -> Float[Tensor, "m classes dim"]:
    # one set of class features for each image, the same one where strengths agree
    introspection = method.introspection()
    if routes.text_strength is None:
        return introspection.route_class_features(task, number).expand(len(rows), -1, -1)
    strengths, which = routes.text_strength[rows].unique(return_inverse=True)
    sets = introspection.route_class_features(task, number, strengths)
    return sets.expand(len(rows), -1, -1) if len(sets) == 1 else sets[which]


def _cosines(features: Tensor, texts: Tensor) -> np.ndarray:
    return torch.einsum("nd,ncd->nc", features, texts).float().cpu().numpy()
