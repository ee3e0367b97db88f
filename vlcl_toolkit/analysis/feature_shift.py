"""How far features moved, and what of their geometry is left: the numbers beside every map.

A feature is the unit-norm vector of an image or of a class text that a method classifies with.
Distances are Euclidean; on unit-norm vectors they order neighbours as the cosine does, and range
over 0 .. 2. All frames have the columns stage (0 = the frozen CLIP, k = after the k-th task),
after, domain, status ("learned", "current", "unseen", "held-out").
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlcl_toolkit.analysis.points import chosen_domains, features
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.probes import Probes


def shift_length(probes: Probes, domains: Sequence[str] | None = None) -> pd.DataFrame:
    """How far the features of each domain moved from where the frozen CLIP puts them.

    A domain whose points all move alike (common = length) keeps its inner geometry; points that
    move apart (common much below length) do not.

    Columns: stage, after, domain, status; kind ("image", "class": the texts of its classes); length
    (mean over points of the distance moved, 0 .. 2); common (length of the mean movement,
    0 .. length).
    """
    rows = []
    for domain in chosen_domains(probes, domains):
        for kind in ("image", "class"):
            frozen = features(probes, 0, domain, kind)
            for stage in probes.stages:
                moved = features(probes, stage, domain, kind) - frozen
                length = float(np.linalg.norm(moved, axis=1).mean())
                common = float(np.linalg.norm(moved.mean(axis=0)))
                place = probes.where(stage, domain)
                rows.append(place | {"kind": kind, "length": length, "common": common})
    return pd.DataFrame(rows)


def moved_back(probes: Probes, domains: Sequence[str] | None = None) -> pd.DataFrame:
    """Accuracy if the common movement of a domain's images is undone and its texts are left as they are.

    Where that restores the accuracy, the domain was pushed aside as a whole; where it does not, its
    images were mixed with each other. No labels are needed to undo a common movement.

    Columns: stage, after, domain, status; accuracy (percent, as the method answers), moved_back
    (percent, with the mean of the image features where the frozen CLIP has it).
    """
    rows = []
    for domain in chosen_domains(probes, domains):
        labels = probes.labels(domain)
        home = features(probes, 0, domain, "image").mean(axis=0)
        for stage in probes.stages:
            images = features(probes, stage, domain, "image")
            texts = features(probes, stage, domain, "class")
            answers = probes.logits(stage, domain).argmax(axis=1)
            at_home = ((images - images.mean(axis=0) + home) @ texts.T).argmax(axis=1)
            shares = {"accuracy": answers == labels, "moved_back": at_home == labels}
            percent = {name: 100 * float(right.mean()) for name, right in shares.items()}
            rows.append(probes.where(stage, domain) | percent)
    return pd.DataFrame(rows)


def neighbours_kept(
    probes: Probes, k: int = 10, domains: Sequence[str] | None = None
) -> pd.DataFrame:
    """Share of each image's `k` nearest neighbours that are the same as in the frozen CLIP.

    Neighbours are images of the same domain. Turning or shifting a whole domain keeps all.

    Columns: stage, after, domain, status; kept (mean over images, 0 .. 1); by_chance (what a random
    cloud would keep: k / (n - 1)).

    Source: the k-nearest-neighbour gain of Venna et al. 2010 and Lee et al. 2013 compare the same
    sets of neighbours between a space and its map.

    Raises:
        UserError: a domain has too few images for `k` neighbours.
    """
    rows = []
    for domain in chosen_domains(probes, domains):
        frozen = nearest(features(probes, 0, domain, "image"), k, f"domain {domain!r}")
        for stage in probes.stages:
            now = nearest(features(probes, stage, domain, "image"), k, f"domain {domain!r}")
            values = {"kept": shared(frozen, now), "by_chance": k / (len(frozen) - 1)}
            rows.append(probes.where(stage, domain) | values)
    return pd.DataFrame(rows)


def class_separation(probes: Probes, domains: Sequence[str] | None = None) -> pd.DataFrame:
    """How well images of different classes are separated, regardless of the texts.

    Where this stays and accuracy falls, the images are still in order and the texts no longer fit.

    Columns: stage, after, domain, status; silhouette (mean over images, -1 .. 1: distance to the
    nearest other class against distance inside the own, Rousseeuw 1987; nan with one class, or with
    classes of one image only); nearest_mean (percent of images nearest to the mean of their own
    class, that image left out of the mean; classes of one image are left out).
    """
    # The import takes half a second that no other analysis should pay.
    from sklearn.metrics import silhouette_score

    rows = []
    for domain in chosen_domains(probes, domains):
        labels = probes.labels(domain)
        can_separate = 2 <= len(np.unique(labels)) < len(labels)
        for stage in probes.stages:
            images = features(probes, stage, domain, "image")
            silhouette = float(silhouette_score(images, labels)) if can_separate else float("nan")
            values = {"silhouette": silhouette, "nearest_mean": nearest_mean(images, labels)}
            rows.append(probes.where(stage, domain) | values)
    return pd.DataFrame(rows)


def nearest_mean(images: np.ndarray, labels: np.ndarray) -> float:
    """Percent of images `[n, D]` nearest to the mean of their class, each left out of its own mean.

    Classes of one image, which have no mean without it, do not count; nan if nothing is left.
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(classes), images.shape[1]))
    np.add.at(sums, index, images)
    distance = distances(images, sums / counts[:, None])
    alone = counts[index] == 1
    without_itself = (sums[index] - images) / np.maximum(counts[index] - 1, 1)[:, None]
    rows = np.arange(len(images))
    distance[rows, index] = np.linalg.norm(images - without_itself, axis=1)
    distance[:, counts == 1] = np.inf
    if alone.all():
        return float("nan")
    return 100 * float((distance.argmin(axis=1) == index)[~alone].mean())


def nearest(points: np.ndarray, k: int, what: str) -> np.ndarray:
    """Which `k` others lie nearest to each of n points `[n, D]`; bool `[n, n]`.

    Raises:
        UserError: `k` is not between 1 and n - 1.
    """
    n = len(points)
    if not 1 <= k < n:
        raise UserError(
            f"{what} has {n} points, so k must be between 1 and {n - 1}; found {k}; choose another k "
            "or record more images per domain"
        )
    distance = distances(points, points)
    np.fill_diagonal(distance, np.inf)
    chosen = np.argpartition(distance, k - 1, axis=1)[:, :k]
    near = np.zeros((n, n), bool)
    np.put_along_axis(near, chosen, True, axis=1)
    return near


def shared(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the neighbours `[n, n]` of `first` that `second` has too, 0 .. 1."""
    return float((first & second).sum() / first.sum())


def distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distances `[n, m]` between the rows of `[n, D]` and `[m, D]`."""
    squares = (points**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * points @ others.T
    return np.sqrt(np.maximum(squares, 0))
