"""Checkpoints of the official MoE-Adapters code, AlexNet's weights from a file, and wrong files."""

import pytest
import torch
import torchvision
from small_methods import learn
from tiny import tiny_clip

from methods.test_moe_adapters import attached, eval_images, moe_stream
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.methods.moe_adapters.official import load_official
from vlcl_toolkit.methods.moe_adapters.selector import Autoencoder
from vlcl_toolkit.methods.moe_adapters.selector_features import alexnet_features
from vlcl_toolkit.methods.presets import preset_settings

CLASS_INCREMENTAL = preset_settings("moe_adapters", "ViT-B-16-quickgelu", "cifar100-10")
SHARED = {"selector": "none", "shared_router": True}


@pytest.fixture(scope="module")
def learned():
    """A method after one task with all routers of an official run, and what the run saves."""
    clip, stream = tiny_clip(), moe_stream()
    method = attached(clip, stream)
    learn(method, 0, stream[0])
    state = {name: value.detach().clone() for name, value in method.towers.named().items()}
    blocks = list(method.towers.mixtures)
    saved = {k: v.clone() for k, v in clip.model.state_dict().items()}
    saved |= {k: v for k, v in state.items() if not k.endswith((".count", ".frozen"))}
    for block in blocks:
        for part in ("down_proj.weight", "down_proj.bias", "up_proj.weight", "up_proj.bias"):
            saved[f"{block}.adaptmlp.{part}"] = saved[f"{block}.adaptmlp_list.3.{part}"]
        saved |= {f"{block}.mean": torch.zeros(1), f"{block}.std": torch.ones(1)}
        saved |= {f"{block}.ln_3.{part}": torch.ones(4) for part in ("weight", "bias")}
        for router in range(1, 11):
            for kind in ("router_list", "w_noise_list"):
                saved[f"{block}.{kind}.{router}"] = torch.zeros_like(saved[f"{block}.{kind}.0"])
    images = eval_images(stream[0], clip)
    with torch.no_grad():
        features = method.image_features(images, 0)
    method.detach()
    return saved, state, images, features


def official_method(**settings):
    method = make_method(
        "moe_adapters", tiny_clip(), {"experts": 4, "bottleneck": 5, **SHARED, **settings}
    )
    method.attach()
    return method


def write(path, state):
    torch.save({"state_dict": state}, path)
    return path


def test_an_official_checkpoint_is_read(tmp_path, learned):
    saved, state, images, features = learned
    method = official_method(shared_router=True)
    names = [n for n, v in state.items() if n.endswith(".frozen") for _ in v.nonzero()]
    listing = [
        f"{name.removesuffix('.frozen')}.adaptmlp_list.{int(index)}.{part}"
        for name, flags in state.items()
        if name.endswith(".frozen")
        for index in flags.nonzero()
        for part in ("down_proj.weight", "up_proj.bias")
    ]
    assert len(listing) == 2 * len(names)
    frozen = tmp_path / "frozen.txt"
    frozen.write_text("\n".join(listing))
    load_official(method, write(tmp_path / "Aircraft.pth", saved), frozen=frozen)
    assert method.tasks == 1
    with torch.no_grad():
        assert torch.equal(method.image_features(images, 0), features)
    for name, value in method.towers.named().items():
        if not name.endswith(".count"):
            assert torch.equal(value, state[name]), name


def test_the_number_of_tasks_can_be_given(tmp_path, learned):
    path = write(tmp_path / "a.pth", learned[0])
    method = official_method()
    load_official(method, path, tasks=3)
    assert method.tasks == 3
    for tasks in (0, 12):
        with pytest.raises(UserError, match=f"knows 11 tasks; found tasks={tasks}"):
            load_official(method, path, tasks=tasks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.proj": None}, "lacks 'visual.proj'"),
        ({"visual.proj": torch.zeros(64, 16)}, "belongs to another backbone than 'tiny'"),
        ({"something": torch.zeros(2)}, "does not fit; 1 entries differ, e.g. 'something'"),
        (
            {"transformer.resblocks.0.adaptmlp_list.4.up_proj.bias": torch.zeros(8)},
            "does not fit; 1 entries differ",
        ),
        ({"transformer.resblocks.1.adaptmlp_list.0.up_proj.bias": None}, "does not fit; 1 entries"),
    ],
)
def test_other_content_is_refused(tmp_path, learned, change, message):
    saved = {k: v for k, v in (learned[0] | change).items() if v is not None}
    with pytest.raises(UserError, match=message):
        load_official(official_method(), write(tmp_path / "a.pth", saved))


