"""Figures: what a reader sees is what the frame says; colours can be told apart by everybody."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from tiny import tiny_task

from vlcl_toolkit import plotting
from vlcl_toolkit.methods import method_class, method_names
from vlcl_toolkit.plotting.style import _DOMAINS, _METHODS, STYLE
from vlcl_toolkit.training.results import row_names

TOOLKIT = {*_DOMAINS, *_METHODS}  # before any test asks for another name
TASKS = ["land", "digits", "signs"]
ROWS = row_names(TASKS)


@pytest.fixture
def accuracy():
    values = [[45, 55, 50], [80, 50, 40], [70, 90, 30], [60, 75, 85]]
    return pd.DataFrame(values, index=ROWS, columns=TASKS, dtype=float)


@pytest.fixture
def held_out():
    return pd.DataFrame({"faces": [64.0, 60, 55, 51]}, index=ROWS)


@pytest.fixture
def ax():
    return plotting.new_figure()[1]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def labels(ticks):
    return [label.get_text() for label in ticks]


def test_matrix_shows_every_known_number_once(accuracy, held_out, ax):
    accuracy.iloc[2:] = np.nan
    held_out.iloc[2:] = np.nan
    assert plotting.accuracy_matrix(accuracy, ax, held_out=held_out) is ax
    assert sorted(texts(ax)) == sorted(
        ["45.0", "55.0", "50.0", "80.0", "50.0", "40.0", "64.0", "60.0"]
    )
    assert labels(ax.get_xticklabels()) == [*TASKS, "faces"]
    assert labels(ax.get_yticklabels()) == ROWS


def test_matrix_frames_what_was_just_learned(accuracy, ax):
    plotting.accuracy_matrix(accuracy, ax)
    frames = [p.get_xy() for p in ax.patches if not p.get_fill()]
    assert frames == [(0, 1), (1, 2), (2, 3)]


def test_matrix_without_held_out_tasks(accuracy, ax):
    plotting.accuracy_matrix(accuracy, ax, held_out=pd.DataFrame(index=ROWS))
    assert len(ax.texts) == accuracy.size


@pytest.mark.parametrize(
    ("score", "cells"),
    [
        ("transfer", [(0, 1), (0, 2), (1, 2)]),
        ("average", list(itertools.product(range(3), range(3)))),
        ("last", [(2, 0), (2, 1), (2, 2)]),
        ("forgetting", [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1)]),
    ],
)
def test_highlighted_cells_are_those_of_the_score(score, cells, accuracy, ax):
    assert sorted(zip(*plotting.score_cells(3, score).nonzero(), strict=True)) == sorted(cells)
    plotting.accuracy_matrix(accuracy, ax, highlight=score)
    faded = [text for text in ax.texts if text.get_color() == "#8a8a8a"]
    assert len(faded) == accuracy.size - len(cells)


def test_unseen_curves_end_when_their_task_is_learned(accuracy, held_out, ax):
    plotting.unseen_accuracy(accuracy, ax, held_out=held_out)
    curves = {
        line.get_color(): list(line.get_ydata()) for line in ax.lines if line.get_marker() != "None"
    }
    assert curves == {
        plotting.domain_colour("land"): [45],
        plotting.domain_colour("digits"): [55, 50],
        plotting.domain_colour("signs"): [50, 40, 30],
        plotting.domain_colour("faces"): [64, 60, 55, 51],
    }
    assert sorted(texts(ax)) == sorted([*TASKS, "faces"])


def test_names_of_equal_curves_do_not_overlap(ax):
    equal = pd.DataFrame(50.0, index=ROWS, columns=TASKS)
    plotting.unseen_accuracy(equal, ax)
    heights = sorted(text.get_position()[1] for text in ax.texts)
    assert min(np.diff(heights)) > 6.9


def test_unseen_curves_before_anything_is_known(ax):
    plotting.unseen_accuracy(pd.DataFrame(np.nan, index=ROWS, columns=TASKS), ax)
    assert texts(ax) == []


def test_bars_and_guessing(ax):
    percent = pd.Series({"land": 62.4, "digits": 41.0})
    plotting.accuracy_bars(percent, ax, chance=pd.Series({"digits": 10.0, "land": 12.5}))
    assert texts(ax) == ["62", "41"]
    assert [segment[0][0] for segment in ax.collections[0].get_segments()] == [12.5, 10]


def test_change_says_the_points(ax):
    change = pd.DataFrame({"then": [60.0, 40, 50], "now": [40.0, 70, 50.4]}, index=TASKS)
    plotting.accuracy_change(change, ax)
    assert [t for t in texts(ax) if t] == ["−20", "+30", "+0", "points"]
    assert "then" in ax.get_xlabel()
    assert "now" in ax.get_xlabel()


def test_comparison_prints_means_over_runs(ax):
    runs = [("finetune", 40.0), ("finetune", 50.0), ("zero_shot", 58.0)]
    scores = pd.DataFrame(runs, columns=["method", "transfer"])
    plotting.method_comparison(scores, ax, columns=["transfer"])
    assert texts(ax) == ["45.0", "58.0"]
    assert labels(ax.get_legend().texts) == ["finetune (2 runs)", "zero_shot (1 run)"]


def test_comparison_of_a_score_that_a_single_task_does_not_have(ax):
    scores = pd.DataFrame({"method": ["finetune"], "transfer": [np.nan], "last": [50.0]})
    plotting.method_comparison(scores, ax, columns=["transfer", "last"])
    assert texts(ax) == ["50.0"]


def test_trade_off_numbers_the_runs_and_names_each_method_once(ax):
    rows = [("finetune", -9.0, 20.0), ("finetune", np.nan, 5.0), ("zscl", -1.0, 15.0)]
    runs = pd.DataFrame(rows, columns=["method", "transfer", "last"]).assign(shown=[0, 0, 1])
    plotting.trade_off(runs, ax)
    assert texts(ax) == ["1", "3"]  # a single task has no Transfer
    assert labels(ax.get_legend().texts) == ["frozen CLIP", "finetune", "zscl"]
    points = [line.get_xydata().tolist() for line in ax.lines if len(line.get_xdata()) == 1]
    assert points == [[[0, 0]], [[-9, 20]], [[-1, 15]]]


def test_learning_rate_marks_what_validation_prefers(ax):
    rates = [1e-4, 1e-4, 6e-4, 6e-4]
    scores = pd.DataFrame(
        {"learning_rate": rates, "validation": [70.0, 72, 80, 78], "transfer": [55.0, 56, 40, 44]}
    )
    plotting.learning_rate_curves(scores, ax, frozen_transfer=58.0)
    assert "validation prefers 6e-4" in labels(ax.get_legend().texts)
    assert labels(ax.get_xticklabels()) == ["1e-4", "6e-4"]


def test_probabilities_keep_the_right_class_in_view(ax):
    values = pd.Series([0.5, 0.3, 0.15, 0.05], index=["a", "b", "c", "d"])
    plotting.class_probabilities(values, ax, truth="d", top=2)
    assert labels(ax.get_yticklabels()) == ["a", "d ✓"]
    assert texts(ax) == ["50", "5"]


def test_pictures_of_tasks(ax):
    tasks = [tiny_task("pets", ("cat", "dog"), 0), tiny_task("food", ("apple", "bread"), 1)]
    plotting.domain_examples(tasks, ax, columns=2)
    assert len(ax.images) == 4
    assert texts(ax) == ["pets", "cat", "dog", "food", "apple", "bread"]
    for task, shown in zip(tasks, (ax.images[:2], ax.images[2:]), strict=True):
        for label, image in enumerate(shown):
            same = (task.train.images == torch.tensor(image.get_array()).movedim(-1, 0)).flatten(1)
            assert int(task.train.labels[same.all(dim=1)]) == label


def test_order_strip_numbers_the_tasks(ax):
    tasks = [tiny_task("pets", ("cat", "dog"), 0), tiny_task("food", ("apple", "bread"), 1)]
    plotting.order_strip(tasks, ax, label=5)
    assert [text for text in texts(ax) if text] == ["1  pets", "2  food"]


def test_a_single_image_with_its_title(ax):
    plotting.show_image(torch.zeros(3, 8, 8, dtype=torch.uint8), ax, "title")
    assert len(ax.images) == 1
    assert texts(ax) == ["title"]


def test_pretraining_log_measured_now_and_then(ax):
    log = pd.DataFrame({"samples": [1e6, 2e6, 3e6], "loss": [3.0, 2, 1], "land": [np.nan, 30, 60]})
    plotting.pretraining_zero_shot(log, ax, domains=["land"])
    assert list(ax.lines[-1].get_xdata()) == [2, 3]
    other = plotting.pretraining_loss(log, plotting.new_figure()[1])
    assert "lower is better" in other.get_ylabel()


def test_figures_leave_no_trace_outside(accuracy, ax):
    before = dict(matplotlib.rcParams)
    plotting.accuracy_matrix(accuracy, ax)
    plotting.to_png(ax.figure)
    assert dict(matplotlib.rcParams) == before


def test_png_has_the_size_asked_for(accuracy):
    figure, ax = plotting.new_figure(width=5, height=3)
    plotting.accuracy_matrix(accuracy, ax)
    png = plotting.to_png(figure)
    assert png.startswith(b"\x89PNG")
    size = [int.from_bytes(png[i : i + 4], "big") for i in (16, 20)]
    assert size == [5 * STYLE["savefig.dpi"], 3 * STYLE["savefig.dpi"]]


def test_every_method_has_a_look_of_its_own():
    ours = [n for n in method_names() if method_class(n).__module__.startswith("vlcl_toolkit.")]
    assert set(ours) <= TOOLKIT
    names = [*ours, "a reader's own", "another"]
    looks = [(plotting.method_colour(name), plotting.method_marker(name)) for name in names]
    assert len(set(looks)) == len(names)


def test_unknown_domains_get_looks_of_their_own(monkeypatch):
    embedded = {name: look for name, look in _DOMAINS.items() if name in TOOLKIT}
    monkeypatch.setattr("vlcl_toolkit.plotting.style._DOMAINS", embedded)
    names = [*embedded, "mushrooms", "galaxies", "handbags"]
    assert len({plotting.domain_colour(name) for name in names}) == len(names)
    assert plotting.domain_colour("mushrooms") == plotting.domain_colour("mushrooms")


# Machado, Oliveira and Fernandes 2009: linear RGB as it is seen with severity 1.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, vision):
    """CIE L*a*b* (D65) of a colour as it is seen."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.asarray(VISION[vision]) @ linear, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("table", [_DOMAINS, _METHODS], ids=["domains", "methods"])
def test_colours_can_be_told_apart(table, vision):
    known = [item for item in table.items() if item[0] in TOOLKIT]
    for (first, (a, marker)), (second, (b, other)) in itertools.combinations(known, 2):
        distance = np.linalg.norm(lab(a, vision) - lab(b, vision))
        assert distance > 8, (first, second)  # well above 2.3, the smallest that one can notice
        assert marker != other
