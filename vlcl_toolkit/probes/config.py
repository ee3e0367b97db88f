"""Settings: how much a run records."""

from dataclasses import asdict

import torch
from jaxtyping import Int64
from pydantic.dataclasses import dataclass
from torch import Tensor

from vlcl_toolkit.settings import Count, Settings
from vlcl_toolkit.streams.base import ImageData, Task


@dataclass(frozen=True)
class ProbeConfig(Settings):
    """What probes record after every task."""

    images_per_domain: Count = 100
    """Test images of each domain, the same ones at every stage and in every run."""
    activations: bool = True
    """How far the activations of every block drifted."""
    route_logits: bool = True
    """Logits under every route, for methods that choose one."""

    @property
    def folder_suffix(self) -> str:
        """Tells the default folders of runs with different probes apart."""
        return "-".join(["probes", *(str(int(value)) for value in asdict(self).values())])


def probe_images(task: Task, count: int) -> ImageData:
    """The first test images of every class, as evenly as there are, in file order."""
    return task.test.subset(spread_over_classes(task.test.labels, count))


def spread_over_classes(labels: Int64[Tensor, " n"], count: int) -> Int64[Tensor, " m"]:
    """Up to `count` indices: the first image of every class, then the second of every class, ..."""
    rank = torch.zeros_like(labels)
    for label in labels.unique():
        own = labels == label
        rank[own] = torch.arange(int(own.sum()))
    return rank.sort(stable=True).indices[:count].sort().values
