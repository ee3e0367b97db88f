"""Maps of features, and the numbers that belong beside them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Affine2D, Bbox

from vlcl_toolkit.plotting.style import INK, QUIET, domain_colour, domain_marker, finish, in_style

# What can be plotted over the stages, with its unit and direction.
MEASURES = {
    "length": "distance moved\n(0 = stayed, of 2 at most)",
    "common": "common movement\n(0 = stayed, of 2 at most)",
    "kept": "nearest neighbours kept\n(share, higher is better)",
    "silhouette": "silhouette of the classes\n(−1 to 1, higher is better)",
    "nearest_mean": "nearest to own class mean\n(percent, higher is better)",
    "changed": "predictions changed\n(percent of images)",
    "broken": "right before, wrong now\n(percent, lower is better)",
    "repaired": "wrong before, right now\n(percent, higher is better)",
    "moved_back": "accuracy, common movement undone\n(percent, higher is better)",
    "accuracy": "accuracy\n(percent, higher is better)",
    "change": "change of accuracy (points\nagainst the frozen CLIP)",
}


@in_style
def feature_map(
    positions: pd.DataFrame,
    ax: Axes,
    *,
    stage: int,
    domain: str | None = None,
    quality: pd.DataFrame | None = None,
    trails: bool = False,
) -> Axes:
    """One stage of a map: a dot per image, a large marker per class text, limits the same at every stage.

    Args:
        positions: of `analysis.feature_map` or `analysis.feature_film`, all stages.
        stage: the one to show.
        domain: show where this domain is, coloured by class and with its class texts named; what
            else lies there is grey. By default all domains, each in its colour.
        quality: of `analysis.map_quality`; its numbers are written below the map.
        trails: a line from where the frozen CLIP has the middle of each domain to where it is.
            Only for PCA: on a UMAP the middle of several islands is no place.
    """
    names = list(dict.fromkeys(positions["domain"]))
    now = positions[positions["stage"] == stage]
    for name in names:
        points = now[now["domain"] == name]
        images, texts = (points[points["kind"] == kind] for kind in ("image", "class"))
        if domain is None or name == domain:
            _dots(ax, images, name, by_class=domain is not None)
            _anchors(ax, texts, name, by_class=domain is not None)
        else:
            ax.scatter(images["x"], images["y"], s=10, color="#dcdcdc", lw=0, zorder=1)
    if trails and stage:
        for name in names if domain is None else [domain]:
            _trail(ax, positions, name, stage)
    shown = positions if domain is None else positions[positions["domain"] == domain]
    for axis in ("x", "y"):
        low, high = shown[axis].min(), shown[axis].max()
        room = (0.06 if domain is None else 0.15) * (high - low)  # names need some
        getattr(ax, f"set_{axis}lim")(low - room, high + room)
        getattr(ax, f"set_{axis}ticks")([])
    if domain is not None:
        texts = now[(now["domain"] == domain) & (now["kind"] == "class")]
        name_points(ax, texts[["x", "y"]].to_numpy(), [str(name) for name in texts["class_name"]])
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color("#dddddd")
    after = str(now["after"].iloc[0])
    ax.set_title("frozen CLIP" if stage == 0 else f"after {after}")
    if quality is not None:
        ax.set_xlabel(_quality(quality, stage), fontsize=10, color=INK)
    if domain is None:
        finish(ax, legend=True, handletextpad=0.2, markerscale=1.6)
    return ax


@in_style
def curves_by_stage(
    frame: pd.DataFrame, ax: Axes, *, value: str, chance: float | int | None = None
) -> Axes:
    """A number over the stages, a line per domain: thin until it is learned, thick from then on.

    Held-out domains are dashed.

    Args:
        frame: columns stage, after, domain, status and `value`; of `shift_length` (one kind),
            `neighbours_kept`, `class_separation`, `flips` or `unseen_accuracy`.
        value: column to plot.
        chance: what chance gives, as a dotted line.
    """
    ends = {}
    for name, points in frame.groupby("domain", sort=False):
        domain = str(name)
        held_out = (points["status"] == "held-out").all()
        look: dict[str, Any] = {"color": domain_colour(domain), "ls": "--" if held_out else "-"}
        stages, values = points["stage"].to_numpy(), points[value].to_numpy(float)
        ax.plot(stages, values, lw=1.2, marker=domain_marker(domain), ms=5, clip_on=False, **look)
        trained = points["status"].isin(["learned", "current"]).to_numpy()
        if trained.any():
            ax.plot(stages[trained], values[trained], lw=3.2, clip_on=False, **look)
        known = np.isfinite(values).nonzero()[0]
        if len(known):
            ends[domain] = (float(stages[known[-1]]), float(values[known[-1]]))
    if chance is not None:
        ax.axhline(chance, color=QUIET, ls=":", lw=1.5)
        ax.text(0, chance, " by chance", va="bottom", fontsize=10, color=QUIET)
    _name_ends(ax, ends)
    labels = frame.drop_duplicates("stage").sort_values("stage")
    names = [
        "frozen" if stage == 0 else after for stage, after in labels[["stage", "after"]].values
    ]
    crowded = sum(map(len, names)) > 34
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if crowded else {}
    ax.set_xticks(labels["stage"], names, fontsize=11, **turned)
    ax.set_xlabel("learned last (thick: learned already; dashed: never learned)", fontsize=10)
    return finish(ax, ylabel=MEASURES.get(value, value), grid="y")


def _dots(ax: Axes, images: pd.DataFrame, name: str, *, by_class: bool) -> None:
    look: dict[str, Any] = {"s": 16, "lw": 0, "alpha": 0.6, "zorder": 2}
    if not by_class:
        marker = domain_marker(name)
        ax.scatter(
            images["x"], images["y"], color=domain_colour(name), marker=marker, label=name, **look
        )
        return
    for label, points in images.groupby("label"):
        ax.scatter(points["x"], points["y"], color=class_colour(int(label)), **look | {"s": 30})


def _anchors(ax: Axes, texts: pd.DataFrame, name: str, *, by_class: bool) -> None:
    for text in texts.itertuples():
        colour = class_colour(text.label) if by_class else domain_colour(name)
        size = 13 if by_class else 9
        ax.plot(text.x, text.y, "*", color=colour, mec=INK, mew=0.8, ms=size, zorder=4)


def _trail(ax: Axes, positions: pd.DataFrame, name: str, stage: int) -> None:
    images = positions[(positions["domain"] == name) & (positions["kind"] == "image")]
    middle = images[images["stage"] <= stage].groupby("stage")[["x", "y"]].mean()
    ax.plot(middle["x"], middle["y"], color="white", lw=4.5, zorder=3, solid_capstyle="round")
    ax.plot(middle["x"], middle["y"], color=domain_colour(name), lw=2, zorder=3)
    ax.plot(*middle.iloc[0], "o", color="white", mec=domain_colour(name), mew=2, ms=6, zorder=3)


def class_colour(label: int) -> str:
    """A colour for a class inside one domain; eight colours, which then repeat."""
    return _CLASSES[label % len(_CLASSES)]


# Okabe and Ito's palette again: inside one domain it distinguishes classes.
_CLASSES = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#555555",
)


def _quality(quality: pd.DataFrame, stage: int) -> str:
    row = quality[quality["stage"] == stage].iloc[0]
    lines = [
        f"trustworthiness {row['trustworthiness']:.2f}",
        f"neighbours kept {row['kept']:.2f} (by chance {row['by_chance']:.2f})",
    ]
    if np.isfinite(row["anchors_agree"]):
        lines.append(f"nearest text is the prediction: {row['anchors_agree']:.0f}%")
    return "\n".join([lines[0] + " · " + lines[1], *lines[2:]])


def _name_ends(ax: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Name curves at their last point, pushed apart so that no two names overlap."""
    ax.set_autoscaley_on(True)  # axes beside it that share the scale may have fixed it already
    ax.autoscale_view(scalex=False)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)  # names do not move the limits
    order = sorted(ends, key=lambda name: ends[name][1])
    right = max((stage for stage, _ in ends.values()), default=1.0)
    gap, floor = 0.075 * (high - low), -np.inf
    for name in order:
        stage, value = ends[name]
        height = max(value, floor)
        floor = height + gap
        colour = domain_colour(name)
        ax.plot([stage, right * 1.03], [value, height], color=colour, lw=0.8, clip_on=False)
        ax.text(right * 1.05, height, name, va="center", fontsize=11)


