"""Maps of the feature space in two dimensions, and how far to trust them.

A map alone proves nothing: show the numbers of `map_quality` beside it.

Where class texts stand. CLIP's image and text features fill two narrow cones far apart (the modality
gap: Liang et al. 2022, "Mind the Gap"), so texts placed as they are form an island of their own.
``anchors`` says what is done about it:

    "centred" (default)  each modality's mean over the frozen CLIP's features (the mean of the
        domains' means, so that each counts the same) is taken off, at every stage the same one; then
        images and texts of the frozen CLIP are fitted together. What both modalities say about
        classes and domains is seen, the gap is not. Taking one vector off all texts changes no
        decision; taking one off the images adds a constant to each class's score.
    "as they are"        images and texts are fitted together; shows the gap.
    "none"               images only.
"""

import contextlib
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from vlcl_toolkit.analysis.feature_shift import distances, nearest, shared
from vlcl_toolkit.analysis.points import chosen_domains, features
from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.probes import Probes

Anchors = Literal["centred", "as they are", "none"]
Kind = Literal["pca", "umap"]


def feature_map(
    probes: Probes,
    kind: str = "pca",
    *,
    domains: Sequence[str] | None = None,
    anchors: str = "centred",
    neighbours: int = 15,
    seed: int = 0,
) -> pd.DataFrame:
    """One map, fitted on the frozen CLIP's features; every later stage is put into it.

    Positions of different stages can therefore be compared. What leaves the space that the frozen
    features fill cannot be seen: PCA flattens it, UMAP puts it at the nearest frozen points;
    `map_quality` then falls, and `shift_length` gives the true distance.

    Args:
        kind: "pca" (instant, keeps large distances) or "umap" (keeps neighbourhoods, not distances;
            McInnes et al. 2018).
        domains: on the map; all by default.
        anchors: how class texts are placed, see above.
        neighbours: of UMAP: small shows detail, large the overall arrangement.
        seed: of UMAP; positions still differ between machines, neighbourhoods hardly.

    Returns:
        one row per point and stage. Columns: stage, after, domain, status; kind ("image", "class"),
        item (its number in the domain), label, class_name; x, y (no unit).

    Raises:
        UserError: a name is unknown; stage 0 is missing; fewer points than UMAP neighbours.
    """
    points, vectors = _points(probes, domains, anchors)
    frozen = vectors[0]
    if kind == "pca":
        _check_points(frozen, 2)
        transform = _pca(frozen)
    elif kind == "umap":
        _check_points(frozen, neighbours)
        transform = fit_umap(frozen, neighbours, seed)
    else:
        raise unknown_name("kind of map", kind, get_args(Kind))
    return _placed(points, [transform(values) for values in vectors])


def feature_film(
    probes: Probes,
    *,
    domains: Sequence[str] | None = None,
    anchors: str = "centred",
    neighbours: int = 15,
    seed: int = 0,
) -> pd.DataFrame:
    """A UMAP of each stage, each point tied to itself in the stages next to it (AlignedUMAP).

    Every picture is true to its own stage, which the one map of `feature_map` need not be; movement
    between pictures is partly the alignment's. With one stage only, a plain UMAP.

    Args, Returns, Raises: as `feature_map`.

    Source: umap-learn's AlignedUMAP, after Dadu et al. 2023, "Application of Aligned-UMAP to
    longitudinal biomedical studies".
    """
    points, vectors = _points(probes, domains, anchors)
    _check_points(vectors[0], neighbours)
    if len(vectors) == 1:
        return _placed(points, [fit_umap(vectors[0], neighbours, seed)(vectors[0])])
    return _placed(points, fit_film(vectors, neighbours, seed))


def map_movement(positions: pd.DataFrame) -> pd.DataFrame:
    """How far the middle of each domain's images moved on a map, relative to the size of the map.

    Compare with `shift_length`, which says how far they moved among the features: a film that is
    aligned stage by stage takes common movement out.

    Args:
        positions: of `feature_map` or `feature_film`.

    Columns: stage, after, domain, status; moved (distance from the frozen place, over the root mean
    square distance of all frozen images from their middle; 0 = stayed).
    """
    images = positions[positions["kind"] == "image"]
    frozen = images.loc[images["stage"] == 0, ["x", "y"]]
    size = float(np.sqrt(((frozen - frozen.mean()) ** 2).sum(axis=1).mean()))
    keys = ["stage", "after", "domain", "status"]
    middles = images.groupby(keys, sort=False)[["x", "y"]].mean().reset_index()
    start = middles[middles["stage"] == 0].set_index("domain").loc[middles["domain"], ["x", "y"]]
    moved = np.linalg.norm(middles[["x", "y"]].to_numpy() - start.to_numpy(), axis=1)
    return middles[keys].assign(moved=moved / size)


