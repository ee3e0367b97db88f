"""A run's record, and the page that plays it."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from tiny import SETTINGS, tiny_clip, tiny_stream

from vlcl_toolkit.analysis.record import run_record, scores_so_far
from vlcl_toolkit.cli import main
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.plotting.player import player_page, player_payload
from vlcl_toolkit.training.events import RowEvent, StopRun
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.training.metrics import metrics
from vlcl_toolkit.widgets import RunPlayer

DIKI = {"epochs": 1, "batch_size": 8, "shrinkage": "auto", "length_vision": 2, "length_text": 2}
MOE = {"iterations": 2, "warmup": 1, "batch_size": 8, "experts": 4, "bottleneck": 8}
MOE |= {"selector_features": "clip", "selector_iterations": 2, "selector_reference": False}
METHODS = {"finetune": SETTINGS, "diki": DIKI, "moe_adapters": MOE}


def play(folder, method="finetune", **options):
    options = {"config": METHODS[method], "probes": True, "progress": False} | options
    return run(method, tiny_stream(), tiny_clip(), out=folder, **options)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return {name: play(tmp_path_factory.mktemp("player") / name, name) for name in METHODS}


def test_scores_so_far_end_as_the_scores_of_the_run():
    matrix = np.random.default_rng(0).uniform(0, 100, (5, 5))
    assert scores_so_far(matrix, 5) == pytest.approx(metrics(matrix), abs=1e-3)
    assert set(scores_so_far(matrix, 0).values()) == {None}
    known = matrix.copy()
    known[2:] = np.nan  # what is not measured yet is not looked at
    so_far = scores_so_far(known, 2)
    assert so_far["last"] == pytest.approx(matrix[1].mean(), abs=1e-3)
    assert so_far["forgetting"] == pytest.approx(matrix[0, 0] - matrix[1, 0], abs=1e-3)
    cells = [matrix[0, 1], *(matrix[:2, task].mean() for task in (2, 3, 4))]
    assert so_far["transfer"] == pytest.approx(np.mean(cells), abs=1e-3)


@pytest.mark.parametrize(
    ("method", "own"),
    [("finetune", set()), ("diki", {"routes", "weights"}), ("moe_adapters", {"routes", "experts"})],
)
def test_a_record_holds_what_the_run_has(method, own, results):
    result = results[method]
    record = json.loads(json.dumps(run_record(result, tiny_stream()), allow_nan=False))
    assert record["missing"] == []
    assert record.keys() & {"routes", "weights", "experts"} == own
    np.testing.assert_allclose(record["accuracy"], result.accuracy, atol=1e-3)
    np.testing.assert_allclose(record["held_out_accuracy"], result.held_out, atol=1e-3)
    assert record["scores"][-1] == pytest.approx(result.metrics, abs=1e-3)
    points = record["map"]
    assert len(points["xy"]) == record["stages"] == 3
    assert {len(stage) for stage in points["xy"]} == {len(points["domain"])}
    for stage, said in enumerate(points["predicted"]["pets"]):
        right = np.array(said) == result.probes.labels("pets")
        assert 100 * right.mean() == pytest.approx(result.accuracy["pets"].iloc[stage])
    assert set(record["drift"]["stage"]) == {1, 2}
    assert all(
        sheet.startswith("data:image/jpeg") for sheet in record["pictures"]["sheets"].values()
    )


def test_few_points_are_spread_over_the_domains(results):
    record = run_record(results["finetune"], points=12)
    images = [
        d
        for d, k in zip(record["map"]["domain"], record["map"]["kind"], strict=True)
        if k == "image"
    ]
    assert {images.count(domain) for domain in set(images)} == {4}
    assert {len(said) for each in record["map"]["predicted"].values() for said in each} == {4}


def test_what_is_missing_is_said(results, tmp_path):
    bare = run_record(play(tmp_path / "bare", probes=False))
    assert "map" not in bare
    assert re.search("a look inside: .*--probes", bare["missing"][0])

    def stop(event):
        if isinstance(event, RowEvent) and event.row_index == 1:
            raise StopRun

    half = run_record(play(tmp_path / "half", callback=stop))
    assert (half["stages"], half["accuracy"][2]) == (2, [None, None])
    assert half["missing"][0] == "the run is not finished: 1 of 2 tasks are learned"
    assert half["missing"][1].startswith("pictures: ")
    fewer = replace(tiny_stream(), held_out=())
    swapped = run_record(results["finetune"], fewer)
    assert re.search("no task '.*'; give the stream of the run", swapped["missing"][0])


def test_names_are_text(results):
    record = run_record(results["finetune"])
    record["classes"]["pets"][0] = "</script><img src=x onerror=alert(1)>"
    page = player_page([record])
    assert "<img src=x" not in page
    assert page.count("</script>") == 2  # its own
    found = re.search(r'id="payload">(.*?)</script>', page, re.DOTALL)
    assert json.loads(found[1])["records"][0] == json.loads(json.dumps(record))


def test_runs_that_do_not_fit_together_are_refused(results):
    record = run_record(results["finetune"])
    with pytest.raises(UserError, match="two side by side; found 3"):
        player_payload([record] * 3)
    for change, message in (
        ({"stream": "other"}, "another stream: 'tiny' and 'other'"),
        ({"split_id": "other"}, "another division of the data"),
        ({"order": ["pets"]}, "learn 2 and 1 tasks"),
    ):
        with pytest.raises(UserError, match=message):
            player_payload([record, record | change])


def test_export_writes_one_page(results, tmp_path, capsys):
    page = tmp_path / "page.html"
    folders = [str(results[name].folder) for name in ("diki", "moe_adapters")]
    assert main(["export", *folders, "--html", str(page)]) == 0
    assert "not on the page: diki: pictures" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "diki on tiny | moe_adapters on tiny" in text
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", text)  # nothing from elsewhere
    assert main(["export", str(tmp_path / "nothing"), "--html", str(page)]) == 2
    assert page.read_text(encoding="utf-8") == text


def test_the_widget_holds_the_record_and_the_page(results):
    player = RunPlayer(results["diki"], stream=tiny_stream())
    assert player.payload["records"] == [run_record(results["diki"], tiny_stream())]
    assert player.page() == player_page(player.payload["records"])
    bundle = player._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert {"application/vnd.jupyter.widget-view+json", "text/html"} <= data.keys()
    assert "<script" not in data["text/html"]  # in the frame's own document alone