def test_other_numbers_of_experts_are_refused(tmp_path, learned):
    method = official_method(experts=5)
    with pytest.raises(UserError, match="does not fit"):
        load_official(method, write(tmp_path / "a.pth", learned[0]))


def test_a_list_of_other_names_is_refused(tmp_path, learned):
    path = write(tmp_path / "a.pth", learned[0])
    for name in ("nonsense", "transformer.resblocks.0.adaptmlp_list.9.up_proj.bias"):
        (tmp_path / "frozen.txt").write_text(name)
        with pytest.raises(UserError, match="which is not an expert of this model"):
            load_official(official_method(), path, frozen=tmp_path / "frozen.txt")
    with pytest.raises(UserError, match="cannot read"):
        load_official(official_method(), path, frozen=tmp_path / "missing.txt")


# The selector


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """A file with random weights of AlexNet."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save(torchvision.models.alexnet().state_dict(), path)
    return str(path)


def large_enough(monkeypatch):
    """Lets the tiny backbone say that its images are large; those of the test are."""
    clip = tiny_clip()
    monkeypatch.setattr(clip, "image_size", 64)
    return clip


def autoencoders(count, dim):
    generator = torch.Generator().manual_seed(0)
    made = [Autoencoder(dim, 6) for _ in range(count)]
    for autoencoder in made:
        autoencoder.reset_parameters(generator)
    return {f"{i}.{k}": v for i, a in enumerate(made) for k, v in a.state_dict().items()}


def test_official_autoencoders_are_read(tmp_path, learned, alexnet, monkeypatch):
    clip = large_enough(monkeypatch)
    settings = {"experts": 4, "bottleneck": 5, "selector_weights": alexnet, "threshold": 0.07}
    method = make_method("moe_adapters", clip, settings)
    method.attach()
    dim = method.selector.features.extract(torch.zeros(1, 3, 64, 64)).shape[1]
    assert dim == 256 * 3 * 3
    experts = write(tmp_path / "a.pth", learned[0])
    load_official(method, experts, write(tmp_path / "ae.pth", autoencoders(12, dim)), tasks=3)
    assert method.selector.tasks == 3
    assert method.selector.thresholds == [0.07] * 4
    routes = method.select(torch.randn(2, 3, 64, 64))
    assert set(routes.tolist()) <= {-1, 0, 1, 2}
    with pytest.raises(UserError, match="holds 3 autoencoders; 3 tasks need 4"):
        load_official(method, experts, write(tmp_path / "b.pth", autoencoders(3, dim)), tasks=3)
    with pytest.raises(UserError, match="does not hold autoencoders"):
        load_official(method, experts, experts)
    with pytest.raises(UserError, match="give the official autoencoders too"):
        load_official(method, experts)


def test_official_autoencoders_look_at_alexnet(tmp_path, learned):
    method = official_method(selector="autoencoder", selector_features="clip")
    with pytest.raises(UserError, match="set selector_features='alexnet'"):
        load_official(method, write(tmp_path / "a.pth", learned[0]), tmp_path / "ae.pth")


def test_alexnet_ends_in_its_last_convolution(alexnet, monkeypatch):
    clip = large_enough(monkeypatch)
    features = alexnet_features(clip, alexnet)
    network = torchvision.models.alexnet()
    network.load_state_dict(torch.load(alexnet, weights_only=True))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.features[:11](images).flatten(1).sigmoid()
    assert torch.equal(features.extract(images), expected)
    assert isinstance(features.network[-1], torch.nn.Conv2d)


def test_wrong_alexnet_weights_are_told(tmp_path, monkeypatch):
    clip = large_enough(monkeypatch)
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="does not hold AlexNet's weights"):
        alexnet_features(clip, str(path))

    def offline(**options):
        if options:
            raise OSError("no network")
        raise AssertionError

    monkeypatch.setattr(torchvision.models, "alexnet", offline)
    with pytest.raises(UserError, match="cannot be fetched \\(no network\\)"):
        alexnet_features(clip, None)


def test_the_class_incremental_settings_fit():
    assert official_method(**CLASS_INCREMENTAL).selector is None
