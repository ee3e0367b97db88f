"""Walking through runs, figure sliders, and the panel of a method's settings."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from tiny import SETTINGS, tiny_clip, tiny_stream

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.plotting import new_figure
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.widgets import FigureSliders, RunExplorer, SettingsPanel, selector_sliders

SECONDS = 120.0  # more than any of these runs needs on a busy machine


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finetune"
    return run("finetune", tiny_stream(), tiny_clip(), config=SETTINGS, out=folder, progress=False)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "zero_shot"
    return run("zero_shot", tiny_stream(), tiny_clip(), out=folder, progress=False)


class Drawn:
    """A view that counts what it has drawn."""

    def __init__(self):
        self.choices = []

    def __call__(self, result, stage, domain):
        self.choices.append((result.method, stage, domain))
        figure, ax = new_figure(width=2, height=1)
        ax.set_title(f"{result.method} {stage} {domain}")
        return figure


def titles(figure):
    return [ax.get_title(loc="left") + ax.get_title() for ax in figure.axes]


# The explorer.


def test_every_control_drives_every_view(result, frozen):
    one, two = Drawn(), Drawn()
    explorer = RunExplorer([frozen, result], [("one", one), ("two", two)], stage=0)
    explorer.stage.value = 2
    explorer.domain.value = "land"
    explorer.run.value = "finetune"
    expected = [
        ("zero_shot", 0, "pets"),
        ("zero_shot", 2, "pets"),
        ("zero_shot", 2, "land"),
        ("finetune", 2, "land"),
    ]
    assert one.choices == two.choices == expected
    assert explorer.domain.options == ("pets", "food", "land")


def test_going_back_draws_nothing(result):
    drawn = Drawn()
    explorer = RunExplorer(result, [("view", drawn)])
    shown = explorer.views[0].picture.value
    for stage in (1, 0, 1, 2):
        explorer.stage.value = stage
    assert explorer.views[0].picture.value == shown
    assert [stage for _, stage, _ in drawn.choices] == [2, 1, 0]


def test_says_what_was_learned_and_what_will_come(result):
    explorer = RunExplorer(result, [("view", Drawn())], stage=1)
    assert "pets" in explorer._place.value
    assert explorer._place.value.endswith("to come: food")
    explorer.stage.value = 0
    assert "frozen CLIP" in explorer._place.value


def test_error_of_one_view_leaves_the_others(result):
    def broken(result, stage, domain):
        return {}[stage]

    drawn = Drawn()
    explorer = RunExplorer(result, [("broken", broken), ("fine", drawn)])
    explorer.stage.value = 0
    bad, good = explorer.views
    assert isinstance(bad.error_view.error, KeyError)
    assert "Traceback" in bad.error_view.value
    assert bad.picture.layout.display == "none"
    assert good.error_view.error is None
    assert len(drawn.choices) == 2


def test_missing_probe_is_named_and_goes_away_with_the_next_choice(result):
    def features(result, stage, domain):
        if stage:
            result.probes.image_features(stage, domain)
        return Drawn()(result, stage, domain)

    explorer = RunExplorer(result, [("features", features)])
    view = explorer.views[0]
    assert isinstance(view.error_view.error, UserError)
    assert "--probes" in view.error_view.value
    assert "Traceback" not in view.error_view.value
    explorer.stage.value = 0
    assert view.error_view.value == ""
    assert view.picture.layout.display in ("", None)


def test_static_figure_holds_every_view(result):
    explorer = RunExplorer(result, [("one", Drawn()), ("two", Drawn())])
    assert titles(explorer.figure()) == ["one", "two"]


def test_runs_of_one_method_are_told_apart(result, tmp_path):
    other = dataclasses.replace(result, seed=3)
    again = dataclasses.replace(result, folder=tmp_path)
    assert RunExplorer([result, other], []).run.options == ("finetune, seed 0", "finetune, seed 3")
    assert len(RunExplorer([result, again], []).run.options) == 2
    assert RunExplorer({"mine": result}, []).run.options == ("mine",)


def test_runs_that_cannot_be_compared_are_refused(result):
    other = dataclasses.replace(result, stream="another")
    with pytest.raises(UserError, match="different streams"):
        RunExplorer([result, other], [])


@pytest.mark.parametrize("options", [{"stage": 3}, {"stage": -1}, {"domain": "lands"}])
def test_unknown_stage_or_domain(result, options):
    with pytest.raises(UserError):
        RunExplorer(result, [], **options)


def test_nothing_to_explore():
    with pytest.raises(UserError, match="no runs"):
        RunExplorer([], [])


# Sliders over given values.


def test_figure_follows_the_sliders_and_is_drawn_once():
    drawn = []

    def draw(threshold, mix):
        drawn.append((threshold, mix))
        return new_figure(width=2, height=1)[0]

    values = {"threshold": [0.1, 0.2, 0.3], "mix": [1, 50, 100]}
    sliders = FigureSliders(draw, values, start={"mix": 50}, labels={"mix": "Mix (percent)"})
    sliders.sliders["threshold"].value = 0.3
    sliders.sliders["threshold"].value = 0.1
    assert drawn == [(0.1, 50), (0.3, 50)]
    assert sliders.values == {"threshold": 0.1, "mix": 50}
    assert sliders.sliders["mix"].description == "Mix (percent)"
    sliders.figure()
    assert len(drawn) == 3


def test_error_of_a_figure_is_shown():
    sliders = FigureSliders(lambda share: 1 / share, {"share": [0, 1]})
    assert isinstance(sliders.view.error_view.error, ZeroDivisionError)


def test_selector_sliders_analyse_and_draw_what_is_chosen():
    frames = []

    def analyse(**chosen):
        frames.append(pd.DataFrame([chosen]))
        return frames[-1]

    def plot(frame, ax):
        ax.set_title(", ".join(f"{name} {frame[name][0]:g}" for name in frame))
        return ax

    both = selector_sliders(
        analyse, plot, thresholds=[0.1, 0.2], mixes=[1, 100], start={"mix": 100}
    )
    assert list(frames[-1].iloc[0]) == [0.1, 100]
    both.sliders["threshold"].value = 0.2
    assert titles(both.figure()) == ["threshold 0.2, mix 100"]
    alone = selector_sliders(analyse, plot, thresholds=np.linspace(0, 1, 3))
    assert list(alone.sliders) == ["threshold"]
    assert alone.view.error_view.error is None


@pytest.mark.parametrize(("values", "start"), [([], None), ([1], None), ([1, 2], 3)])
def test_slider_needs_values(values, start):
    with pytest.raises(UserError):
        FigureSliders(lambda share: None, {"share": values}, start={"share": start})


# The settings of a method.


@pytest.fixture
def panel(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"learning_rate": [1e-4, 1e-3, 1e-2], "warmup": [0, 2]}
    return SettingsPanel(
        tiny_stream(), tiny_clip(), method="finetune", values=values, config=SETTINGS
    )


def finish(panel):
    panel.start()
    assert panel.wait(SECONDS)
    assert panel.error_view.error is None, panel.error_view.value


def test_panel_trains_with_the_values_chosen_and_keeps_every_run(panel):
    assert panel.values == {"learning_rate": 1e-3, "warmup": 2}
    finish(panel)
    first, matrix = panel.result, panel.matrix.value
    panel.sliders["learning_rate"].value = 1e-2
    assert panel.result is None
    assert panel.status.value.startswith("Not run")
    finish(panel)
    second = panel.result
    rates = [r.config["method_config"]["learning_rate"] for r in (first, second)]
    assert rates == [1e-3, 1e-2]
    assert second.config["method_config"]["iterations"] == SETTINGS["iterations"]
    panel.reset.click()
    assert panel.result is first
    assert panel.matrix.value == matrix
    assert "learning_rate: 0.01" in panel.scores.value
    assert panel.comparison.layout.display in ("", None)


def test_recipe_value_that_is_not_listed_is_put_in_its_place():
    panel = SettingsPanel(
        tiny_stream(),
        tiny_clip(),
        values={"weight_consolidation": [0.0, 1.0]},
        config={"weight_consolidation": 0.25},
    )
    assert [value for _, value in panel.sliders["weight_consolidation"].options] == [0.0, 0.25, 1.0]
    assert panel.values == {"weight_consolidation": 0.25}


def test_zscl_can_lose_each_of_its_parts():
    panel = SettingsPanel(tiny_stream(), tiny_clip())
    for name, value in {"image_side": False, "text_side": "off", "averaging": "none"}.items():
        panel.sliders[name].value = value
        assert panel.settings[name] == value
    assert panel.error_view.error is None


def test_known_results_are_shown_by_their_settings(panel, result):
    values = {"learning_rate": [1e-3, 1e-2]}
    options = {"method": "finetune", "values": values, "config": SETTINGS, "known": [result]}
    panel = SettingsPanel(tiny_stream(), tiny_clip(), **options)
    assert panel.result is result
    panel.sliders["learning_rate"].value = 1e-2
    assert panel.result is None


def test_unknown_setting():
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        SettingsPanel(tiny_stream(), tiny_clip(), values={"learning_rat": [1, 2]})


def test_controls_are_locked_while_training(panel):
    panel.start()
    assert panel.sliders["warmup"].disabled
    panel.stop()
    assert panel.wait(SECONDS)
    assert not panel.sliders["warmup"].disabled
