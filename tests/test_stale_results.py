"""A result is never that of other pictures, reference data or code than those of now."""

import os
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from tests.tiny import SETTINGS, tiny_clip, tiny_stream
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.methods import register, registry
from vlcl_toolkit.methods.source import source_fingerprint
from vlcl_toolkit.methods.zscl.finetune import Finetune
from vlcl_toolkit.streams import ImageData
from vlcl_toolkit.streams.base import Reference
from vlcl_toolkit.training.loop import run

COLOURS = {"cat": (200, 30, 30), "dog": (30, 200, 30)}


@pytest.fixture
def pets(tmp_path):
    for split in ("train", "test"):
        for name, colour in COLOURS.items():
            folder = tmp_path / "data" / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (16, 16), colour).save(folder / f"{i}.png")
    return tmp_path / "data"


def call(stream, monkeypatch, tmp_path, method="finetune", **options):
    monkeypatch.chdir(tmp_path)
    options = {"config": SETTINGS, "progress": False} | options
    return run(method, stream, tiny_clip(), **options)


def test_exchanged_pictures_are_another_run(pets, tmp_path, monkeypatch):
    first = call(load_stream(f"folder:{pets}"), monkeypatch, tmp_path)
    again = call(load_stream(f"folder:{pets}"), monkeypatch, tmp_path)
    assert again.folder == first.folder
    test = pets / "pets" / "test"
    for old, new in (("cat", "x"), ("dog", "cat"), ("x", "dog")):
        os.rename(test / old, test / new)
    changed = call(load_stream(f"folder:{pets}"), monkeypatch, tmp_path)
    assert changed.folder != first.folder
    assert changed.accuracy.to_numpy().ravel().tolist() == pytest.approx(
        (100 - first.accuracy).to_numpy().ravel().tolist()
    )
    with pytest.raises(UserError, match=r"the pictures of 'pets'.*changed since the run in"):
        call(load_stream(f"folder:{pets}"), monkeypatch, tmp_path, out=first.folder)


def test_a_copy_of_a_folder_with_its_times_is_the_same(pets, tmp_path, monkeypatch):
    first = call(load_stream(f"folder:{pets}"), monkeypatch, tmp_path)
    moved = tmp_path / "elsewhere" / "data"
    shutil.copytree(pets, moved)  # keeps the times, as cp -p and rsync -a do
    shutil.rmtree(pets)
    assert call(load_stream(f"folder:{moved}"), monkeypatch, tmp_path).folder == first.folder


def test_changed_tensors_are_another_run(tmp_path, monkeypatch):
    stream = tiny_stream()
    first = call(stream, monkeypatch, tmp_path)
    task = stream[0]
    other = replace(task, test=ImageData(255 - task.test.images, task.test.labels))
    changed = replace(stream, tasks=(other, *stream.tasks[1:]))
    assert call(changed, monkeypatch, tmp_path).folder != first.folder


def test_other_reference_data_are_another_run_of_what_uses_them(tmp_path, monkeypatch):
    given = Reference(tiny_stream()[0].train.images, ("a sentence",), ("thing",))
    other = replace(given, sentences=("another sentence",))
    stream, changed = (replace(tiny_stream(), reference=lambda g=g: g) for g in (given, other))
    zscl = {"config": SETTINGS | {"average_every": 2}, "method": "zscl"}
    assert (
        call(stream, monkeypatch, tmp_path, **zscl).folder
        != call(changed, monkeypatch, tmp_path, **zscl).folder
    )
    assert call(stream, monkeypatch, tmp_path).folder == call(changed, monkeypatch, tmp_path).folder


def test_edited_code_is_another_run(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    def define(sign):
        @register
        class Mine(Finetune):
            name = "mine"
            SIGN = sign

            def loss(self, *batch):
                return {name: self.SIGN * value for name, value in super().loss(*batch).items()}

    folders = []
    for sign in (1, 1, -1):
        define(sign)
        folders.append(call(tiny_stream(), monkeypatch, tmp_path, "mine").folder)
    assert folders[0] == folders[1] != folders[2]


HELPER = "def scale():\n    return {number}\n"
METHOD = """
from vlcl_toolkit.methods.zscl.finetune import Finetune
{line}

class Own(Finetune):
    name = "own"

    def loss(self, batch):
        # {comment}
        return {{name: {call} * value for name, value in super().loss(batch).items()}}
"""


@pytest.mark.parametrize(
    ("line", "call"), [("from aside import scale", "scale()"), ("import aside", "aside.scale()")]
)
def test_helpers_in_other_files_of_ones_own_count_and_comments_do_not(
    line, call, tmp_path, monkeypatch
):
    import importlib
    import sys

    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for number, comment in ((1, "a"), (1, "b"), (2, "b")):
        (tmp_path / "aside.py").write_text(HELPER.format(number=number))
        (tmp_path / "ownmethod.py").write_text(METHOD.format(line=line, call=call, comment=comment))
        for name in ("aside", "ownmethod"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        found.append(source_fingerprint(importlib.import_module("ownmethod").Own))
    assert found[0] == found[1] != found[2]
    assert source_fingerprint(Finetune) is None


@pytest.mark.parametrize("names", [{}, {"__name__": "__main__"}])
def test_code_that_exec_defined_counts(names):
    found = []
    for number in (1, 1, 2):
        there = dict(names)
        text = METHOD.format(line="", comment="", call="scale()") + HELPER.format(number=number)
        exec(text, there)
        found.append(source_fingerprint(there["Own"]))
    assert found[0] == found[1] != found[2]
    assert source_fingerprint(int) is None


def test_what_is_read_from_an_earlier_run_says_so(tmp_path, monkeypatch, capsys):
    first = call(tiny_stream(), monkeypatch, tmp_path, progress=True)
    assert "read from" not in capsys.readouterr().out
    call(tiny_stream(), monkeypatch, tmp_path, progress=True)
    assert f"read from {first.folder}, finished 20" in capsys.readouterr().out
