"""The notebooks in a real JupyterLab: what a reader does with keyboard and mouse, and sees."""

import re

import pytest
from lab import NotebookPage, button, picture, press, slider_value
from playwright.sync_api import expect

REGRESSION = ("Label space", "Width", "Relative ridge", "Fusion")
SMALL = (
    """
import vlcl_toolkit as vlcl
from vlcl_toolkit import plotting, widgets

widgets.enter_project()
clip = vlcl.load_clip("mini")
stream = vlcl.load_stream("mini")
stream = vlcl.TaskStream("two", (stream["digits"], stream["signs"]), stream.split_id)
quick = {"iterations": 2, "warmup": 1, "batch_size": 8}
result = vlcl.run("finetune", stream, clip, config=quick, progress=False)
""",
    """
def bars(result, stage, domain):
    figure, ax = plotting.new_figure(width=5, height=2)
    plotting.accuracy_bars(result.accuracy.iloc[stage], ax)
    return figure

def broken(result, stage, domain):
    return {0: bars, 2: bars}[stage](result, stage, domain)

widgets.RunExplorer(result, [("Bars", bars), ("Broken", broken)])
""",
    """
def line(threshold):
    figure, ax = plotting.new_figure(width=5, height=2)
    ax.axvline(threshold)
    return figure

widgets.FigureSliders(line, {"threshold": [0.1, 0.2, 0.3]})
""",
    """
endless = quick | {"iterations": 5000}
run_panel = widgets.RunPanel(stream, clip, methods=["finetune"], configs={"finetune": endless})
run_panel
""",
    """
settings_panel = widgets.SettingsPanel(stream, clip, method="finetune", config=quick, values={
    "learning_rate": [1e-5, 1e-4], "label_smoothing": [0.0, 0.2]})
settings_panel
""",
)


def sequence(root):
    """The line that spells the order."""
    return root.locator(".widget-html-content", has_text="→").first


def no_alert(root):
    expect(root.locator("[role=alert]")).to_have_count(0)


def test_notebook_00_a_newcomer_looks_at_the_next_image(page, server):
    notebook = NotebookPage(page, server, "00_start_here.ipynb")
    notebook.run_all()
    viewer = notebook.output("widgets.ZeroShotViewer")
    image = viewer.locator("img")
    before, address = picture(image), image.get_attribute("src")
    press(viewer, "Image", "ArrowRight")
    expect(image).not_to_have_attribute("src", address)
    assert slider_value(viewer, "Image") == 1
    assert picture(image) != before
    no_alert(viewer)
    assert notebook.errors() == []


@pytest.mark.slow
def test_notebook_01_order_by_keyboard_and_a_live_run(page, server):
    notebook = NotebookPage(page, server, "01_streams_and_metrics.ipynb")
    notebook.run_all()
    sliders = notebook.output("sliders = widgets.OrderSliders")
    names = sequence(sliders).inner_text().split(" → ")
    assert len(names) == 6
    press(sliders, names[0], "ArrowRight")
    moved = [names[1], names[0], *names[2:]]
    expect(sequence(sliders)).to_have_text(" → ".join(moved))
    assert [slider_value(sliders, name) for name in moved] == [1, 2, 3, 4, 5, 6]

    panel = notebook.output("panel = widgets.RunPanel")
    press(panel, names[0], "End")
    moved = [names[-1], *names[1:-1], names[0]]
    expect(sequence(panel)).to_have_text(" → ".join(moved))
    assert [slider_value(panel, name) for name in moved] == [1, 2, 3, 4, 5, 6]
    heat_map = panel.locator("img").first
    empty = picture(heat_map)
    button(panel, "Run").click()
    expect(button(panel, "Stop")).to_be_enabled()
    expect(panel.get_by_text(re.compile("^Complete"))).to_be_visible()
    assert picture(heat_map) != empty
    no_alert(panel)
    assert notebook.errors() == []


@pytest.mark.slow
def test_notebook_11_the_regression_is_solved_again_at_every_move(page, server):
    notebook = NotebookPage(page, server, "11_knowing_the_task.ipynb")
    notebook.run_all()
    panel = notebook.output("panel = widgets.regression_sliders")
    image = panel.locator("img")
    seen = [picture(image)]
    for name in REGRESSION:
        address = image.get_attribute("src")
        press(panel, name, "ArrowLeft")
        expect(image).not_to_have_attribute("src", address)
        seen.append(picture(image))
        no_alert(panel)
    assert len(set(seen)) == len(seen)
    assert notebook.errors() == []


