"""Damaged run folders: every fault is named or made good, none passes, none is a traceback."""

import json
import shutil

import numpy as np
import pytest

from tests.tiny import SETTINGS, tiny_clip, tiny_stream
from vlcl_toolkit.cli import main
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.training.checkpoint import CheckpointWarning
from vlcl_toolkit.training.events import StepEvent, StopRun
from vlcl_toolkit.training.execution import Execution
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
@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "history.jsonl", "result.json", "accuracy.csv"),
        *("probes/step_00.npz", "probes/step_01.npz", "probes/weights_01.bin"),
    ],
)
def test_a_run_that_is_half_way(name, damage, half_way, finished, tmp_path, capsys):
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
    if (name, damage) != ("history.jsonl", "appended"):  # what follows a checkpoint is made again
        assert name in ("accuracy.csv", "result.json")
        assert path.name in capsys.readouterr().out
    assert result.accuracy.equals(finished.accuracy)
    assert result.probes.parameter_distance().equals(finished.probes.parameter_distance())


def test_a_record_of_an_older_version_is_read(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    record = json.loads((folder / "result.json").read_text())
    for new in ("sha256", "files", "metrics_defined_by"):
        del record[new]
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]
    (folder / "config.json").write_text(json.dumps(config))
    for path in folder.glob("probes/*.npz"):
        with np.load(path) as arrays:
            np.savez(path, **arrays)
    (folder / "result.json").write_text(json.dumps(record))
    assert use(folder).accuracy.equals(finished.accuracy)


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_seal_whose_own_name_is_hit(name, half_way, tmp_path):
    folder = shutil.copytree(half_way, tmp_path / "run")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b'"sha256": ', b'"sha257": '))
    assert (folder / name).read_bytes() != content
    with pytest.raises(UserError, match=name):
        RunResult.load(folder)


@pytest.mark.parametrize("damage", [*DAMAGES, "a line"])
def test_the_history_of_a_run_that_is_half_way_is_read_as_written(damage, half_way, tmp_path):
    folder = shutil.copytree(half_way, tmp_path / "run")
    path = folder / "history.jsonl"
    changed = {"a line": lambda content: content + b"[1, 2]\n"} | DAMAGES
    path.write_bytes(changed[damage](path.read_bytes()))
    with pytest.raises(UserError, match=r"history\.jsonl is damaged"):
        RunResult.load(folder)


def test_checkpoints_of_another_run(half_way, tmp_path):
    def stop(event):
        if isinstance(event, StepEvent) and (event.task_index, event.step) == (1, 2):
            raise StopRun

    folder = shutil.copytree(half_way, tmp_path / "run")
    other = call(
        tmp_path / "other", callback=stop, config=SETTINGS | {"learning_rate": 2e-3}
    ).folder
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(other / "checkpoints", folder / "checkpoints")
    with pytest.raises(UserError, match="checkpoints are of another run than"):
        call(folder)


def test_a_run_without_its_checkpoints_begins_again_and_says_so(
    half_way, finished, tmp_path, capsys
):
    folder = shutil.copytree(half_way, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    assert call(folder).accuracy.equals(finished.accuracy)
    assert "checkpoints holds no checkpoint; the run begins again" in capsys.readouterr().out


def test_a_stray_file_among_the_probes_is_passed_over(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    (folder / "probes" / "step_copy.npz").write_bytes(b"")
    assert RunResult.load(folder).probes.stages == [0, 1, 2]


def test_a_lost_stage_of_a_run_that_is_half_way(half_way, tmp_path):
    folder = shutil.copytree(half_way, tmp_path / "run")
    (folder / "probes" / "step_01.npz").unlink()
    with pytest.raises(UserError, match=r"step_01\.npz is missing"):
        _ = RunResult.load(folder).probes


def test_a_folder_in_the_place_of_a_checkpoint(half_way, finished, tmp_path):
    folder = shutil.copytree(half_way, tmp_path / "run")
    newest = max(folder.glob("checkpoints/step_*"), key=lambda path: int(path.stem[5:]))
    newest.unlink()
    newest.mkdir()
    # A checkpoint after every step, so that one falls on the folder's name on any machine.
    execution = Execution(checkpoint_minutes=0)
    with pytest.warns(CheckpointWarning, match=newest.name):
        assert call(folder, execution=execution).accuracy.equals(finished.accuracy)
    assert newest.is_dir()


def test_a_stage_in_the_place_of_another(half_way, tmp_path):
    folder = shutil.copytree(half_way, tmp_path / "run")
    shutil.copy(folder / "probes" / "step_00.npz", folder / "probes" / "step_01.npz")
    with pytest.raises(UserError, match=r"step_01\.npz is damaged"):
        RunResult.load(folder).probes.logits(1, "pets")
    with pytest.raises(UserError, match=r"step_01\.npz is damaged"):
        call(folder)
