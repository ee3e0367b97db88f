"""Calls of umap-learn, imported when it is needed: that takes seconds."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "points features"]
Places = Float[np.ndarray, "points 2"]

# Said in passing by umap-learn: that a seed allows one thread only, which is what is wanted, and how
# it starts when domains form separate islands, which they do.
CHATTER = "n_jobs value|Embedding a total of|Graph is not fully connected|Spectral init"


def fit_umap(points: Points, neighbours: int, seed: int) -> Callable[[Points], Places]:
    """Fit a UMAP; returns the function that puts other features into it.

    It starts from the first two principal components: that keeps the overall arrangement better than
    a random start (Kobak and Linderman 2021) and copes with separate islands.

    Args:
        neighbours: from 2 to one less than there are points.
    """
    umap = _umap()
    fitted = umap.UMAP(n_neighbors=neighbours, init="pca", random_state=seed, n_jobs=1)
    fitted.fit(points.astype(np.float32))
    return lambda others: fitted.transform(others.astype(np.float32))


def fit_film(steps: Sequence[Points], neighbours: int, seed: int) -> list[Places]:
    """A UMAP of each of at least two steps, point i tied to point i of the steps around.

    Args:
        neighbours: from 2 to one less than there are points.
    """
    umap = _umap()
    same = [{i: i for i in range(len(steps[0]))}] * (len(steps) - 1)
    film = umap.AlignedUMAP(n_neighbors=neighbours, random_state=seed, transform_seed=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", CHATTER)  # AlignedUMAP takes no n_jobs
        film.fit([values.astype(np.float32) for values in steps], relations=same)
    return [np.asarray(places) for places in film.embeddings_]


def _umap() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        import umap
    return umap