SIZE = 10  # of the letters, points
# Where a name may be placed, relative to its point: nearest places first, the right side before others.
_OFFSETS = [
    (far * x, far * y)
    for far in (1.0, 1.8, 2.8, 4.0)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
]


def name_points(ax: Axes, places: np.ndarray, names: Sequence[str]) -> None:
    """Write each name near its place `[n, 2]` where no other name is; a thin line leads to its point.

    The limits of the axes have to be final. Where there is no room at all, the last names overlap.
    """
    points = 72 / ax.figure.dpi * ax.transData.transform(np.asarray(places, float))
    inside = ax.get_window_extent().frozen().transformed(Affine2D().scale(72 / ax.figure.dpi))
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in points]
    for number in np.argsort(-points[:, 1], kind="stable"):
        size = np.array([0.65 * SIZE * len(names[number]), 1.3 * SIZE])
        shifts = [np.array([x * (9 + size[0] / 2), y * SIZE * 1.4]) for x, y in _OFFSETS]
        boxes = [Bbox.from_bounds(*(points[number] + s - size / 2), *size) for s in shifts]
        free = [
            i
            for i, box in enumerate(boxes)
            if not box.count_overlaps(taken) and inside.x0 < box.x0 and box.x1 < inside.x1
        ]
        chosen = free[0] if free else len(boxes) - 1
        taken.append(boxes[chosen])
        line = {"arrowstyle": "-", "color": QUIET, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SIZE, "zorder": 5}
        shown = ax.annotate(
            names[number],
            tuple(places[number]),
            tuple(shifts[chosen]),
            textcoords="offset points",
            arrowprops=line if chosen > 3 else None,
            **look,
        )
        shown.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
