"""Run folders of an earlier version, tests/golden/run_folder: they stay readable, and the same call goes on.

Made by `python tests/test_run_folder.py`, once; what it says must never need to be made again.
"""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_clip, tiny_stream

from vlcl_toolkit.cli import main
from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.training.events import StepEvent, StopRun
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.training.results import RunResult

GOLDEN = Path(__file__).parent / "golden" / "run_folder"
SETTINGS = {"epochs": 2, "batch_size": 8, "length_vision": 2, "length_text": 2, "depth_text": 1}


def same_clip():
    """The tiny CLIP with NumPy's numbers: torch's own hang on the processor's instructions."""
    model, draw = tiny_clip(device="cpu").model, np.random.default_rng(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.copy_(torch.from_numpy(0.1 * draw.standard_normal(value.shape)))
            elif "ln_" not in name and name != "logit_scale":
                value.zero_()
    return Clip(model, tiny_clip().tokenizer, name="tiny", device="cpu")


def call(folder, callback=None):
    options = {"config": SETTINGS, "probes": True, "progress": False, "callback": callback}
    return run("diki", tiny_stream(), same_clip(), out=folder, **options)


def half_way(event):
    if isinstance(event, StepEvent) and (event.task_index, event.step) == (1, 2):
        raise StopRun


@pytest.fixture
def folder(request, tmp_path):
    return shutil.copytree(GOLDEN / request.param, tmp_path / "run")


@pytest.mark.parametrize(
    ("folder", "rows"), [("finished", 3), ("half_way", 2)], indirect=["folder"]
)
def test_it_is_read(folder, rows, capsys):
    result = RunResult.load(folder)
    assert (result.method, result.stream, result.order) == ("diki", "tiny", ["pets", "food"])
    assert result.complete is (rows == 3)
    table = pd.read_csv(io.StringIO((folder / "accuracy.csv").read_text()), index_col="step")
    np.testing.assert_allclose(result.accuracy[:rows], table, atol=1e-4)
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert result.history["loss"].tolist() == [json.loads(line)["loss"] for line in lines]
    assert result.probes.stages == list(range(rows))
    for stage in range(rows):
        found = result.probes.logits(stage, "pets").argmax(1) == result.probes.labels("pets")
        assert 100 * found.mean() == pytest.approx(result.accuracy["pets"].iloc[stage])
    assert main(["show", str(folder)]) == 0
    assert "diki on tiny" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["finished"], indirect=True)
def test_a_finished_run_is_not_made_again(folder):
    (folder / "accuracy.csv").unlink()
    before = (folder / "result.json").read_bytes()
    assert call(folder).complete
    assert (folder / "result.json").read_bytes() == before
    table = GOLDEN / "finished" / "accuracy.csv"
    assert (folder / "accuracy.csv").read_bytes() == table.read_bytes()


@pytest.mark.parametrize("folder", ["half_way"], indirect=True)
def test_a_run_that_is_half_way_goes_on(folder):
    begun = (folder / "history.jsonl").read_bytes()
    result, whole = call(folder), RunResult.load(GOLDEN / "finished")
    assert result.complete
    assert (folder / "history.jsonl").read_bytes().startswith(begun)
    # Another processor rounds differently.
    np.testing.assert_allclose(result.history["loss"], whole.history["loss"], rtol=1e-4)


if __name__ == "__main__":
    for name, stop in (("finished", None), ("half_way", half_way)):
        call(GOLDEN / name, stop)
        (GOLDEN / name / ".lock").unlink()
    shutil.rmtree(GOLDEN / "finished" / "checkpoints")  # nothing reads them again
