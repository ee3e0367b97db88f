"""Widgets: sliders keep a permutation, the panel trains, stops, resumes and shows what goes wrong."""

import threading

import pandas as pd
import pytest
from tiny import SETTINGS, tiny_task

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.streams import TaskStream
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.training.results import RunResult
from vlcl_toolkit.widgets import (
    OrderSliders,
    RunPanel,
    ZeroShotViewer,
    enter_project,
    live_panel,
)
from vlcl_toolkit.widgets.view import ErrorView

SECONDS = 120.0  # more than any of these runs needs on a busy machine


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def letters():
    return TaskStream("letters", tuple(tiny_task(n, ("x", "y"), 0) for n in "abcde"), "random-1")


@pytest.fixture
def panel(clip, stream, settings):
    panel = RunPanel(stream, clip, configs={"finetune": settings})
    panel.method.value = "finetune"
    return panel


def positions(sliders):
    return {name: slider.value for name, slider in sliders.sliders.items()}


def finish(panel):
    panel.start()
    assert panel.wait(SECONDS)
    assert panel.error_view.error is None, panel.error_view.value


# Order sliders.


def test_sliders_begin_with_the_order_of_the_stream(letters):
    sliders = OrderSliders(letters)
    assert sliders.order == tuple("abcde")
    assert positions(sliders) == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}


def test_moving_a_slider_swaps_with_the_one_that_was_there(letters):
    sliders = OrderSliders(letters)
    sliders.sliders["a"].value = 4
    assert sliders.order == tuple("dbcae")
    assert positions(sliders) == {"a": 4, "b": 2, "c": 3, "d": 1, "e": 5}


def test_any_sequence_of_moves_keeps_a_permutation(letters):
    sliders = OrderSliders(letters)
    for move in range(60):
        sliders.sliders["abcde"[move * 7 % 5]].value = 1 + move * 11 % 5
        assert sorted(sliders.order) == list("abcde")
        assert positions(sliders) == {name: i for i, name in enumerate(sliders.order, start=1)}


def test_one_move_is_one_change(letters):
    sliders, seen = OrderSliders(letters), []
    sliders.observe(lambda change: seen.append("".join(change.new)), "order")
    sliders.sliders["a"].value = 2
    sliders.sliders["e"].value = 1
    assert seen == ["bacde", "eacdb"]


def test_order_can_be_set_and_reset(letters):
    sliders = OrderSliders(letters)
    sliders.order = [4, 3, 2, 1, 0]
    assert sliders.order == tuple("edcba")
    assert sliders.stream.names == tuple("edcba")
    assert "<span" in sliders.children[-3].value
    sliders.reset.click()
    assert positions(sliders)["a"] == 1


@pytest.mark.parametrize("order", [["a", "a", "b", "c", "d"], ["a"], ["a", "b", "c", "d", "zebra"]])
def test_no_permutation_is_refused_and_nothing_moves(letters, order):
    sliders = OrderSliders(letters)
    with pytest.raises(UserError):
        sliders.order = order
    assert sliders.order == tuple("abcde")
    assert positions(sliders)["e"] == 5


def test_a_single_task_has_nothing_to_order(letters):
    sliders = OrderSliders(letters.subset(["b"]))
    assert sliders.order == ("b",)
    assert sliders.sliders["b"].disabled


# The panel.


def test_panel_trains_and_agrees_with_run(panel, clip, stream, settings):
    before = clip.weights_sha256
    finish(panel)
    expected = run("finetune", stream, clip, config=settings, out="elsewhere", progress=False)
    pd.testing.assert_frame_equal(panel.result.accuracy, expected.accuracy)
    assert panel.progress.value == 1
    assert panel.status.value.startswith("Complete")
    assert "finetune" in panel.scores.value
    assert clip.holder is None
    assert clip.weights_sha256 == before
    assert str(panel.result.folder).startswith("runs")


