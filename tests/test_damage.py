"""Damaged run folders: every fault is named or made good, none passes, none is a traceback."""

import json
import shutil

import pytest

from tests.tiny import SETTINGS, tiny_clip, tiny_stream
from vlcl_toolkit.cli import main
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.training.events import StepEvent, StopRun
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.training.results import RunResult

FILES = ("config.json", "result.json", "history.jsonl", "accuracy.csv", "probes/step_01.npz")


def call(folder, **options):
    options = {"config": SETTINGS, "probes": True, "progress": False} | options
    return run("finetune", tiny_stream(), tiny_clip(), out=folder, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return call(tmp_path_factory.mktemp("damage") / "run")


@pytest.fixture(scope="module")
def half_way(tmp_path_factory):
    def stop(event):
        if isinstance(event, StepEvent) and (event.task_index, event.step) == (1, 2):
            raise StopRun

    return call(tmp_path_factory.mktemp("damage") / "run", callback=stop).folder


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "appended": lambda content: content + b"0",
    "foreign": lambda content: b"\xff\xfe\x00 nothing of ours",
    "an object": lambda content: b"{}",
    "a flip at the end": lambda content: flipped(content, len(content) - 2),
    "a flip inside": lambda content: flipped(content, len(content) // 2),
}


def use(folder):
    """All that reads a finished run."""
    result = RunResult.load(folder)
    for stage in result.probes.stages:
        result.probes.logits(stage, "pets")
    call(folder)
    return result


@pytest.mark.parametrize("damage", [*DAMAGES, "a folder", "lost"])
@pytest.mark.parametrize("name", FILES)
def test_a_finished_run(name, damage, finished, tmp_path, capsys):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    path = folder / name
    if damage in DAMAGES:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    else:
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    if name == "accuracy.csv" and damage != "a folder":
        use(folder)
        assert path.read_bytes() == (finished.folder / name).read_bytes()
        return
    if name == "probes/step_01.npz" and damage == "lost":
        path = folder / "probes"
    with pytest.raises(UserError, match=path.name.replace(".", r"\.")):
        use(folder)
    if name in ("config.json", "result.json", "history.jsonl"):
        assert main(["show", str(folder)]) == 2
        assert path.name in capsys.readouterr().err


@pytest.mark.parametrize("damage", [*DAMAGES, "a folder", "lost"])
@pytest.mark.parametrize("name", ["history.jsonl", "probes/weights_01.bin", "result.json"])
def test_a_run_that_is_half_way(name, damage, half_way, finished, tmp_path):
    folder = shutil.copytree(half_way, tmp_path / "run")
    path = folder / name
    if damage in DAMAGES:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    else:
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    try:
        result = call(folder)
    except UserError as error:
        assert path.name in str(error)  # noqa: PT017 (either is right)
        return
    assert result.accuracy.equals(finished.accuracy)  # it did not matter, or was made again
    assert result.probes.parameter_distance().equals(finished.probes.parameter_distance())


def test_a_record_of_an_older_version_is_read(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    record = json.loads((folder / "result.json").read_text())
    for new in ("sha256", "files", "metrics_defined_by"):
        del record[new]
    (folder / "result.json").write_text(json.dumps(record))
    assert use(folder).accuracy.equals(finished.accuracy)
