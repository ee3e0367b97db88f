"""Files of the official DIKI code: read right, or refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from parity.loading import build_clip
from safetensors.torch import load_file
from tiny import tiny_clip

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.diki.official import read_official_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "diki"
RECORD = json.loads((GOLDEN / "case_checkpoint_A.json").read_text())


@pytest.fixture(scope="module")
def clip():
    """The backbone of the recorded file."""
    return build_clip(load_file(GOLDEN / RECORD["weights"]))


@pytest.fixture
def content():
    """What the recorded file holds."""
    return torch.load(GOLDEN / RECORD["file"], weights_only=True)


def saved(content, folder):
    torch.save(content, folder / "task_1.pt")
    return folder / "task_1.pt"


def test_slots_in_use_are_taken(clip, content):
    found = read_official_checkpoint(GOLDEN / RECORD["file"], clip, tasks=["pets", "digits"])
    assert found.tasks_learned == 2
    assert torch.equal(found.means[:2], content["means"][:2])
    assert found.means[2].isnan().all()
    assert found.covariances[2].isnan().all()
    method = found.method(clip)
    config = method.config
    assert (config.depth_vision, config.depth_text) == (2, 2)
    assert (config.length_vision, config.length_text) == (4, 4)
    assert (len(method.pool), len(method.gaussians)) == (2, 2)
    key = "text_encoder.transformer.resblocks.1.attn.prefix_pool"
    ours = method.pool.tasks[1]["transformer.resblocks.1"]
    assert torch.equal(ours, content[key][1].float())
    method.detach()


def test_a_loaded_method_goes_on_learning(clip):
    method = read_official_checkpoint(GOLDEN / RECORD["file"], clip).method(clip)
    method.pool.grow(torch.Generator())
    method.best.start()
    assert len(method.pool) == len(method.best.epochs) == 3
    method.detach()


def test_the_prefix_of_several_gpus_is_removed(clip, content, tmp_path):
    path = saved({f"module.{key}": value for key, value in content.items()}, tmp_path)
    assert read_official_checkpoint(path, clip).tasks_learned == 2


def test_a_file_without_text_prompts_has_depth_zero(clip, content, tmp_path):
    path = saved({k: v for k, v in content.items() if not k.startswith("text")}, tmp_path)
    config = read_official_checkpoint(path, clip).config()
    assert (config.depth_vision, config.depth_text) == (2, 0)


IMAGE = "image_encoder.transformer.resblocks.{}.attn.prefix_pool"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {k: v for k, v in c.items() if k != "means"}, "missing: means"),
        (lambda c: c | {"classifier.weight": torch.ones(1)}, "unknown: classifier.weight"),
        (lambda c: {k: c[k] for k in ("means", "covars", "task_learnt")}, "prompt pools: 0"),
        (lambda c: c | {"task_learnt": torch.tensor(4)}, "has 3 slots but claims 4"),
        (lambda c: c | {"task_learnt": torch.tensor(0)}, "has 3 slots but claims 0"),
        (lambda c: c | {"task_learnt": torch.tensor(3)}, "contains NaN or Inf .*covars"),
        (lambda c: c | {IMAGE.format(2): c[IMAGE.format(0)][:2]}, r"resblocks.2 has shape \(2, 2"),
        (lambda c: c | {IMAGE.format(5): c[IMAGE.format(0)]}, "resblocks.2 has shape None"),
        (lambda c: c | {"means": c["means"][:, :16]}, r"means has shape \(3, 16\)"),
        (lambda c: c | {"covars": c["covars"][:2]}, r"covars has shape \(2, 32, 32\)"),
    ],
)
def test_other_content_is_refused(clip, content, tmp_path, change, message):
    path = saved(change(content), tmp_path)
    with pytest.raises(UserError, match=message):
        read_official_checkpoint(path, clip)


def test_more_tasks_than_it_knows_are_named(clip):
    with pytest.raises(UserError, match=r"has learned 2 tasks; found 3 names \(a, b, c\)"):
        read_official_checkpoint(GOLDEN / RECORD["file"], clip, tasks=["a", "b", "c"])


def test_another_backbone_is_named():
    with pytest.raises(UserError, match="does not fit the backbone tiny; means has shape"):
        read_official_checkpoint(GOLDEN / RECORD["file"], tiny_clip())


def test_a_file_that_needs_pickle_is_refused(clip, tmp_path):
    torch.save({"means": Path("x")}, tmp_path / "task_0.pt")
    with pytest.raises(UserError, match="nothing but tensors, numbers and texts is read"):
        read_official_checkpoint(tmp_path / "task_0.pt", clip)
    with pytest.raises(UserError, match="no weights file"):
        read_official_checkpoint(tmp_path / "task_7.pt", clip)
