"""Importing official checkpoints: our own form predicts alike; mistakes are told in one line."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from parity.loading import build_clip
from safetensors.torch import load_file
from tiny import tiny_clip, tiny_stream

from methods.test_diki_checkpoint import GOLDEN, RECORD
from vlcl_toolkit.cli import main
from vlcl_toolkit.clip.weights import read_state
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import import_official, load_imported, make_method
from vlcl_toolkit.methods.diki.official import read_official_checkpoint
from vlcl_toolkit.methods.moe_adapters.official import load_official

DIKI_FILE = GOLDEN / RECORD["file"]
EXPERTS, BOTTLENECK = 3, 5


@pytest.fixture(scope="module")
def stream():
    return tiny_stream()


@pytest.fixture(scope="module")
def diki_clip():
    """The backbone of the recorded DIKI file."""
    return build_clip(load_file(GOLDEN / RECORD["weights"]))


def zscl_file(folder: Path) -> Path:
    """As the official code saves it: other weights than the backbone's, under "state_dict"."""
    generator = torch.Generator().manual_seed(5)
    state = {k: v.clone() for k, v in tiny_clip().model.state_dict().items()}
    for name, value in state.items():
        if name != "logit_scale":
            value += 0.02 * torch.randn(value.shape, generator=generator)
    torch.save({"state_dict": state}, folder / "Aircraft.pth")
    return folder / "Aircraft.pth"


def moe_file(folder: Path, *, towers: str = "both", routers: int = 1, **more: torch.Tensor) -> Path:
    """As the official code saves it, with its leftovers."""
    settings = {"experts": EXPERTS, "bottleneck": BOTTLENECK, "towers": towers}
    settings |= {"selector": "none", "shared_router": True}
    clip = tiny_clip()
    with make_method("moe_adapters", clip, settings) as method:
        method.towers.add_routers(routers)
        generator = torch.Generator().manual_seed(6)
        state = {k: v.clone() for k, v in clip.model.state_dict().items()}
        for name, value in method.towers.named().items():
            if not name.endswith((".count", ".frozen")):
                state[name] = torch.randn(value.shape, generator=generator)
        for block in method.towers.mixtures:
            last = f"{block}.adaptmlp_list.{EXPERTS - 1}."
            copies = {k: v for k, v in state.items() if k.startswith(last)}
            state |= {k.replace(last, f"{block}.adaptmlp."): v for k, v in copies.items()}
            state |= {f"{block}.mean": torch.zeros(1), f"{block}.ln_3.weight": torch.ones(4)}
    torch.save({"state_dict": state | more}, folder / "DTD.pth")
    return folder / "DTD.pth"


def test_diki(tmp_path, diki_clip):
    folder = import_official("diki", DIKI_FILE, diki_clip).write(tmp_path / "one")
    record = json.loads((folder / "import.json").read_text())
    assert (record["method"], record["tasks"], record["source"]) == ("diki", 2, RECORD["file"])
    assert record["tensors"]["gaussians.means"]["shape"] == [2, diki_clip.embed_dim]
    expected = read_official_checkpoint(DIKI_FILE, diki_clip).state_dict()
    method = load_imported(folder, diki_clip)
    assert method.clip.holder == "diki"
    found = method.state_dict()
    method.detach()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    first = import_official("diki", DIKI_FILE, diki_clip, tasks=1)
    assert first.tasks == len(first.state["gaussians.means"]) == 1


@pytest.mark.parametrize("method", ["zscl", "lwf", "icarl", "wise_ft"])
def test_weights_of_zscls_repository(tmp_path, stream, method):
    clip, path = tiny_clip(), zscl_file(tmp_path)
    folder = import_official(method, path, clip).write(tmp_path / "own")
    official = torch.load(path, weights_only=True)["state_dict"]
    loaded = load_imported(folder, clip)
    for name, value in clip.model.state_dict().items():
        assert torch.equal(value, official[name]), name
    images = clip.eval_transform(stream[0].test.images)
    found = loaded.predict(images, stream[0])
    loaded.detach()
    assert not torch.equal(found, make_method("zero_shot", clip).predict(images, stream[0]))


@pytest.mark.parametrize("towers", ["both", "image"])
def test_moe_adapters(tmp_path, stream, towers):
    clip, path = tiny_clip(), moe_file(tmp_path, towers=towers)
    imported = import_official("moe_adapters", path, clip, settings={"eval_scale": 100.0})
    assert imported.settings["experts"] == EXPERTS
    assert imported.settings["bottleneck"] == BOTTLENECK
    assert imported.settings["towers"] == towers
    assert not [n for n in imported.state if ".adaptmlp." in n or "ln_3" in n or n.endswith("mean")]
    images = clip.eval_transform(stream[0].test.images)
    loaded = load_imported(imported.write(tmp_path / "own"), clip)
    found = loaded.predict(images, stream[0])
    loaded.detach()
    with make_method("moe_adapters", clip, imported.settings) as method:
        load_official(method, path)
        assert torch.equal(found, method.predict(images, stream[0]))