def test_matrix_fills_row_by_row(panel, monkeypatch):
    pictures, states = [], []
    plain = live_panel.LivePanel.refresh

    def record(self, *arguments):
        plain(self, *arguments)
        pictures.append(self.matrix.value)
        states.append(self.run_button.disabled)

    monkeypatch.setattr(live_panel.LivePanel, "refresh", record)
    finish(panel)
    assert len(set(pictures)) == 3  # zero-shot, after pets, after food
    assert states == [True, True, True, False]


def test_run_says_at_once_what_happens(panel, monkeypatch):
    monkeypatch.setattr(live_panel.BackgroundRun, "start", lambda self: None)
    panel.start()
    assert panel.status.value.startswith("Starting")


def test_going_back_shows_the_run_at_once(panel):
    finish(panel)
    matrix, result = panel.matrix.value, panel.result
    panel.sliders.sliders["pets"].value = 2
    assert panel.result is None
    assert panel.matrix.value != matrix
    assert panel.status.value.startswith("Not run")
    panel.sliders.reset.click()
    assert panel.matrix.value == matrix
    assert panel.result is result
    panel.start()  # nothing to do
    assert not panel.running


def test_zero_shot_row_is_known_for_every_order(panel):
    finish(panel)
    panel.sliders.order = ["food", "pets"]
    accuracy, held_out = panel._known.tables(panel.key)
    assert accuracy.iloc[0].notna().all()
    assert accuracy.iloc[1:].isna().all(axis=None)
    assert held_out.iloc[0].notna().all()


def test_known_results_are_shown_from_the_beginning(clip, stream, settings):
    result = run("finetune", stream, clip, config=settings, progress=False)
    panel = RunPanel(stream, clip, configs={"finetune": settings}, known=[result])
    panel.method.value = "finetune"
    assert panel.result is result
    assert panel.status.value.startswith("Complete")


def test_stop_leaves_a_run_that_goes_on(clip, stream):
    longer = SETTINGS | {"iterations": 40}
    panel = RunPanel(stream, clip, configs={"finetune": longer})
    panel.method.value = "finetune"
    panel.start()
    assert panel.sliders.sliders["pets"].disabled
    panel.stop()
    assert panel.wait(SECONDS)
    assert panel.result is None
    assert panel.status.value.startswith("Stopped")
    assert not panel.run_button.disabled
    assert not panel.sliders.sliders["pets"].disabled
    finish(panel)
    straight = run("finetune", stream, clip, config=longer, out="straight", progress=False)
    pd.testing.assert_frame_equal(panel.result.accuracy, straight.accuracy)


def test_page_stays_alive_while_training(clip, stream):
    panel = RunPanel(stream, clip, configs={"finetune": SETTINGS | {"iterations": 40}})
    panel.method.value = "finetune"
    panel.start()
    assert panel.running  # although `start` has returned
    assert threading.current_thread() is threading.main_thread()
    panel.stop()
    assert panel.wait(SECONDS)


def test_users_mistake_is_one_line(clip, stream):
    panel = RunPanel(stream, clip, configs={"finetune": {"learning_rat": 1.0}})
    panel.method.value = "finetune"
    panel.start()
    assert panel.wait(SECONDS)
    assert isinstance(panel.error_view.error, UserError)
    assert "learning_rate" in panel.error_view.value
    assert "Traceback" not in panel.error_view.value
    assert not panel.run_button.disabled


