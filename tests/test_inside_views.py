"""Views of the explorer that look inside a run with probes."""

import pytest
from tiny import SETTINGS, tiny_clip, tiny_stream

from vlcl_toolkit import analysis
from vlcl_toolkit.probes import ProbeConfig
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.widgets import RunExplorer, probe_views


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finetune"
    options = {"config": SETTINGS, "probes": ProbeConfig(12), "progress": False}
    return run("finetune", tiny_stream(), tiny_clip(), out=folder, **options)


@pytest.fixture(scope="module")
def positions(result):
    return analysis.feature_map(result.probes)


def test_explorer_drives_every_view(result, positions):
    quality = analysis.map_quality(result.probes, positions, k=5)
    views = [
        ("drift", probe_views.drift_view),
        ("sides", probe_views.sides_view),
        ("confusion", probe_views.confusion_view),
        ("map", probe_views.map_view(positions, quality)),
        ("classes", probe_views.map_view(positions, by_class=True)),
    ]
    explorer = RunExplorer(result, views, domain="food")  # whose answers change at every stage
    pictures = [view.picture.value for view in explorer.views]
    explorer.stage.value = 1
    assert [view.error_view.error for view in explorer.views] == [None] * len(views)
    assert all(
        view.picture.value != old for view, old in zip(explorer.views, pictures, strict=True)
    )


def test_stage_0_is_no_error(result, positions):
    views = [
        ("drift", probe_views.drift_view),
        ("sides", probe_views.sides_view),
        ("confusion", probe_views.confusion_view),
        ("map", probe_views.map_view(positions)),
        ("decisions", probe_views.decision_view),
        ("experts", probe_views.experts_view),
        ("weights", probe_views.calibration_view),
    ]
    explorer = RunExplorer(result, views, stage=0)
    assert {view.label: view.error_view.value for view in explorer.views} == dict.fromkeys(
        [label for label, _ in views], ""
    )


def test_limits_of_drift_stay_over_the_stages(result):
    figures = [probe_views.drift_view(result, stage, "pets") for stage in (0, 1, 2)]
    limits = {figure.axes[0].get_ylim() for figure in figures}
    assert len(limits) == 1
    assert limits.pop()[1] >= 0.1


def test_map_shows_the_classes_of_the_chosen_domain(result, positions):
    draw = probe_views.map_view(positions, by_class=True)
    names = {text.get_text() for text in draw(result, 2, "land").axes[0].texts}
    assert {"river", "forest", "road", "sea"} <= names