@pytest.fixture(scope="module")
def small(browser, server):
    """A small notebook with every kind of control, all cells run."""
    server.write("small.ipynb", *(source.strip() for source in SMALL))
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    notebook = NotebookPage(context.new_page(), server, "small.ipynb")
    notebook.run_all()
    yield notebook
    context.close()


@pytest.mark.slow
def test_stage_slider_drives_views_and_a_failing_one_is_visible(small):
    explorer = small.output("widgets.RunExplorer")
    bars = explorer.locator("img").first
    end = picture(bars)
    no_alert(explorer)
    press(explorer, "Stage (after task k)", "ArrowLeft")
    alert = explorer.locator("[role=alert]")
    expect(alert).to_contain_text("Traceback")
    expect(alert).to_contain_text("KeyError: 1")
    expect(explorer.locator("img:visible")).to_have_count(1)  # of the other view
    assert slider_value(explorer, "Stage (after task k)") == 1
    assert picture(bars) != end
    press(explorer, "Stage (after task k)", "ArrowRight")
    expect(explorer.locator("img:visible")).to_have_count(2)
    no_alert(explorer)
    assert picture(bars) == end


@pytest.mark.slow
def test_threshold_slider_redraws(small):
    sliders = small.output("widgets.FigureSliders")
    image = sliders.locator("img")
    before, address = picture(image), image.get_attribute("src")
    press(sliders, "threshold", "ArrowRight")
    expect(image).not_to_have_attribute("src", address)
    assert picture(image) != before
    no_alert(sliders)


@pytest.mark.slow
def test_keys_pressed_in_a_panel_are_not_commands_of_the_notebook(small):
    """In command mode m makes a cell Markdown, x cuts it, l numbers its lines, the arrow goes to the next."""
    sliders = small.output("widgets.FigureSliders")
    kinds, chosen = small.cell_kinds(), small.chosen_cell()
    for key in ("m", "x", "l", "ArrowDown", "Shift+L", "0", "Enter"):
        press(sliders, "threshold", key)
    assert small.cell_kinds() == kinds
    assert small.chosen_cell() == chosen
    press(sliders, "threshold", "Shift+Enter")  # runs the cell and goes to the next, as ever
    expect(small.page.locator(".jp-Notebook .jp-Cell.jp-mod-selected")).to_have_count(1)
    assert small.chosen_cell() != chosen


@pytest.mark.slow
def test_stop_leaves_a_run_that_can_go_on(small):
    panel = small.output("run_panel = widgets.RunPanel")
    button(panel, "Run").click()
    expect(panel.get_by_text(re.compile("^Learning"))).to_be_visible()
    button(panel, "Stop").click()
    expect(panel.get_by_text(re.compile("^Stopped"))).to_be_visible()
    expect(button(panel, "Run")).to_be_enabled()
    no_alert(panel)


@pytest.mark.slow
def test_the_focus_returns_to_the_button_that_was_pressed(small):
    panel = small.output("settings_panel = widgets.SettingsPanel")
    button(panel, "Run").focus()
    small.page.keyboard.press("Enter")
    expect(panel.get_by_text(re.compile("^Complete"))).to_be_visible()
    expect(button(panel, "Run")).to_be_focused()


@pytest.mark.slow
def test_weight_sliders_train_and_keep_their_runs(small):
    panel = small.output("settings_panel = widgets.SettingsPanel")
    complete, absent = (panel.get_by_text(re.compile(f"^{t}")) for t in ("Complete", "Not run"))
    button(panel, "Run").click()
    expect(complete).to_be_visible()
    heat_map = panel.locator("img").first
    trained = picture(heat_map)
    press(panel, "label_smoothing", "ArrowLeft")
    expect(absent).to_be_visible()
    press(panel, "label_smoothing", "ArrowRight")
    expect(complete).to_be_visible()
    assert picture(heat_map) == trained
    no_alert(panel)
    assert small.errors() == []
