"""The run player: on a page opened from disk, with neither kernel nor server, and in JupyterLab."""

import json
from typing import Any

import numpy as np
import pytest
from lab import NotebookPage
from playwright.sync_api import expect

from vlcl_toolkit.plotting.player import player_page

HOSTILE = "<img src=x onerror=\"document.title='run'\">"
NAMES = [f"task{i}" for i in range(11)]
WIDGET = """
import json
from vlcl_toolkit.widgets import RunPlayer

player = RunPlayer.__new__(RunPlayer)
super(RunPlayer, player).__init__(payload=json.loads(open("records.json").read()))
player
"""


def record(method: str = "finetune", *, points: int = 990) -> dict[str, Any]:
    """Eleven tasks and about a thousand points, of which nothing was trained."""
    rng, each = np.random.default_rng(0), points // len(NAMES)
    matrix = rng.uniform(20, 90, (12, 11)).round(1)
    domains = [name for name in NAMES for _ in range(each)]
    xy = rng.normal(size=(12, len(domains), 2)).round(3)
    said = rng.integers(0, 2, (11, 12, each)).tolist()
    scores = {"transfer": 50.0, "average": 60.0, "last": 70.0, "forgetting": 5.0}
    return {
        "format": "vlcl-record",
        "version": 1,
        "method": method,
        "stream": "planted",
        "split_id": "planted",
        "seed": 0,
        "label_space": "task",
        "order": NAMES,
        "held_out": [],
        "stages": 12,
        "accuracy": matrix.tolist(),
        "held_out_accuracy": [[]] * 12,
        "scores": [dict.fromkeys(scores)] + [scores] * 11,
        "classes": {name: [HOSTILE, "plain"] for name in NAMES},
        "map": {
            "domain": domains,
            "kind": ["image"] * len(domains),
            "item": list(range(each)) * len(NAMES),
            "label": [0] * len(domains),
            "xy": xy.tolist(),
            "predicted": dict(zip(NAMES, said, strict=True)),
        },
        "drift": {
            "stage": [1, 1, 2, 2],
            "domain": ["task0"] * 4,
            "tower": ["image", "text"] * 2,
            "block": [1] * 4,
            "relative_norm": [0.1, 0.2, 0.3, 0.4],
        },
        "missing": [f"pictures: {HOSTILE}"],
    }


