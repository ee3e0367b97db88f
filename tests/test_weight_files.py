"""Weights files in the forms that people have, and the activation that belongs to them."""

import argparse
import json
import logging
import warnings
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_clip

from vlcl_toolkit.clip.weights import read_state
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_clip
from vlcl_toolkit.methods import import_official, load_imported

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
NAMES = ("tiny-formats", "tiny-formats-quickgelu")


@pytest.fixture(scope="module", autouse=True)
def _known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, quick in zip(NAMES, ({}, {"quick_gelu": True}), strict=True):
        (folder / f"{name}.json").write_text(json.dumps(TINY | quick))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return open_clip.create_model(NAMES[1], load_weights=False).state_dict()


class Node(torch.nn.Module):
    def forward(self, x):
        return x


def torchscript(state, path):
    """An archive with the names and types of OpenAI's own files."""
    root = Node()
    for name, value in state.items():
        *parents, last = name.split(".")
        part = root
        for parent in parents:
            if not hasattr(part, parent):
                part.add_module(parent, Node())
            part = getattr(part, parent)
        value = value.half() if value.ndim > 1 else value
        part.register_parameter(last, torch.nn.Parameter(value, requires_grad=False))
    for name, number in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        root.register_buffer(name, torch.tensor(number))
    with warnings.catch_warnings():  # deprecated: nobody should write such files any more
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(str(path))


def hugging_face(state):
    """The same weights under the names of a `CLIPModel`."""
    found = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    blocks = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    blocks |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names = {
        "logit_scale": "logit_scale",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    }
    layers = {
        "ln_final": "text_model.final_layer_norm",
        "visual.ln_pre": "vision_model.pre_layrnorm",
    }
    layers |= {"visual.ln_post": "vision_model.post_layernorm"}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        if name in names:
            found[names[name]] = value
        elif stem in layers:
            found[f"{layers[stem]}.{kind}"] = value
        elif name == "text_projection":
            found["text_projection.weight"] = value.T.contiguous()
        elif name == "visual.proj":
            found["visual_projection.weight"] = value.T.contiguous()
        else:
            tower, _, rest = name.partition("transformer.resblocks.")
            number, _, place = rest.partition(".")
            there = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}"
            if place.startswith("attn.in_proj_"):
                kind = place.removeprefix("attn.in_proj_")
                for part, piece in zip("qkv", value.chunk(3), strict=True):
                    found[f"{there}.self_attn.{part}_proj.{kind}"] = piece.contiguous()
            else:
                stem, _, kind = place.rpartition(".")
                found[f"{there}.{blocks[stem]}.{kind}"] = value
    return found


def same(clip, state, half=False):
    for name, value in clip.model.state_dict().items():
        expected = state[name].half().float() if half and value.ndim > 1 else state[name]
        assert torch.equal(value, expected), name


def test_openais_own_archive(state, tmp_path):
    torchscript(state, tmp_path / "ViT-B-16.pt")
    same(load_clip(NAMES[1], checkpoint=tmp_path / "ViT-B-16.pt", device="cpu"), state, half=True)


