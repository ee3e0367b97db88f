"""What every method promises, whatever it does: see `Method` in `methods/base.py`."""

import pytest
import torch
from small_methods import SMALL, attached, begin, learn, reference_stream
from tiny import tiny_clip

from vlcl_toolkit.clip.weights import hash_weights
from vlcl_toolkit.methods import method_names
from vlcl_toolkit.training.checkpoint import CheckpointStore
from vlcl_toolkit.training.events import StopRun
from vlcl_toolkit.training.loop import run

TRAINING = [name for name in SMALL if name != "zero_shot"]
every_method = pytest.mark.parametrize("name", TRAINING)


def test_every_method_is_here():
    assert set(SMALL) == set(method_names())


@every_method
def test_detaching_restores_the_backbone_bit_for_bit(clip, stream, name):
    images = clip.eval_transform(stream[0].test.images)
    before = clip.encode_image(images)
    method = attached(name, clip)
    learn(method, 0)
    begin(method, 1)
    method.detach()
    assert hash_weights(clip.model) == clip.weights_sha256
    assert torch.equal(clip.encode_image(images), before)
    assert not any(p.requires_grad or p.grad is not None for p in clip.model.parameters())
    for module in clip.model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks


@every_method
def test_its_state_predicts_what_it_did(stream, name):
    method, other = attached(name), attached(name)
    for index in range(2):
        learn(method, index)
    other.load_state_dict(method.state_dict())
    for task in stream:
        images = method.clip.eval_transform(task.test.images)
        assert torch.equal(other.predict(images, task), method.predict(images, task))


@pytest.fixture(scope="module", params=TRAINING)
def finished(request, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp(request.param)
    options = {"config": SMALL[request.param], "progress": False}
    return run(request.param, reference_stream(), tiny_clip(), out=folder, **options), options


@pytest.mark.parametrize("event", [1, 4, 8, 10, 13])
def test_stopped_and_resumed_is_identical(tmp_path, finished, event):
    result, options = finished
    count = [0]

    def stop(_):
        count[0] += 1
        if count[0] == event + 1:
            raise StopRun

    method = result.config["method"]
    run(method, reference_stream(), tiny_clip(), out=tmp_path, callback=stop, **options)
    again = run(method, reference_stream(), tiny_clip(), out=tmp_path, **options)
    assert again.complete
    for name in ("accuracy.csv", "history.jsonl", "config.json"):
        assert (tmp_path / name).read_bytes() == (result.folder / name).read_bytes(), name
    states = [CheckpointStore(f / "checkpoints").load() for f in (tmp_path, result.folder)]
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for name, value in states[0].tensors.items():
        assert torch.equal(value, states[1].tensors[name]), name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["zscl", "diki", "prefix_tuning", "moe_adapters"])
def test_lower_precision_runs(tmp_path, name, precision):
    clip, options = tiny_clip(precision=precision), {"config": SMALL[name], "progress": False}
    assert run(name, reference_stream(), clip, out=tmp_path, **options).complete
