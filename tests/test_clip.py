"""The backbone: loading, encoding, transforms, errors."""

import copy
import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_clip
from torchvision.transforms import v2

from vlcl_toolkit.clip.model import Clip, encode_tokens, find_device, normalize
from vlcl_toolkit.clip.weights import hash_weights
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_clip

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    "quick_gelu": True,
}


@pytest.fixture(scope="module")
def known_tiny(tmp_path_factory):
    """A tiny architecture that open_clip knows by name."""
    path = tmp_path_factory.mktemp("configs") / "ViT-tiny-test.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    return "ViT-tiny-test"


@pytest.fixture
def weights_file(known_tiny, tmp_path):
    """Random weights of that architecture."""
    path = tmp_path / "weights.safetensors"
    save_file(open_clip.create_model(known_tiny, load_weights=False).state_dict(), path)
    return path


# Encoding


@pytest.mark.parametrize(
    "texts",
    [
        ["cat"],
        ["a photo of a cat.", "a very long caption about one thing and another thing", "x"],
        ["word " * 100, "short"],  # fills the context
    ],
)
def test_cut_text_tower_equals_the_full_one(clip, texts):
    tokens = clip.tokenize(texts)
    in_float32 = encode_tokens(clip.model, tokens)
    torch.testing.assert_close(in_float32, clip.model.encode_text(tokens), rtol=1e-5, atol=1e-6)
    model = clip.model.double()
    exact = encode_tokens(model, tokens)
    torch.testing.assert_close(exact, model.encode_text(tokens), rtol=1e-12, atol=1e-12)


def test_features_have_unit_norm_and_equal_open_clip(clip):
    images = torch.randn(3, 3, 32, 32)
    features = clip.encode_image(images)
    expected = clip.model.encode_image(images, normalize=True)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    text = clip.encode_text(clip.tokenize(["a cat", "a dog"]))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))


def test_class_features_average_the_templates(clip):
    names, templates = ("cat", "dog"), ("a {}.", "the {}!", "my {}")
    for row, name in zip(clip.class_features(names, templates), names, strict=True):
        each = clip.encode_text(clip.tokenize([t.format(name) for t in templates]))
        torch.testing.assert_close(row, normalize(each.mean(dim=0)))


def test_logits_are_scaled_cosines(clip):
    a, b = normalize(torch.randn(2, 16)), normalize(torch.randn(5, 16))
    torch.testing.assert_close(clip.logits(a, b), clip.model.logit_scale.exp() * a @ b.T)


def test_backbone_is_frozen(clip):
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert not clip.model.training
    assert (clip.image_size, clip.embed_dim, clip.device.type) == (32, 16, "cpu")


def test_bf16_towers_give_float32_features_close_to_fp32(clip):
    images = torch.randn(4, 3, 32, 32)
    half = tiny_clip(precision="bf16").encode_image(images)
    assert half.dtype == torch.float32
    assert not torch.equal(half, clip.encode_image(images))
    torch.testing.assert_close(half, clip.encode_image(images), rtol=0, atol=0.05)


def test_weights_hash_tells_weights_apart(clip):
    assert clip.weights_sha256 == tiny_clip().weights_sha256
    assert clip.weights_sha256 != tiny_clip(seed=1).weights_sha256
    with torch.no_grad():
        clip.model.visual.proj[0, 0] += 1e-3
    assert hash_weights(clip.model) != clip.weights_sha256


def test_it_knows_whether_its_weights_are_its_own(clip):
    copied = copy.deepcopy(clip)
    assert clip.has_own_weights()
    assert copied.has_own_weights()
    with torch.no_grad():
        copied.model.visual.proj[0, 0] += 1
    assert clip.has_own_weights()
    assert not copied.has_own_weights()
    with torch.no_grad():
        copied.model.visual.proj.copy_(clip.model.visual.proj)
    assert copied.has_own_weights()


# Transforms