def test_hugging_faces_file(state, tmp_path):
    save_file(hugging_face(state), tmp_path / "model.safetensors")
    same(load_clip(NAMES[1], checkpoint=tmp_path / "model.safetensors", device="cpu"), state)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "clip.", "model.clip._orig_mod.", "net."],
)
@pytest.mark.parametrize(
    "wrapper", [None, "state_dict", "model", "model_state_dict", "params", "ema"]
)
def test_what_training_scripts_save(prefix, wrapper, state, tmp_path):
    content = {prefix + name: value for name, value in state.items()}
    content[prefix + "attn_mask"] = torch.zeros(77, 77)
    if wrapper:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
        content = {wrapper: content, "epoch": 3, "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "weights.pt")
    assert read_state(tmp_path / "weights.pt").keys() == state.keys()


def test_notes_beside_the_weights_and_wrapped_parts(state, tmp_path):
    content = {
        name.replace("resblocks.0.", "resblocks.0._checkpoint_wrapped_module."): value
        for name, value in state.items()
    }
    notes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    torch.save(content | notes, tmp_path / "weights.pt")
    same(load_clip(NAMES[1], checkpoint=tmp_path / "weights.pt", device="cpu"), state)


def test_hugging_faces_names_inside_a_module(state, tmp_path):
    content = {f"clip.{name}": value for name, value in hugging_face(state).items()}
    torch.save({"state_dict": content}, tmp_path / "weights.pt")
    same(load_clip(NAMES[1], checkpoint=tmp_path / "weights.pt", device="cpu"), state)


def test_two_models_in_one_file_are_not_guessed(state, tmp_path):
    both = {
        f"{who}.{name}": value for who in ("student", "teacher") for name, value in state.items()
    }
    torch.save(both, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="does not match this model"):
        load_clip(NAMES[1], checkpoint=tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.SAFETENSORS", "weights.pt", "weights"])
def test_safetensors_are_known_by_their_content(name, state, tmp_path):
    save_file(state, tmp_path / name)
    same(load_clip(NAMES[1], checkpoint=tmp_path / name, device="cpu"), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value * float("nan"), r"visual\.proj in .*nan or inf"),
        (lambda value: (value * 100).to(torch.int8), r"visual\.proj in .*has the type int8"),
        (lambda value: value.to(torch.complex64), "has the type complex64"),
        (lambda value: value.to_sparse(), "has the type sparse_coo float32"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_weights_that_are_no_numbers_are_named(change, message, state, tmp_path):
    torch.save(state | {"visual.proj": change(state["visual.proj"])}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=message):
        load_clip(NAMES[1], checkpoint=tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"\x1f\x8b\x08\x00 packed", "it is damaged"),
        ({"args": argparse.Namespace(lr=1)}, r"holds argparse\.Namespace"),
        ({1: torch.ones(2)}, "does not contain named tensors: found the entries 1"),
        ([1, 2], "does not contain named tensors: found none"),
        ({}, "does not contain named tensors"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_is_no_weights_file_says_what_it_is(name, content, message, tmp_path):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        load_clip(NAMES[1], checkpoint=path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_in_the_home_folder(state, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(state, tmp_path / "weights.safetensors")
    same(load_clip(NAMES[1], checkpoint="~/weights.safetensors", device="cpu"), state)


def test_the_program_in_an_archive_is_never_run(state, tmp_path):
    path, hostile = tmp_path / "a.pt", tmp_path / "b.pt"
    torchscript(state, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(hostile, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/data.pkl"):
                content = b"cos\nsystem\n(S'touch " + str(tmp_path).encode() + b"/ran'\ntR."
            new.writestr(name, content)
    with pytest.raises(UserError, match="cannot read the weights in"):
        load_clip(NAMES[1], checkpoint=hostile)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_an_archive_without_its_list_of_files(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    torch.save({"text": torch.zeros(4)}, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\1\2", b"PK\1\3"))
    with pytest.raises(UserError, match=path.name):
        read_state(path)


def test_damaged_archives_are_named(state, tmp_path):
    path = tmp_path / "a.pt"
    torchscript(state, path)
    whole = path.read_bytes()
    for end in (len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"a\.pt"):
            load_clip(NAMES[1], checkpoint=path)


def test_a_local_file_is_loaded_without_a_warning_of_random_weights(
    state, tmp_path, caplog, capsys
):
    save_file(state, tmp_path / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        load_clip(NAMES[1], checkpoint=tmp_path / "model.safetensors", device="cpu")
    assert not caplog.records
    assert "random" not in capsys.readouterr().err


# The activation.


def test_openais_weights_are_refused_by_a_backbone_with_gelu(state, tmp_path):
    with pytest.raises(UserError, match=r"QuickGELU.*choose ViT-B-16-quickgelu"):
        load_clip("ViT-B-16", pretrained="openai")
    torchscript(state, tmp_path / "openai.pt")
    with pytest.raises(UserError, match=f"choose {NAMES[1]}"):
        load_clip(NAMES[0], checkpoint=tmp_path / "openai.pt")


@pytest.mark.parametrize(("config", "quick"), [({}, True), ({"hidden_act": "gelu"}, False)])
def test_hugging_faces_config_tells_the_activation(config, quick, state, tmp_path):
    save_file(hugging_face(state), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": config}))
    load_clip(NAMES[quick], checkpoint=tmp_path / "model.safetensors", device="cpu")
    with pytest.raises(UserError, match="were trained with"):
        load_clip(NAMES[not quick], checkpoint=tmp_path / "model.safetensors")


def test_an_import_belongs_to_its_activation(tmp_path):
    shape = "depth=1,width=64,pixels=32,dim=16"
    quick, plain = (
        load_clip(f"random:ViT-B-16{end}:{shape}", device="cpu") for end in ("-quickgelu", "")
    )
    assert (quick.activation, plain.activation) == ("quick_gelu", "gelu")
    assert tiny_clip().activation in ("quick_gelu", "gelu")
    named = {name: value.detach() for name, value in quick.model.named_parameters()}
    torch.save({"state_dict": named}, tmp_path / "Food.pth")
    import_official("zscl", tmp_path / "Food.pth", quick).write(tmp_path / "imported")
    with pytest.raises(UserError, match="another activation"):
        load_imported(tmp_path / "imported", plain)
    load_imported(tmp_path / "imported", quick).detach()


def test_a_weights_file_is_no_folder_of_the_miniature(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="or another --backbone for a weights file"):
        load_clip("mini", checkpoint=tmp_path / "model.safetensors")
