"""The embedded miniature world: its pictures, words, stream, model and pre-training."""

import ast
import hashlib
import importlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretrain import PretrainConfig, contrastive_loss, pretrain_mini
from sklearn.datasets import load_digits
from world import FAMILIES, draw_world

import vlcl_toolkit.mini.stream as mini
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import data_path
from vlcl_toolkit.load import load_clip, load_stream
from vlcl_toolkit.mini.clip import CONTEXT, MiniTokenizer, load_mini
from vlcl_toolkit.mini.domains import handwritten_digits


def modules_imported_by(name: str) -> set[str]:
    """Last names of the modules of the miniature that a module imports, directly or through others."""
    tree = ast.parse(Path(importlib.import_module(name).__file__).read_text())
    named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {n for n in named if n.startswith("vlcl_toolkit.mini.") or n in ("families", "world")}
    found = {name.rpartition(".")[2] for name in ours}
    return found.union(*(modules_imported_by(name) for name in ours))


def prompts(task) -> list[str]:
    return [prompt for number in range(len(task.templates)) for prompt in task.prompts(number)]


def fingerprints(images: torch.Tensor) -> set[str]:
    return {hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images}


# The world.


def test_the_world_is_the_same_for_the_same_seed():
    first, again, other = (draw_world(np.random.default_rng(seed), 64) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert not torch.equal(first.images, other.images)


def test_pictures_are_bytes_and_every_family_has_its_share():
    world = draw_world(np.random.default_rng(0), 200)
    assert world.images.dtype == torch.uint8
    assert world.images.shape == (200, 3, 40, 40)
    assert len(world.captions) == len(world.meanings) == 200
    assert all(
        meaning in caption for caption, meaning in zip(world.captions, world.meanings, strict=True)
    )
    assert sum(share for _, share in FAMILIES.values()) == pytest.approx(1)


def test_pre_training_does_not_draw_downstream_looks():
    assert not modules_imported_by("world") & {"looks", "domains", "reference"}
    assert "families" in modules_imported_by("world")


def test_reference_material_is_apart_from_domains_and_world():
    assert not modules_imported_by("vlcl_toolkit.mini.reference") & {
        "looks",
        "domains",
        "families",
        "world",
    }
    reference = mini.mini_reference()
    stream = load_stream("mini")
    class_prompts = {prompt for task in (*stream, *stream.held_out) for prompt in prompts(task)}
    assert not class_prompts & set(reference.sentences)
    world = draw_world(np.random.default_rng(1), 2000)
    assert not set(world.captions) & set(reference.sentences)
    clip = load_clip("mini")
    assert clip.tokenize(reference.sentences).shape == (len(reference.sentences), CONTEXT)


# The stream.


def test_the_stream_has_six_domains_and_a_held_out_one():
    stream = load_stream("mini")
    assert stream.names == ("textures", "sketches", "land", "digits", "flowers", "signs")
    assert [task.name for task in stream.held_out] == ["faces"]
    for task in (*stream, *stream.held_out):
        assert 6 <= len(task.class_names) <= 12
        assert (len(task.train), len(task.validation), len(task.test)) == (400, 200, 500)
        assert set(task.train.labels.tolist()) == set(range(len(task.class_names)))
        assert set(task.test.labels.tolist()) == set(range(len(task.class_names)))


def test_splits_share_no_image():
    for task in load_stream("mini"):
        parts = [
            fingerprints(getattr(task, part).images) for part in ("train", "validation", "test")
        ]
        for one, other in itertools.combinations(parts, 2):
            assert not one & other


def test_the_digits_are_the_real_ones():
    images, labels = handwritten_digits()
    original = load_digits()
    assert labels.tolist() == original.target.tolist()
    small = F.interpolate(images[:, :1].float(), size=10, mode="area")[:, 0, 1:9, 1:9].flatten(1)
    pairs = zip(small.numpy(), original.data, strict=True)
    assert min(np.corrcoef(ours, real)[0, 1] for ours, real in pairs) > 0.95
    digits = load_stream("mini")["digits"]
    for part in (digits.train, digits.validation, digits.test):
        assert fingerprints(part.images) <= fingerprints(images)


# The tokenizer and the model.


def test_token_ids_keep_their_order_and_end_of_text_is_the_largest():
    tokenizer = load_clip("mini").tokenizer
    small = [tokenizer.small_id[full] for full in tokenizer.known_ids]
    assert small == sorted(small)
    assert tokenizer.eot_token_id == tokenizer.vocab_size - 1 > max(small)
    ids = tokenizer("a photo of a house.")[0]
    assert ids[0] == tokenizer.sot_token_id
    assert int(ids.argmax()) == int((ids == tokenizer.eot_token_id).nonzero()[0])


def test_a_long_text_is_cut_and_keeps_its_end():
    tokenizer = MiniTokenizer.from_texts(["a house"])
    ids = tokenizer("house " * 100)[0]
    assert len(ids) == CONTEXT
    assert ids[-1] == tokenizer.eot_token_id


def test_an_unknown_word_is_named():
    with pytest.raises(UserError, match=r"zebra.*a photo of a zebra"):
        load_clip("mini").tokenize(["a photo of a zebra"])


def test_all_prompts_are_known():
    clip, stream = load_clip("mini"), load_stream("mini")
    for task in (*stream, *stream.held_out):
        assert clip.class_features(task.class_names, task.templates).shape[1] == clip.embed_dim


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_weights_are_refused(tmp_path, damage):
    folder = shutil.copytree(data_path("mini"), tmp_path / "mini")
    path = folder / "mini_clip.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-100])
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"mini_clip\.safetensors is (damaged|missing)"):
        load_mini(folder)


