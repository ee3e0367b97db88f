"""The command line where the terminal, the locale or the disk is not as usual."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.tiny import SETTINGS, tiny_clip, tiny_stream
from vlcl_toolkit.cli import main
from vlcl_toolkit.cli.tables import print_run
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_clip
from vlcl_toolkit.training import loop
from vlcl_toolkit.training.events import ProgressBar, RowEvent
from vlcl_toolkit.training.folder import History
from vlcl_toolkit.training.loop import run

SHOW = [sys.executable, "-m", "vlcl_toolkit.cli", "show"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    return run(
        "finetune", tiny_stream(), tiny_clip(), config=SETTINGS, out=path, progress=False
    ).folder


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_locale_without_arrows(encoding, folder):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([*SHOW, str(folder)], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Transfer" in done.stdout


def test_a_table_that_is_too_wide_shows_whole_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    tasks = tuple(replace(tiny_stream()[0], name=f"step{number:02}") for number in range(1, 21))
    stream = replace(tiny_stream(), tasks=tasks, label_space="seen")
    run("zero_shot", stream, tiny_clip(), out=tmp_path / "run", progress=False)
    print_run(tmp_path / "run")
    said = capsys.readouterr().out
    assert "…" not in said
    assert all(
        re.search(rf"step{number:02} +[\d.]+ +[\d.]+ +[\d.]+", said) for number in range(1, 21)
    )
    assert "accuracy.csv" in said
    # Cells of steps to come are 0 by construction: they count in no score.
    assert "class-incremental: Average and Last over stages" in said
    assert re.search("Transfer\\S* –", said)


def test_output_that_is_closed(folder):
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "sh", *SHOW, str(folder)], capture_output=True, check=False
    )
    assert done.returncode in (0, 2)
    assert b"Traceback" not in done.stderr


class Interrupted:
    """A module that somebody interrupts while it is imported."""

    def __getattr__(self, name):
        raise KeyboardInterrupt


def test_an_interrupt_while_it_starts_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "vlcl_toolkit.cli.commands", Interrupted())
    assert main(["run", "--method", "finetune"]) == 130
    assert capsys.readouterr().err == "vlcl: interrupted before it began\n"


def test_a_full_disk_is_told_once_and_the_run_goes_on_later(tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def flush(self):
            raise OSError(28, "No space left on device")

        def close(self):
            self.file.close()
            self.flush()

    options = {"config": SETTINGS, "progress": False}
    whole = run("finetune", tiny_stream(), tiny_clip(), out=tmp_path / "whole", **options)
    rewind = History.rewind

    def full(self, mark):
        rewind(self, mark)
        self._file = Full(self._file)

    monkeypatch.setattr(History, "rewind", full)
    with pytest.raises(UserError, match=r"cannot write .*history\.jsonl: No space left on device"):
        run("finetune", tiny_stream(), tiny_clip(), out=tmp_path / "run", **options)
    monkeypatch.undo()
    run("finetune", tiny_stream(), tiny_clip(), out=tmp_path / "run", **options)
    for name in ("accuracy.csv", "history.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_misspelled_task_in_a_setting_is_named(tmp_path):
    config = SETTINGS | {"task_learning_rates": {"pet": 1e-3}}
    with pytest.raises(
        UserError, match="unknown task in task_learning_rates 'pet'; did you mean 'pets'"
    ):
        run("finetune", tiny_stream(), tiny_clip(), config=config, out=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": "meta"}, "no device 'meta'"), ({"name": "hf-hub:org/model"}, "unknown backbone")],
)
def test_backbones_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        load_clip(**options)


def test_windows_is_told_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(loop.sys, "platform", "win32")
    with pytest.raises(UserError, match="on Windows, use WSL"):
        run("finetune", tiny_stream(), tiny_clip(), out=tmp_path)


def test_a_table_that_does_not_fit_shows_its_ends(folder, tmp_path, capsys):
    copied = shutil.copytree(folder, tmp_path / "run")
    record = json.loads((copied / "result.json").read_text())
    for key in ("sha256", "files"):
        del record[key]
    names = [f"classes {5 * i}-{5 * i + 4}" for i in range(20)]
    matrix = [[80.0 if j <= i else 0.0 for j in range(20)] for i in range(20)]
    record |= {"order": names, "zero_shot": [70.5] * 20, "accuracy": matrix}
    record["held_out"] = {"faces": [30.0] * 21}
    (copied / "result.json").write_text(json.dumps(record))
    print_run(copied)
    output = capsys.readouterr().out
    assert "…" not in output
    assert re.search(r"classes 95-99 +70\.5 +80\.0 +80\.0", output)
    assert "accuracy.csv" in output


@pytest.mark.parametrize(
    ("accuracies", "text"),
    [
        ({"a": 50.0, "b": 70.0, "faces": 10.0}, "mean 60.0 %"),
        ({"a": 50.0, "faces": 10.0}, "mean of 1 tested 50.0 %"),
        ({"a": float("nan"), "b": 70.0}, "mean of 1 tested 70.0 %"),
        ({"faces": 10.0}, "zero-shot"),
    ],
)
def test_the_bar_averages_what_was_tested(accuracies, text, capsys):
    bar = ProgressBar(["a", "b"], total=4, done=0)
    bar(RowEvent(0, None, accuracies))
    bar.close()
    shown = capsys.readouterr().err
    assert "nan" not in shown
    assert text in shown
