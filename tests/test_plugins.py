"""Methods and streams of your own, in files outside the package."""

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import vlcl_toolkit as vlcl
from vlcl_toolkit import load
from vlcl_toolkit.cli import main
from vlcl_toolkit.methods import registry

METHOD = """
import os, signal
import vlcl_toolkit as vlcl
from vlcl_toolkit.methods.zscl.finetune import Finetune
from beside import SIGN

@vlcl.register
class Mine(Finetune):
    name = "mine"

    def last_step(self, task):  # whatever the settings say
        return 3

    def loss(self, *batch):
        return {name: SIGN * value for name, value in super().loss(*batch).items()}

    def after_step(self, step):
        super().after_step(step)
        if os.environ.get("KILLED") and self.task_index == 1 and step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
"""
STREAM = """
from dataclasses import replace
import vlcl_toolkit as vlcl

@vlcl.register_stream("ours")
def ours(seed=0):
    few = [
        replace(task, train=task.train.subset(range(40)), test=task.test.subset(range(20)))
        for task in vlcl.load_stream("mini").tasks[:2]
    ]
    return vlcl.TaskStream(id="ours", tasks=tuple(few), split_id="first-20")
"""
FILES = ["--import", "files/own_method.py", "--import", "files/own_stream.py"]
RUN = ["run", *FILES, "--method", "mine", "--stream", "ours", "--checkpoint-minutes", "0"]
RUN += ["--set", "iterations=3", "warmup=1", "batch_size=8"]


@pytest.fixture(autouse=True)
def _own_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = tmp_path / "files"
    files.mkdir()
    (files / "own_method.py").write_text(METHOD)
    (files / "own_stream.py").write_text(STREAM)
    (files / "beside.py").write_text("SIGN = 1.0")
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(load, "_OWN", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("own_method", "own_stream", "beside"):
        sys.modules.pop(name, None)


def test_a_run_of_own_files_is_killed_and_resumed(tmp_path):
    def command(out: str, **environment: str) -> int:
        line = [sys.executable, "-m", "vlcl_toolkit.cli", *RUN, "--out", out]
        return subprocess.run(line, env=os.environ | environment, check=False).returncode

    assert command("whole") == 0
    assert command("killed", KILLED="1") == -signal.SIGKILL
    assert command("killed") == 0
    for file in ("accuracy.csv", "history.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("place", [["--jobs", "2"], ["--cluster", "local"]])
def test_own_files_are_known_to_workers(place, tmp_path):
    compare = ["compare", *FILES, "--methods", "zero_shot", "mine", "--stream", "ours"]
    assert main([*compare, "--out", "table", *place]) == 0
    lines = (tmp_path / "table" / "scores.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["method", "zero_shot", "mine"]


def test_an_installed_package_offers_its_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "files")
    point = EntryPoint("mine", "own_stream", "vlcl_toolkit.plugins")
    monkeypatch.setattr(load, "entry_points", lambda group: [point])
    load.load_plugins.cache_clear()
    assert load.load_stream("ours").id == "ours"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("files/nowhere.py", "cannot import files/nowhere.py: there is no such file"),
        ("nowhere", "cannot import 'nowhere': there is no such module"),
        ("files/json.py", "the name 'json' is taken by .*json/__init__.py; rename the file"),
    ],
)
def test_what_cannot_be_imported_is_named(name, message, tmp_path, capsys):
    (tmp_path / "files/json.py").write_text("")
    assert main(["run", "--import", name, "--method", "mine"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert re.search(message, error)


def test_names_of_streams_are_unique_and_options_are_checked():
    @vlcl.register_stream("ours")
    def first(few=2):
        return few

    vlcl.register_stream("ours")(first)  # a notebook cell again
    for name, message in (("ours", "taken by .*first"), ("mini", "taken"), ("", "short text")):
        with pytest.raises(vlcl.UserError, match=message):
            vlcl.register_stream(name)(lambda: None)
    with pytest.raises(vlcl.UserError, match="unknown option of 'ours' 'fwe'; did you mean 'few'"):
        vlcl.load_stream("ours", fwe=1)
    with pytest.raises(vlcl.UserError, match="first must return a TaskStream; found int"):
        vlcl.load_stream("ours")
    with pytest.raises(vlcl.UserError, match="unknown stream 'our'; did you mean 'ours'"):
        vlcl.load_stream("our")