def map_quality(
    probes: Probes, positions: pd.DataFrame, k: int = 10, *, anchors: str = "centred"
) -> pd.DataFrame:
    """How far to trust a map, stage by stage.

    Args:
        positions: of `feature_map` or `feature_film`.
        k: neighbours that are compared.
        anchors: as the map was made with.

    Columns: stage, after; trustworthiness (0 .. 1, 1 = points that are near on the map are near among the
    features; Venna and Kaski 2001); kept (share of the k nearest images among the features that are
    nearest on the map too, 0 .. 1); by_chance (what a random map keeps: k / (n - 1));
    anchors_agree (percent of images whose nearest class text of their domain on the map is the class
    that the method predicts; nan without texts).

    Raises:
        UserError: `k` is not below half of the images, which trustworthiness needs.
    """
    # The import takes half a second that no other analysis should pay.
    from sklearn.manifold import trustworthiness

    domains = list(dict.fromkeys(positions["domain"]))
    points, vectors = _points(probes, domains, anchors)
    images = (points[0]["kind"] == "image").to_numpy()
    if not 1 <= k < images.sum() / 2:
        raise UserError(
            f"for a map of {images.sum()} images, k must be at least 1 and below half of that; found {k}"
        )
    rows = []
    for stage, on_map in positions.groupby("stage"):
        true = vectors[probes.stages.index(stage)][images]
        placed = on_map[["x", "y"]].to_numpy(float)[images]
        near = nearest(true, k, "the map")
        rows.append(
            {
                "stage": stage,
                "after": probes.after(int(stage)),
                "trustworthiness": float(trustworthiness(true, placed, n_neighbors=k)),
                "kept": shared(near, nearest(placed, k, "the map")),
                "by_chance": k / (len(placed) - 1),
                "anchors_agree": _anchors_agree(probes, on_map),
            }
        )
    return pd.DataFrame(rows)


def _anchors_agree(probes: Probes, on_map: pd.DataFrame) -> float:
    agree = []
    for domain, points in on_map.groupby("domain", sort=False):
        places = {kind: part[["x", "y"]].to_numpy(float) for kind, part in points.groupby("kind")}
        if "class" in places:
            logits = probes.logits(int(points["stage"].iloc[0]), str(domain))
            nearest_text = distances(places["image"], places["class"]).argmin(axis=1)
            agree.extend(nearest_text == logits.argmax(axis=1))
    return 100 * float(np.mean(agree)) if agree else float("nan")


def _points(
    probes: Probes, domains: Sequence[str] | None, anchors: str
) -> tuple[list[pd.DataFrame], list[np.ndarray]]:
    """Per stage: what each point is, and its features `[N, D]`; the frozen stage comes first."""
    if anchors not in get_args(Anchors):
        raise unknown_name("anchor placement", anchors, get_args(Anchors))
    names = chosen_domains(probes, domains)
    kinds: tuple[Any, ...] = ("image",) if anchors == "none" else ("image", "class")
    centre: dict[str, np.ndarray | float] = dict.fromkeys(kinds, 0.0)
    if anchors == "centred":
        for kind in kinds:
            means = [features(probes, 0, name, kind).mean(axis=0) for name in names]
            centre[kind] = np.mean(means, axis=0)
    frames, vectors = [], []
    for stage in probes.stages:
        parts, values = [], []
        for name in names:
            words = np.array(probes.class_names(name), dtype=object)
            for kind in kinds:
                value = features(probes, stage, name, kind) - centre[kind]
                items = np.arange(len(value))
                labels = probes.labels(name) if kind == "image" else items
                what = {"kind": kind, "item": items, "label": labels}
                what["class_name"] = words[labels] if len(words) else labels.astype(str)
                parts.append(pd.DataFrame(probes.where(stage, name) | what))
                values.append(value)
        frames.append(pd.concat(parts, ignore_index=True))
        vectors.append(np.concatenate(values))
    return frames, vectors


def _check_points(values: np.ndarray, neighbours: int) -> None:
    if not 2 <= neighbours < len(values):
        raise UserError(
            f"a map of {len(values)} points needs 2 to {len(values) - 1} neighbours; found {neighbours}; "
            "show more domains, or record more images per domain"
        )


def _pca(frozen: np.ndarray) -> Any:
    # The import takes half a second that no other analysis should pay.
    from sklearn.decomposition import PCA

    return PCA(n_components=2, svd_solver="full").fit(frozen).transform


def _placed(points: list[pd.DataFrame], places: Sequence[np.ndarray]) -> pd.DataFrame:
    located = [
        frame.assign(x=place[:, 0].astype(float), y=place[:, 1].astype(float))
        for frame, place in zip(points, places, strict=True)
    ]
    return pd.concat(located, ignore_index=True)


Points = Float[np.ndarray, "points features"]
Places = Float[np.ndarray, "points 2"]

# Warnings of umap-learn that need no action: a seed allows one thread only, and how UMAP starts when
# domains form separate islands.
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


def fit_film(stages: Sequence[Points], neighbours: int, seed: int) -> list[Places]:
    """A UMAP of each of at least two stages, point i tied to point i of the stages around.

    Args:
        neighbours: from 2 to one less than there are points.
    """
    umap = _umap()
    same = [{i: i for i in range(len(stages[0]))}] * (len(stages) - 1)
    film = umap.AlignedUMAP(n_neighbors=neighbours, random_state=seed, transform_seed=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", CHATTER)  # AlignedUMAP takes no n_jobs
        film.fit([values.astype(np.float32) for values in stages], relations=same)
    return [np.asarray(places) for places in film.embeddings_]


@cache
def _umap() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        import umap
    from numba.extending import is_jitted

    # Most of umap-learn would be compiled again by every process, for longer than a film takes.
    for name, module in list(sys.modules.items()):
        if name.startswith(("umap.", "pynndescent.")):
            for compiled in filter(is_jitted, vars(module).values()):
                with contextlib.suppress(RuntimeError):  # no folder where a cache could be written
                    compiled.enable_caching()
    return umap
