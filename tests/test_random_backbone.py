"""Backbones with random weights: shape, determinism, what a record says about them."""

import pytest
import torch

from vlcl_toolkit import UserError, load_clip
from vlcl_toolkit.clip.random_weights import random_backbone

SMALL = "random:ViT-B-16-quickgelu:depth=2,width=64,pixels=32,dim=24"


def test_small_one_has_the_shape_asked_for():
    clip = load_clip(SMALL, device="cpu")
    assert len(clip.model.visual.transformer.resblocks) == 2
    assert len(clip.model.transformer.resblocks) == 2
    assert clip.model.visual.conv1.weight.shape == (64, 3, 16, 16)
    assert (clip.image_size, clip.embed_dim) == (32, 24)
    assert clip.encode_image(torch.zeros(2, 3, 32, 32)).shape == (2, 24)
    assert clip.class_features(["cat", "dog"], ["a {}."]).shape == (2, 24)
    assert clip.model.context_length == 77


def test_name_alone_is_the_true_size():
    _, config, seed = random_backbone("random:ViT-B-16-quickgelu")
    assert (config["vision_cfg"]["layers"], config["vision_cfg"]["width"]) == (12, 768)
    assert (config["text_cfg"]["layers"], config["embed_dim"], seed) == (12, 512, 0)


def test_text_tower_shrinks_in_proportion():
    _, config, _ = random_backbone("random:ViT-B-16-quickgelu:width=384,depth=3")
    assert (config["text_cfg"]["width"], config["text_cfg"]["heads"]) == (256, 4)
    assert config["text_cfg"]["layers"] == 3


def test_weights_follow_the_seed_alone():
    first = load_clip(SMALL, device="cpu").weights_sha256
    torch.rand(3)
    state = torch.get_rng_state()
    assert load_clip(SMALL, device="cpu").weights_sha256 == first
    assert torch.equal(torch.get_rng_state(), state), "drawing weights must not be noticed"
    assert load_clip(SMALL + ",seed=1", device="cpu").weights_sha256 != first


def test_nobody_mistakes_it_for_the_real_one():
    clip = load_clip(SMALL, device="cpu")
    assert clip.name == SMALL
    assert clip.pretrained == "random weights, seed 0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random:ViT-B-16-quickgel", "unknown architecture .* did you mean 'ViT-B-16-quickgelu'"),
        (f"{SMALL},deph=2", "unknown option of a random backbone 'deph'; did you mean 'depth'"),
        ("random:ViT-B-16-quickgelu:depth=0", "depth .* must be a number above 0; found '0'"),
        ("random:ViT-B-16-quickgelu:width=100", "multiple of 64; found 100; take 128"),
        ("random:ViT-B-16-quickgelu:pixels=40", "multiple of 16; found 40; take 32"),
        ("random:RN50", "RN50 is not a CLIP with a ViT"),
    ],
)
def test_mistakes(name, message):
    with pytest.raises(UserError, match=message):
        load_clip(name, device="cpu")


def test_random_weights_are_not_loaded_from_anywhere():
    with pytest.raises(UserError, match="has random weights; leave out"):
        load_clip(SMALL, pretrained="openai", device="cpu")