def test_a_picture_and_its_pixels_give_the_same_input(clip):
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    picture = v2.functional.to_pil_image(pixels)
    expected = (pixels.float() / 255 - clip.eval_transform.mean) / clip.eval_transform.std
    assert torch.equal(clip.eval_transform(pixels), expected)
    assert torch.equal(clip.eval_transform(picture), expected)


def test_a_batch_equals_its_images(clip):
    batch = torch.randint(0, 256, (3, 3, 40, 48), dtype=torch.uint8)
    one_by_one = torch.stack([clip.eval_transform(image) for image in batch])
    assert torch.equal(clip.eval_transform(batch), one_by_one)
    torch.manual_seed(0)
    augmented = torch.stack([clip.train_transform(image) for image in batch])
    torch.manual_seed(0)
    assert torch.equal(clip.train_transform(batch), augmented)


# Loading


def test_load_a_local_checkpoint(known_tiny, weights_file):
    clip = load_clip(known_tiny, checkpoint=weights_file, device="cpu")
    assert (clip.name, clip.image_size, clip.embed_dim) == (known_tiny, 32, 16)
    again = load_clip(known_tiny, checkpoint=str(weights_file), device="cpu")
    assert again.weights_sha256 == clip.weights_sha256


def test_load_a_torch_file_with_a_wrapped_state(known_tiny, tmp_path):
    state = open_clip.create_model(known_tiny, load_weights=False).state_dict()
    path = tmp_path / "task_1.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    clip = load_clip(known_tiny, checkpoint=path, device="cpu")
    assert torch.equal(clip.model.visual.proj, state["visual.proj"])


class Malicious:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (pytest.fail, ("code from a weights file was run",))


def test_pickled_objects_are_refused(known_tiny, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"weight": Malicious()}, path)
    with pytest.raises(UserError, match="cannot read the weights"):
        load_clip(known_tiny, checkpoint=path)


def test_a_truncated_file_is_named(known_tiny, weights_file):
    weights_file.write_bytes(weights_file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cannot read the weights in .*weights\.safetensors"):
        load_clip(known_tiny, checkpoint=weights_file)


def test_weights_of_another_model_are_named(weights_file):
    with pytest.raises(UserError, match="does not match this model"):
        load_clip("ViT-B-32", checkpoint=weights_file)


def test_a_missing_file_is_named(known_tiny, tmp_path):
    with pytest.raises(UserError, match=r"no weights file at .*gone\.pt"):
        load_clip(known_tiny, checkpoint=tmp_path / "gone.pt")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ViT-B-61", {}, "unknown backbone 'ViT-B-61'; did you mean 'ViT-B-16'"),
        ("RN50", {"pretrained": "openai"}, "not a CLIP with a ViT image tower"),
        ("coca_ViT-B-32", {}, "not a CLIP with a ViT image tower"),
        ("ViT-B-16-SigLIP", {}, "not a CLIP with a ViT image tower"),
        ("ViT-B-16-quickgelu", {}, "needs weights; .*openai"),
        ("ViT-B-16-quickgelu", {"pretrained": "openia"}, "did you mean 'openai'"),
        ("mini", {"pretrained": "openai"}, "'mini' has one set of weights"),
        ("mini", {"device": "gpu"}, "no device 'gpu' is available"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(UserError, match=message):
        load_clip(name, **options)


def test_a_failed_download_is_one_line(monkeypatch):
    def offline(*arguments, **options):
        raise RuntimeError("Failed to download weights\nfor many reasons")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(UserError, match="Failed to download weights; give a local file") as error:
        load_clip("ViT-B-16-quickgelu", pretrained="openai")
    assert "\n" not in str(error.value)


def test_a_model_of_another_class_is_refused():
    model = open_clip.model.CustomTextCLIP(
        TINY["embed_dim"], TINY["vision_cfg"], TINY["text_cfg"], quick_gelu=True
    )
    with pytest.raises(UserError, match="ViT image tower and a causal text tower"):
        Clip(model, open_clip.get_tokenizer("ViT-B-32"), name="custom")


def test_missing_cuda_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    if torch.cuda.device_count() == 0:
        with pytest.raises(UserError, match="no CUDA device is available"):
            find_device("cuda")
