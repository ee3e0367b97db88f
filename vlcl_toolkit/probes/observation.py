"""What one domain looks like to a method at one stage: one forward pass per image and route.

1. The method says which route every image takes (methods/introspection.py).
2. Images go through their own routes while taps collect activations and watchers record prompts
   and experts; then through all other routes, for logits alone.
3. Class prompts go through the route that most images take, with taps and watchers, and through
   all routes for logits. Where the strength of prompts differs from image to image, so do the texts.
4. An image whose route, strength and prompts are those of the stage before keeps its logits; they
   are read from that stage's file, so that a resumed run keeps the same ones.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlcl_toolkit.methods import Method
from vlcl_toolkit.methods.introspection import FROZEN, Routes
from vlcl_toolkit.probes.activations import Tap
from vlcl_toolkit.probes.files import Arrays
from vlcl_toolkit.probes.route_logits import Before, pick, route_logits
from vlcl_toolkit.streams.base import ImageData, Task, load_batch


@dataclass
class Tally:
    """A `Watcher` that adds up what it is told.

    Attributes:
        attention: of prompts, sum over rows and number of rows, by tower and block.
        choices, gates: per expert, by tower and block.
        weight: what a row of texts counts for (images that take the route).
    """

    attention: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    choices: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    gates: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    weight: int = 1

    def prompts(self, tower: str, block: int, attention: Float[Tensor, " rows"]) -> None:
        """Add attention to prompts."""
        total, count = self.attention.get((tower, block), (0.0, 0))
        self.attention[tower, block] = (total + float(attention.sum()), count + len(attention))

    def experts(self, tower: str, block: int, gates: Float[Tensor, "rows experts"]) -> None:
        """Add gates; texts count once for every image that is compared with them."""
        rows = gates.double().cpu().numpy()
        if tower == "text":
            rows = rows.mean(axis=0, keepdims=True).repeat(self.weight, axis=0)
        key = (tower, block)
        self.choices[key] = self.choices.get(key, 0) + (rows > 0).sum(axis=0)
        self.gates[key] = self.gates.get(key, 0.0) + rows.sum(axis=0)

    def arrays(self, domain: str, blocks: dict[str, int]) -> dict[str, np.ndarray]:
        """As in files.py."""
        found = {}
        for tower, count in blocks.items():
            means = np.full(count, np.nan, dtype=np.float32)
            for block in range(count):
                if (tower, block) in self.attention:
                    total, rows = self.attention[tower, block]
                    means[block] = total / rows
            if not np.isnan(means).all():
                found[f"attention/{tower}/{domain}"] = means
            for kind, heard in (("choices", self.choices), ("gate_mass", self.gates)):
                per_block = [
                    heard[tower, block] for block in range(count) if (tower, block) in heard
                ]
                if per_block:
                    found[f"{kind}/{tower}/{domain}"] = np.stack(per_block)
        return found


@dataclass
class Observation:
    """Arrays of one domain by name (files.py), and activations `[n, blocks + 1, 2, width]`."""

    arrays: dict[str, np.ndarray]
    image_activations: np.ndarray
    text_activations: np.ndarray


@torch.no_grad()
def observe(
    method: Method,
    task: Task,
    data: ImageData,
    blocks: dict[str, int],
    *,
    frozen: Arrays | None,
    previous: Arrays | None,
    all_routes: bool,
) -> Observation:
    """Look at `data`, probe images of `task`.

    Args:
        blocks: number of blocks by tower.
        frozen: arrays of stage 0, None while they are made. previous: of the stage before.
        all_routes: record logits under routes that images do not take, too.
    """
    name = task.name
    images, labels = load_batch(data, torch.arange(len(data)), method.clip.eval_transform)
    images = images.to(method.clip.device)
    parts = images.split(method.eval_batch_size)
    introspection = method.introspection()
    routes = _all_routes([introspection.routes(part) for part in parts]) if frozen else None
    tap, tally = Tap(method.clip), Tally()
    features, image_activations = _image_features(method, parts, routes, tap, tally)
    chosen = np.zeros(len(data), int) if routes is None else routes.chosen.cpu().numpy()
    class_features, text_activations = _class_features(method, task, chosen, routes, tap, tally)
    arrays = {
        f"labels/{name}": labels.numpy(),
        f"image_features/{name}": features.cpu().numpy(),
        f"class_features/{name}": class_features.cpu().numpy(),
    }
    if routes is None:
        logits = torch.cat([method.predict(part, task) for part in parts])
        arrays[f"logits/{name}"] = logits.float().cpu().numpy()
    else:
        assert frozen is not None
        route_arrays = _routes_of(name, routes)
        settled = introspection.settled_routes() if all_routes else 0
        before = Before.of(name, route_arrays, frozen, previous, settled)
        arrays |= route_arrays
        arrays |= route_logits(
            method, task, images, features, routes, before, all_routes=all_routes
        )
    arrays |= tally.arrays(name, blocks)
    return Observation(arrays, image_activations, text_activations)


def _all_routes(parts: list[Routes | None]) -> Routes | None:
    first = parts[0]
    if first is None:
        return None
    there = [part for part in parts if part is not None]

    def join(attribute: str) -> Any:
        values = [getattr(part, attribute) for part in there]
        return None if values[0] is None else torch.cat(values)

    joined = ("chosen", "scores", "image_strength", "text_strength")
    return Routes(
        names=first.names,
        score_names=first.score_names,
        thresholds=first.thresholds,
        **{attribute: join(attribute) for attribute in joined},
    )


def _image_features(
    method: Method, parts: tuple[Tensor, ...], routes: Routes | None, tap: Tap, tally: Tally
) -> tuple[Tensor, np.ndarray]:
    # step 2, the images' own routes
    images = torch.cat(parts)
    if routes is None:
        order = [torch.arange(len(images))]
        numbers = [0]
    else:
        numbers = routes.chosen.unique().tolist()
        order = [(routes.chosen == number).nonzero()[:, 0] for number in numbers]
    found = []
    introspection = method.introspection()
    with tap.open(), introspection.watch(tally):
        for number, rows in zip(numbers, order, strict=True):
            for few in rows.split(method.eval_batch_size):
                strength = pick(routes.image_strength, few) if routes else None
                found.append(introspection.route_image_features(images[few], number, strength))
    back = torch.cat(order).argsort().cpu()
    activations = torch.cat(tap.image).cpu()[back].numpy()
    return torch.cat(found).cpu()[back].to(images.device), activations


def _class_features(
    method: Method,
    task: Task,
    chosen: np.ndarray,
    routes: Routes | None,
    tap: Tap,
    tally: Tally,
) -> tuple[Tensor, np.ndarray]:
    # step 3 with taps: the route that most images take, at the median strength of its images
    numbers, counts = np.unique(chosen, return_counts=True)
    most = int(numbers[counts.argmax()])
    introspection = method.introspection()
    for number, count in sorted(zip(numbers.tolist(), counts.tolist(), strict=True)):
        tally.weight = count
        strength = None
        if routes is not None and routes.text_strength is not None:
            own = routes.text_strength[torch.as_tensor(chosen == number)]
            strength = own.median()[None]
        with introspection.watch(tally):
            if number == most:
                with tap.open():
                    features = introspection.route_class_features(task, number, strength)[0]
            else:
                introspection.route_class_features(task, number, strength)
    texts = torch.cat(tap.text).cpu().numpy()
    # texts come class by class; every method has the first template, so drift looks at that one
    return features, texts[:: len(texts) // len(task.class_names)]


def _routes_of(name: str, routes: Routes) -> dict[str, np.ndarray]:
    chosen = routes.chosen.cpu().numpy()
    learned = len(routes.names)
    arrays = {
        "routes": np.array([*routes.names, "frozen"]),
        "score_names": np.array(routes.score_names),
        f"route/{name}": np.where(chosen == FROZEN, learned, chosen),
        f"route_scores/{name}": routes.scores.cpu().numpy(),
    }
    if routes.thresholds is not None:
        arrays["thresholds"] = routes.thresholds.cpu().numpy()
    strengths = {"route_strength": routes.image_strength, "text_strength": routes.text_strength}
    for kind, values in strengths.items():
        if values is not None:
            arrays[f"{kind}/{name}"] = values.cpu().numpy()
    return arrays
