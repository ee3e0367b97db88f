"""The embedded miniature world: a captioned world to pre-train a small CLIP on, and a stream of six other domains."""

from functools import lru_cache

import numpy as np
import torch

from vlcl_toolkit.mini.domains import (
    HELD_OUT_DOMAINS,
    STREAM_DOMAINS,
    Domain,
    Render,
    handwritten_digits,
)
from vlcl_toolkit.mini.draw.canvas import to_bytes
from vlcl_toolkit.mini.draw.flowers import SPECIES_NAMES
from vlcl_toolkit.mini.draw.land import TERRAIN_NAMES
from vlcl_toolkit.mini.draw.shapes import SHAPE_NAMES
from vlcl_toolkit.mini.reference import reference_images, reference_sentences
from vlcl_toolkit.seeds import derive_seed, generator
from vlcl_toolkit.streams.base import ImageData, Reference, Task, TaskStream

# Images per split; the digits are as many as scikit-learn has.
SIZES = {"train": 400, "validation": 200, "test": 500}
SPLIT_ID = "mini-v1"
REFERENCE_IMAGES, REFERENCE_SENTENCES = 2000, 400


def _rendered(domain: Domain, render: Render, split: str) -> ImageData:
    rng = np.random.default_rng(derive_seed(SPLIT_ID, domain.name, split))
    labels = np.arange(SIZES[split]) % len(domain.class_names)  # as balanced as the size allows
    images = to_bytes(render(rng, labels))
    order = torch.from_numpy(rng.permutation(len(labels)))
    return ImageData(images[order], torch.from_numpy(labels)[order].long())


def _digits() -> dict[str, ImageData]:
    images, labels = handwritten_digits()
    order = torch.randperm(len(labels), generator=generator(SPLIT_ID, "digits"))
    ends = np.cumsum(list(SIZES.values()))
    parts = dict(zip(SIZES, np.split(order.numpy(), ends)[: len(SIZES)], strict=True))
    return {split: ImageData(images[rows], labels[rows]) for split, rows in parts.items()}


def make_task(domain: Domain) -> Task:
    """The task of a domain with its fixed train, validation and test images (400, 200, 500)."""
    render = domain.render
    splits = (
        _digits() if render is None else {part: _rendered(domain, render, part) for part in SIZES}
    )
    return Task(
        domain.name, domain.class_names, domain.templates, *(splits[part] for part in SIZES)
    )


@lru_cache(maxsize=1)
def mini_reference() -> Reference:
    """Collages and sentences that belong to no domain; see reference.py."""
    rng = np.random.default_rng(derive_seed(SPLIT_ID, "reference"))
    return Reference(
        images=reference_images(rng, REFERENCE_IMAGES),
        sentences=tuple(reference_sentences(rng, REFERENCE_SENTENCES)),
        class_names=(*SHAPE_NAMES, *SPECIES_NAMES, *TERRAIN_NAMES),
    )


@lru_cache(maxsize=1)
def mini_stream() -> TaskStream:
    """Six domains to learn, and the held-out faces; always the same images."""
    return TaskStream(
        id="mini",
        tasks=tuple(make_task(domain) for domain in STREAM_DOMAINS),
        split_id=SPLIT_ID,
        held_out=tuple(make_task(domain) for domain in HELD_OUT_DOMAINS),
        reference=mini_reference,
    )
