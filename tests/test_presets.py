"""Presets: settings belong to the backbone, and where they must, to the stream."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from tiny import tiny_clip, tiny_stream

from vlcl_toolkit import TaskStream, load_clip, load_stream, run
from vlcl_toolkit.methods import make_config, make_method, presets
from vlcl_toolkit.methods.presets import choose_settings, preset_settings
from vlcl_toolkit.training.folder import default_folder
from vlcl_toolkit.training.loop import describe

FOLDER = Path(presets.__file__).parent
FILES = sorted(FOLDER.rglob("*.yaml"))
FULL_SIZE = "ViT-B-16-quickgelu"
QUICK = {"iterations": 4, "warmup": 1}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_presets_fit_their_methods(path):
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    included = settings.pop("include", None)
    assert settings or included
    for name, config in settings.items():
        before = preset_settings(name, FULL_SIZE, included) if included else {}
        changed = make_config(name, before | config)
        assert asdict(changed) != asdict(make_config(name, before)), "a preset says what differs"


def test_the_miniature_has_its_settings_on_every_stream():
    own = preset_settings("finetune", "mini", "mini")
    assert own["learning_rate"] == 1e-4
    for stream in ("mini-5shot", "pets", "folder", "mtil"):
        assert preset_settings("finetune", "mini", stream) == own


@pytest.mark.parametrize("backbone", [FULL_SIZE, f"random:{FULL_SIZE}:depth=2,width=64", "tiny"])
def test_other_backbones_never_get_those_of_the_miniature(backbone):
    for stream in ("mini", "mini-5shot", "pets"):
        assert preset_settings("finetune", backbone, stream) == {}
    mtil = preset_settings("moe_adapters", backbone, "mtil")
    assert mtil.keys() == {"task_learning_rates"}
    assert preset_settings("moe_adapters", backbone, "mtil-II") == mtil
    assert preset_settings("moe_adapters", backbone, "mtil-5shot")["iterations"] == 500
    assert preset_settings("moe_adapters", backbone, "mtilia") == {}
    wide = preset_settings("moe_adapters", backbone, "cifar100-10")
    assert preset_settings("moe_adapters", backbone, "cifar100-50") == wide | {"batch_size": 64}


def test_where_settings_come_from_is_said():
    def said(*arguments):
        return choose_settings(*arguments)[1]

    assert said("finetune", "mini", "pets") == "preset mini (backbone)"
    assert said("finetune", "mini", "pets", QUICK) == (
        "preset mini (backbone); given: iterations, warmup"
    )
    assert said("zscl", FULL_SIZE, "mtil-II") == "preset mtil-II (backbone and stream)"
    assert said("diki", FULL_SIZE, "mtil") == "the method's defaults"
    assert said("lwf_vr", "mini", "mini") == "the method's defaults"
    whole = make_config("finetune", QUICK)
    assert choose_settings("finetune", "mini", "mini", whole) == (whole, "given as a whole")
    assert said("finetune", "mini", "mini", asdict(whole)) == "preset mini (backbone); given: all"
    assert said("zero_shot", "mini", "mini") == "none to choose"


def test_the_name_of_a_stream_changes_nothing(tmp_path, capsys):
    clip, digits = load_clip("mini"), load_stream("mini")["digits"]
    assert len(digits.train) == 400
    tables, settings = [], []
    for name in ("mini-x", "pets"):
        stream, out = TaskStream(name, (digits,), "mini-v1"), tmp_path / name
        result = run("finetune", stream, clip, out=out, config=QUICK)
        assert capsys.readouterr().out == (
            "settings of finetune: preset mini (backbone); given: iterations, warmup\n"
        )
        tables.append((out / "accuracy.csv").read_bytes())
        settings.append(result.config["method_config"])
    assert tables[0] == tables[1]
    assert settings[0] == settings[1]
    assert settings[0]["learning_rate"] == 1e-4


def test_where_settings_came_from_is_not_what_a_run_is(tmp_path):
    stream, config = tiny_stream(), make_config("finetune", QUICK | {"batch_size": 8})
    first = run("finetune", stream, tiny_clip(), out=tmp_path, config=config, progress=False)
    assert first.config["settings_from"] == "given as a whole"
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["settings_from"], old["sha256"]  # as written before there were such keys
    path.write_text(json.dumps(old))
    record = json.loads((tmp_path / "result.json").read_text())
    del record["files"], record["sha256"]  # nor were records sealed
    (tmp_path / "result.json").write_text(json.dumps(record))
    again = run("finetune", stream, tiny_clip(), out=tmp_path, config=asdict(config))
    assert again.accuracy.equals(first.accuracy)
    assert default_folder(old) == default_folder(old | {"settings_from": "somewhere"})


def test_folders_of_finished_runs_keep_their_names():
    """The hash of the settings and all else that a run is; another name would run it again."""
    of_then = {"learning_rate": 4e-4, "iterations": 80, "warmup": 8}
    config, _ = choose_settings("finetune", "mini", "mini", of_then)
    description = describe(
        make_method("finetune", load_clip("mini", device="cpu"), config),
        load_stream("mini"),
        0,
        True,
    )
    assert default_folder(description).name == "a5eeb724-221065b3"