def refused(message: str, *arguments, **options) -> None:
    """One line, and the backbone is free again."""
    clip = tiny_clip()
    with pytest.raises(UserError, match=message) as caught:
        import_official(*arguments, clip, **options)
    assert "\n" not in str(caught.value)
    assert clip.holder is None


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("trap-was-sprung"),))


def test_pickled_objects_are_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save({"state_dict": Trap()}, name)
    Path("c.pth").write_bytes(pickle.dumps(Trap()))
    for method, name in (("zscl", "a.pth"), ("moe_adapters", "b.pth"), ("diki", "c.pth")):
        refused("cannot read the weights in", method, name)
    assert not Path("trap-was-sprung").exists()


@pytest.mark.parametrize("content", [b"hello world", b"", b"\x80\x02garbage", b"PK\x03\x04"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    for method in ("diki", "moe_adapters", "zscl"):
        refused("is not a weights file, or|cannot read the weights in", method, tmp_path / "a.pth")


def test_a_file_with_any_byte_changed_is_read_or_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    good, read, refusals = path.read_bytes(), 0, list[str]()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        try:
            read_state(path)
            read += 1
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) == len(good) - read > 0
    assert not [line for line in refusals if "\n" in line]


def test_files_of_other_methods_are_refused(tmp_path):
    zscl, moe = zscl_file(tmp_path), moe_file(tmp_path)
    refused("is not a DIKI checkpoint", "diki", zscl)
    refused("holds no experts", "moe_adapters", zscl)
    refused("is not a checkpoint of tiny", "zscl", moe)
    refused("is not a checkpoint of tiny", "zscl", DIKI_FILE)
    refused("no official checkpoints of zero_shot are known", "zero_shot", zscl)
    refused("no official checkpoints of prefix_tuning are known", "prefix_tuning", DIKI_FILE)
    refused("unknown method 'zsl'", "zsl", zscl)
    refused("no weights file at", "zscl", tmp_path / "missing.pth")
    refused("only moe_adapters has files of a selector", "zscl", zscl, selector=moe)


def test_other_backbones_are_refused(tmp_path, diki_clip):
    refused("does not fit the backbone tiny", "diki", DIKI_FILE)
    other = {"visual.proj": torch.zeros(64, 16)}
    refused("belongs to another backbone", "moe_adapters", moe_file(tmp_path, **other))
    folder = import_official("zscl", zscl_file(tmp_path), tiny_clip()).write(tmp_path / "own")
    clip = tiny_clip(seed=1)
    with pytest.raises(UserError, match="load the backbone that it was imported for"):
        load_imported(folder, clip)
    assert clip.holder is None


def test_numbers_of_tasks(tmp_path, diki_clip):
    for tasks in (0, 3):
        with pytest.raises(UserError, match=f"knows 2 tasks; found tasks={tasks}; choose 1..2"):
            import_official("diki", DIKI_FILE, diki_clip, tasks=tasks)
    refused("knows 1 tasks; found tasks=2", "moe_adapters", moe_file(tmp_path), tasks=2)
    refused("do not record how many tasks", "zscl", zscl_file(tmp_path), tasks=1)
    several = moe_file(tmp_path, routers=3)
    refused("has learned 3 tasks, and which router", "moe_adapters", several)
    assert import_official("moe_adapters", several, tiny_clip(), tasks=1).tasks == 1


def test_unknown_entries_are_refused(tmp_path):
    refused("e.g. 'something'", "moe_adapters", moe_file(tmp_path, something=torch.ones(1)))


def test_damaged_imports_are_told(tmp_path):
    clip = tiny_clip()
    imported = import_official("zscl", zscl_file(tmp_path), clip)
    folder = imported.write(tmp_path / "own")
    with pytest.raises(UserError, match="holds an import already"):
        imported.write(folder)
    with open(folder / "state.safetensors", "r+b") as file:
        file.seek(-3, 2)
        file.write(b"xyz")
    with pytest.raises(UserError, match="is damaged"):
        load_imported(folder, clip)
    (folder / "state.safetensors").unlink()
    with pytest.raises(UserError, match="holds no whole import"):
        load_imported(folder, clip)
    assert clip.holder is None


def test_the_command_prints_shapes_and_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vlcl_toolkit.load.load_clip", lambda *names, **options: tiny_clip())
    path = zscl_file(tmp_path)
    out = tmp_path / "own"
    assert main(["import", "--method", "zscl", "--file", str(path), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "64 x 16" in shown
    assert "visual.transformer.resblocks.*.ln_1.weight" in shown
    assert (out / "state.safetensors").is_file()
    assert main(["import", "--method", "diki", "--file", str(path)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("vlcl: ")
    assert "\n" not in error