def test_zero_shot_is_real_in_every_domain():
    """At least twice chance in each domain, and neither hopeless nor solved on average."""
    clip, stream = load_clip("mini"), load_stream("mini")
    accuracies = {}
    with torch.inference_mode():
        for task in (*stream, *stream.held_out):
            features = clip.encode_image(clip.eval_transform(task.test.images))
            classes = clip.class_features(task.class_names, task.templates)
            hits = clip.logits(features, classes).argmax(dim=1) == task.test.labels
            accuracies[task.name] = 100 * float(hits.float().mean())
            assert accuracies[task.name] >= 2 * 100 / len(task.class_names), task.name
    assert 45 <= np.mean([accuracies[name] for name in stream.names]) <= 80


# Pre-training.


def test_contrastive_loss_is_the_plain_one_where_meanings_differ():
    torch.manual_seed(0)
    images, texts = (F.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    scale = torch.tensor(7.0)
    logits = scale * images @ texts.T
    plain = (
        F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))
    ) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, scale, torch.arange(5)), plain)


def test_equal_meanings_are_no_negatives():
    torch.manual_seed(0)
    images = F.normalize(torch.randn(3, 8), dim=1)
    same, scale = images[[0, 0, 2]], torch.tensor(50.0)
    told = contrastive_loss(same, same, scale, torch.tensor([0, 0, 1]))
    untold = contrastive_loss(same, same, scale, torch.arange(3))
    assert float(told) == pytest.approx(np.log(2) * 2 / 3, abs=1e-3)  # two rows halve their mass
    assert float(untold) == pytest.approx(float(told), abs=1e-3)
    swapped = contrastive_loss(same, images[[0, 2, 0]], scale, torch.tensor([0, 1, 0]))
    assert float(swapped) > float(told)


def small_pretraining(**changes) -> PretrainConfig:
    sizes = {
        "samples": 192,
        "batch_size": 32,
        "round_size": 64,
        "reuse": 1,
        "warmup": 2,
        "vocabulary_rounds": 1,
    }
    return PretrainConfig(**{**sizes, "evaluate_every": 100, **changes})


@pytest.mark.slow
def test_pre_training_resumes_to_the_identical_weights(tmp_path, monkeypatch):
    config = small_pretraining()
    whole = pretrain_mini(config, tmp_path / "whole", device="cpu", progress=False)

    import pretrain as module

    original, calls = module.Pretraining.train_round, []

    def interrupted(self, index):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(index)
        return original(self, index)

    monkeypatch.setattr(module.Pretraining, "train_round", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain_mini(config, tmp_path / "parts", device="cpu", progress=False)
    monkeypatch.setattr(module.Pretraining, "train_round", original)
    parts = pretrain_mini(config, tmp_path / "parts", device="cpu", progress=False)
    assert calls == [0, 1]
    for name in ("mini_clip.safetensors", "mini_clip.json", "pretraining.csv"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    model, tokenizer = load_mini(parts)
    assert model.token_embedding.num_embeddings == tokenizer.vocab_size
    assert json.loads((parts / "mini_clip.json").read_text())["pretraining"]["samples"] == 192


@pytest.mark.slow
def test_pre_training_with_other_settings_is_refused(tmp_path):
    pretrain_mini(small_pretraining(samples=64), tmp_path, device="cpu", progress=False)
    with pytest.raises(UserError, match="other settings"):
        pretrain_mini(small_pretraining(samples=128), tmp_path, device="cpu", progress=False)
