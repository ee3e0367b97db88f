"""Figures of feature shift, predictions and orders: what a reader sees is what the frame says."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from planted import LABELS, frozen_features, made_up_run, planted_probes

from vlcl_toolkit import analysis, plotting
from vlcl_toolkit.plotting.feature_shift import name_points


@pytest.fixture
def ax():
    return plotting.new_figure()[1]


@pytest.fixture
def probes():
    """Class 2 of signs loses its text in stage 1, all of faces moves."""
    now = frozen_features()
    images, texts = now["signs"]
    now["signs"] = (images, texts * np.array([[1], [1], [-1], [1]], np.float32))
    now["faces"] = (now["faces"][0] + np.float32(0.2), now["faces"][1])
    return planted_probes(frozen_features(), now)


def texts(ax):
    return [text.get_text() for text in ax.texts]


def labels(ticks):
    return [label.get_text() for label in ticks]


def test_map_shows_every_image_and_text_of_its_stage(probes, ax):
    positions = analysis.feature_map(probes)
    quality = analysis.map_quality(probes, positions, k=5)
    plotting.feature_map(positions, ax, stage=1, quality=quality)
    assert sum(len(dots.get_offsets()) for dots in ax.collections) == 3 * len(LABELS)
    assert sum(line.get_marker() == "*" for line in ax.lines) == 12
    assert ax.get_title(loc="left") == "after land"
    assert f"trustworthiness {quality['trustworthiness'][1]:.2f}" in ax.get_xlabel()
    # The limits do not depend on the stage, so that a film holds still.
    other = plotting.feature_map(positions, plotting.new_figure()[1], stage=0)
    assert other.get_xlim() == ax.get_xlim()


def test_map_of_one_domain_names_its_classes(probes, ax):
    plotting.feature_map(analysis.feature_map(probes), ax, stage=0, domain="signs", trails=True)
    assert sorted(texts(ax)) == [f"signs {c}" for c in range(4)]
    assert ax.get_title(loc="left") == "frozen CLIP"


def test_names_of_crowded_points_do_not_overlap(ax):
    places = np.array([[0.5, 0.5], [0.5, 0.51], [0.51, 0.5], [0.99, 0.5], [0.01, 0.5]])
    names = ["honeycomb", "checkered", "crossed", "at the right", "at the left"]
    name_points(ax, places, names)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert [box.count_overlaps(boxes) for box in boxes] == [1] * 5  # each overlaps with itself
    edges = ax.get_window_extent()
    assert all(edges.x0 < box.x0 and box.x1 < edges.x1 for box in boxes)


def test_curves_name_every_domain_without_overlap(probes, ax):
    kept = analysis.neighbours_kept(probes, k=5)
    plotting.curves_by_stage(kept, ax, value="kept", chance=5 / 31)
    assert sorted(texts(ax)) == [" by chance", "faces", "land", "signs"]
    heights = sorted(t.get_position()[1] for t in ax.texts if not t.get_text().startswith(" "))
    low, high = ax.get_ylim()
    assert min(np.diff(heights)) > 0.07 * (high - low)
    assert labels(ax.get_xticklabels()) == ["frozen", "land"]
    assert "higher is better" in ax.get_ylabel()


def test_curves_side_by_side_share_limits_that_hold_all(probes):
    figure = plotting.new_figure(1, 2, sharey=True)[0]
    table = analysis.neighbours_kept(probes, k=5)
    plotting.curves_by_stage(table, figure.axes[0], value="kept")
    plotting.curves_by_stage(table.assign(kept=2 * table["kept"]), figure.axes[1], value="kept")
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[1].get_ylim()[1] >= 2


def test_confusions_say_where_images_went(probes, ax):
    drift = analysis.confusion_drift(probes, 1, "signs")
    plotting.confusion_change(drift, ax)
    assert texts(ax)[2 * 4 + 2] == "−100"
    assert texts(ax)[:4] == ["0"] * 4


def test_differences_are_blue_for_gains_and_red_for_losses(ax):
    table = pd.DataFrame([[10.0, -10], [0, np.nan]])
    plotting.difference_cells(table, ax, limit=10)
    gain, loss, none, unknown = ax.collections[0].get_array().reshape(4, 4)
    assert gain[2] > gain[0]
    assert loss[0] > loss[2]
    assert none[:3].min() > 0.95
    assert to_hex(unknown) == "#f3f3f3"
    assert texts(ax) == ["+10", "−10", "0"]


@pytest.fixture
def runs():
    return [
        made_up_run("AB", [[50, 60], [90, 50], [70, 80]], held_out=[40, 39, 30]),
        made_up_run("BA", [[60, 50], [85, 46], [55, 90]], held_out=[40, 35, 34]),
        made_up_run("BA", [[60, 50], [85, 47], [np.nan] * 2], seed=1),
    ]


def test_orders_are_ranked(runs, ax):
    plotting.order_ranking(analysis.order_scores(runs), ax)
    assert texts(ax) == ["50.0", "46.5"]
    strip = [to_hex(patch.get_facecolor()) for patch in ax.patches]
    a, b = (plotting.domain_colour(name).lower() for name in "AB")
    assert strip == [a, b, b, a]


def test_ranking_before_any_score_is_known(runs, ax):
    plotting.order_ranking(analysis.order_scores(runs[2:]), ax, column="last")
    assert texts(ax) == []


def test_pairs_are_where_the_matrix_has_them(runs, ax):
    effects = analysis.pair_effects(analysis.pair_changes(runs))
    plotting.pair_effects(analysis.pair_matrix(effects, "not yet learned"), ax)
    places = {t.get_position(): t.get_text() for t in ax.texts}
    assert places == {(1.5, 0.5): "−10", (0.5, 1.5): "−4"}
    assert labels(ax.get_yticklabels()) == ["A", "B"]