def test_bug_in_training_is_shown_with_its_traceback(panel, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("in the <thread>")

    with monkeypatch.context() as patch:
        patch.setattr("vlcl_toolkit.widgets.runs.run", broken)
        panel.start()
        assert panel.wait(SECONDS)
    assert isinstance(panel.error_view.error, ZeroDivisionError)
    assert "Traceback" in panel.error_view.value
    assert "in the &lt;thread&gt;" in panel.error_view.value
    panel.start()
    assert panel.wait(SECONDS)
    assert panel.error_view.value == ""


def test_bug_in_a_callback_is_shown(panel, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("while drawing")

    monkeypatch.setattr(live_panel, "accuracy_matrix", broken)
    panel.sliders.sliders["pets"].value = 2
    assert isinstance(panel.error_view.error, ZeroDivisionError)
    assert "while drawing" in panel.error_view.value


def test_unknown_method(clip, stream):
    with pytest.raises(UserError, match="did you mean 'finetune'"):
        RunPanel(stream, clip, methods=["fintune"])
    with pytest.raises(UserError, match="did you mean 'finetune'"):
        RunPanel(stream, clip, configs={"fintune": {}})


def test_backbone_in_use_by_another_cell_is_refused(panel, clip):
    with make_method("finetune", clip):  # its weights may be in the middle of a training
        panel.start()
        assert panel.wait(SECONDS)
    assert "held by a method" in panel.error_view.value
    finish(panel)


def test_stream_without_held_out_tasks(clip, stream, settings):
    alone = TaskStream("alone", stream.tasks, stream.split_id)
    panel = RunPanel(alone, clip, configs={"finetune": settings})
    panel.method.value = "finetune"
    finish(panel)
    assert panel.result.complete


def test_panel_draws_a_static_figure(panel):
    finish(panel)
    matrix, curves = panel.figure().axes
    assert len(matrix.texts) == panel.result.accuracy.size + panel.result.held_out.size
    assert curves.get_xlabel().startswith("learned last")


# The viewer.


def test_viewer_agrees_with_the_model(clip, stream):
    viewer = ZeroShotViewer(stream, clip)
    viewer.domain.value = "food"
    viewer.image.value = 3
    task = stream["food"]
    with make_method("zero_shot", clip) as method:
        image = clip.eval_transform(task.test.images[3])[None]
        expected = method.predict(image, task).softmax(dim=1)[0]
    assert list(viewer.probabilities.index) == ["apple", "bread"]
    assert viewer.probabilities.to_numpy() == pytest.approx(expected.numpy())
    assert bytes(viewer.picture.value).startswith(b"\x89PNG")


def test_viewer_takes_class_names_of_the_reader(clip, stream):
    viewer = ZeroShotViewer(stream, clip)
    viewer.names.value = "a tree,  a stone , a cat"
    assert list(viewer.probabilities.index) == ["a tree", "a stone", "a cat"]
    assert viewer.probabilities.sum() == pytest.approx(1)
    viewer.domain.value = "land"  # held out, and in the list all the same
    assert list(viewer.probabilities.index) == list(stream.held_out[0].class_names)


def test_viewer_shows_errors(clip, stream, monkeypatch):
    def refuse(texts):
        raise UserError("unknown word; found 'tree'; use another")

    viewer = ZeroShotViewer(stream, clip)
    monkeypatch.setattr(clip, "tokenizer", refuse)
    viewer.names.value = "tree"
    assert "unknown word" in viewer.error_view.value
    monkeypatch.undo()
    viewer.names.value = "stone"
    assert viewer.error_view.value == ""


@pytest.mark.parametrize("names", ["", " , "])
def test_viewer_without_class_names_says_so(clip, stream, names):
    viewer = ZeroShotViewer(stream, clip)
    viewer.names.value = names
    assert isinstance(viewer.error_view.error, UserError)


# Around them.


def test_error_view_escapes_and_clears():
    view = ErrorView()
    view.show(UserError("<b>odd</b>"))
    assert "&lt;b&gt;odd" in view.value
    view.clear()
    assert (view.error, view.value) == (None, "")


def test_project_folder(tmp_path, monkeypatch):
    inner = tmp_path / "notebooks" / "deep"
    inner.mkdir(parents=True)
    monkeypatch.delenv("VLCL_PROJECT", raising=False)
    monkeypatch.chdir(inner)
    (tmp_path / "pyproject.toml").touch()
    assert enter_project() == tmp_path
    assert enter_project() == tmp_path  # a cell may be run twice
    monkeypatch.setenv("VLCL_PROJECT", str(inner))
    assert enter_project() == inner


def test_results_of_the_panel_are_results_on_disk(panel):
    finish(panel)
    assert RunResult.load(panel.result.folder).metrics == panel.result.metrics