@pytest.fixture
def open_page(page, tmp_path):
    """Opens a page of records from disk; nothing may be written to the browser's console."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))

    def open_records(*records: dict[str, Any], content: str | None = None, address: str = ""):
        path = tmp_path / "page.html"
        path.write_text(content or player_page(records), encoding="utf-8")
        page.goto("about:blank")
        page.goto(f"{path.as_uri()}{address}")
        return page

    yield open_records
    assert said == []


def test_the_slider_moves_every_view_and_the_address_keeps_it(open_page):
    page = open_page(record())
    slider, cells = page.get_by_label("Stage", exact=True), page.locator(".matrix tbody td")
    expect(page.locator("output")).to_have_text("stage 11 of 11: after task10")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("output")).to_have_text("stage 0 of 11: zero-shot")
    assert sum(bool(text) for text in cells.all_inner_texts()) == 11
    expect(page.get_by_role("button", name="Transfer").locator("strong")).to_have_text("–")
    expect(page.get_by_text("Nothing has moved yet")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert sum(bool(text) for text in cells.all_inner_texts()) == 33
    expect(page.get_by_label("Drift by block").locator("tbody td").first).to_have_text("0.30")
    page.get_by_role("button", name="text tower").click()
    expect(page.get_by_label("Drift by block").locator("tbody td").first).to_have_text("0.40")
    assert page.url.endswith("#stage=2&tower=text")
    page.reload()
    expect(page.locator("output")).to_have_text("stage 2 of 11: after task1")


def test_play_goes_to_the_end(open_page):
    page = open_page(record(), address="#stage=9")
    page.get_by_role("button", name="Play").click()
    expect(page.locator("output")).to_have_text("stage 11 of 11: after task10", timeout=15000)
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_scores_light_their_cells_and_cells_tell_differences(open_page):
    planted = record()
    page = open_page(planted, address="#stage=3")
    page.get_by_role("button", name="Transfer").focus()
    cells = page.locator(".matrix tbody tr:nth-child(3) td")  # after the second task
    lit = ["dim" not in (cell.get_attribute("class") or "") for cell in cells.all()]
    assert lit == [False] * 2 + [True] * 9
    page.locator(".matrix tbody tr:nth-child(4) td").first.hover()
    matrix = np.array(planted["accuracy"])
    change = [matrix[3, 0] - matrix[0, 0], matrix[3, 0] - matrix[1, 0]]
    text = page.locator(".said").inner_text().replace("−", "-")
    assert f"task0 after task2: {matrix[3, 0]:.1f} %, {change[0]:+.1f} against zero-shot" in text
    assert f"{change[1]:+.1f} since just learned" in text


def test_a_dot_tells_its_image_and_a_domain_dims_the_others(open_page):
    page = open_page(record())
    page.get_by_role("button", name="task3", exact=True).click()
    assert "domain=task3" in page.url
    page.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    pointed = page.locator(".pointed p")
    expect(pointed).to_contain_text("task3, image 0: <img src=x onerror=")
    expect(pointed).to_contain_text("no picture in this record")
    box = page.locator("canvas").bounding_box()
    before = pointed.inner_text()
    for x in range(20, int(box["width"]), 12):  # some dot of the domain lies on this line
        page.mouse.move(box["x"] + x, box["y"] + box["height"] / 2)
        if pointed.inner_text() != before:
            break
    assert pointed.inner_text() != before


def test_names_are_shown_not_run(open_page):
    page = open_page(record())
    page.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".missing")).to_contain_text(HOSTILE)
    assert page.locator("img").count() == 0
    assert page.title() == "finetune on planted"


def test_two_runs_share_the_slider(open_page):
    short = record("zscl") | {"stages": 3, "missing": []}
    page = open_page(record(), short, address="#stage=5")
    expect(page.locator(".matrix")).to_have_count(2)
    filled = [
        sum(bool(text) for text in table.locator("tbody td").all_inner_texts())
        for table in page.locator(".matrix").all()
    ]
    assert filled == [66, 33]


def test_a_newer_record_and_one_without_probes(open_page):
    newer = player_page([record()]).replace('"version": 1', '"version": 2')
    page = open_page(content=newer)
    expect(page.get_by_role("alert")).to_contain_text("version 2; the player reads up to 1")
    bare = {key: value for key, value in record().items() if key not in ("map", "drift", "classes")}
    page = open_page(bare)
    expect(page.locator(".matrix")).to_be_visible()
    assert page.locator("canvas").count() == 0


def test_a_move_is_redrawn_smoothly(open_page, record_property):
    page = open_page(record())
    measured = page.evaluate("""async () => {
        const times = [], begun = performance.now(), frames = player.frames;
        player.set({ stage: 0 });
        const set = performance.now() - begun;
        await new Promise((done) => {
            const next = (time) => { times.push(time); times.length < 30 ? requestAnimationFrame(next) : done(); };
            requestAnimationFrame(next);
        });
        return { set, drawn: player.frames - frames, perSecond: 29000 / (times.at(-1) - times[0]) };
    }""")
    record_property("player", json.dumps(measured))
    print("player:", measured)
    assert measured["drawn"] > 2  # the dots move; how fast is reported, not judged


@pytest.mark.slow
def test_in_jupyterlab_keys_stay_with_the_player(page, server):
    server.write("player.ipynb", WIDGET.strip())
    payload = {"records": [record()], "colours": {}}
    (server.folder / "records.json").write_text(json.dumps(payload), encoding="utf-8")
    notebook = NotebookPage(page, server, "player.ipynb")
    notebook.run_all()
    player = page.locator(".vlcl-player")
    expect(player.locator("output")).to_have_text("stage 11 of 11: after task10")
    player.get_by_label("Stage", exact=True).focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("m")  # would turn the cell into text
    expect(player.locator("output")).to_have_text("stage 10 of 11: after task9")
    expect(player.locator("canvas")).to_be_visible()
    assert page.locator(".jp-CodeCell").count() == 1
