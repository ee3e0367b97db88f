"""The method interface, the registry, zero-shot and fine-tuning."""

from dataclasses import dataclass

import pytest
import torch
from tiny import one_process

from vlcl_toolkit.clip.weights import hash_weights
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import Method, make_method, method_names, register
from vlcl_toolkit.methods.batch import Batch
from vlcl_toolkit.methods.registry import _METHODS
from vlcl_toolkit.methods.schedules import cosine_with_warmup
from vlcl_toolkit.training.loader import load_step
from vlcl_toolkit.training.loop import train_step

# Schedule


def test_schedule_has_the_official_landmarks():
    def rate(step):
        return cosine_with_warmup(step, 1000, 100, 1e-5)

    assert rate(0) == pytest.approx(1e-7)
    assert rate(99) == rate(100) == 1e-5
    assert rate(550) == pytest.approx(5e-6)
    assert rate(1000) == 0
    assert all(rate(n) > rate(n + 1) for n in range(100, 1000))


def test_schedule_without_warmup_starts_at_the_peak():
    assert cosine_with_warmup(0, 10, 0, 1.0) == 1


def test_schedule_of_a_loop_no_longer_than_its_warmup():
    assert [cosine_with_warmup(step, 2, 4, 1.0) for step in range(3)] == [0.25, 0.5, 0.75]
    assert [cosine_with_warmup(step, 2, 2, 1.0) for step in range(3)] == [0.5, 1, 1]


# Zero-shot


def test_zero_shot_is_the_frozen_prompt_ensemble(clip, stream):
    task = stream["pets"]
    images = clip.eval_transform(task.test.images)
    with make_method("zero_shot", clip) as method:
        logits = method.predict(images, task)
        assert method.steps(task) == 0
        assert method.trainable() == method.state_dict() == {}
    features = clip.class_features(task.class_names, task.templates)
    torch.testing.assert_close(logits, clip.logits(clip.encode_image(images), features))


def test_zero_shot_encodes_the_classes_of_a_task_once(clip, stream, monkeypatch):
    method, encode, calls = make_method("zero_shot", clip), clip.encode_text, []
    monkeypatch.setattr(clip, "encode_text", lambda tokens: calls.append(1) or encode(tokens))
    for _ in range(3):
        method.predict(clip.eval_transform(stream[0].test.images), stream[0])
    assert len(calls) == 1


# Fine-tuning


def one_step(method, task, step=0):
    optimizer = method.optimizer(list(method.trainable().values()))
    batch = load_step(method, task, step, seed=0)
    return train_step(method, optimizer, batch, one_process())


def test_finetune_trains_everything_but_the_logit_scale(clip, settings):
    everything = dict(clip.model.named_parameters())
    with make_method("finetune", clip, settings) as method:
        assert everything.keys() - method.trainable().keys() == {"logit_scale"}
        assert all(p.requires_grad for p in method.trainable().values())
        assert not clip.model.logit_scale.requires_grad


def test_finetune_moves_every_tensor_and_detach_restores_every_bit(clip, stream, settings):
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}
    method = make_method("finetune", clip, settings)
    for _ in range(2):  # attaching again must work too
        with method:
            method.enter_task(0, stream[0])
            one_step(method, stream[0])
            moved = {n for n, p in clip.model.named_parameters() if not torch.equal(p, before[n])}
            assert moved == method.trainable().keys()
        assert hash_weights(clip.model) == clip.weights_sha256
        assert not any(p.requires_grad or p.grad is not None for p in clip.model.parameters())
        assert clip.holder is None


def test_detach_restores_after_an_error(clip, stream, settings):
    def fail():
        with make_method("finetune", clip, settings) as method:
            method.enter_task(0, stream[0])
            one_step(method, stream[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert hash_weights(clip.model) == clip.weights_sha256
    assert clip.holder is None


def test_finetune_state_round_trip(clip, stream, settings):
    images = clip.eval_transform(stream[0].test.images)
    with make_method("finetune", clip, settings) as method:
        method.enter_task(0, stream[0])
        one_step(method, stream[0])
        state = {name: value.clone() for name, value in method.state_dict().items()}
        expected = method.predict(images, stream[0])
    with make_method("finetune", clip, settings) as method:
        assert not torch.equal(method.predict(images, stream[0]), expected)
        method.load_state_dict(state)
        assert torch.equal(method.predict(images, stream[0]), expected)


def test_finetune_trains_on_the_first_template_and_tests_on_all(clip, stream, settings):
    task = stream["pets"]
    with make_method("finetune", clip, settings) as method:
        method.enter_task(0, task)
        expected = clip.tokenize([f"a photo of a {name}." for name in task.class_names])
        assert torch.equal(method.tokens, expected)
        ensemble = clip.class_features(task.class_names, task.templates)
        torch.testing.assert_close(method.class_features(task), ensemble)


def test_finetune_takes_learning_rates_by_task(clip, stream):
    method = make_method("finetune", clip, {"task_learning_rates": {"food": 5e-5}})
    assert method.learning_rate(100, stream["pets"]) == 1e-5
    assert method.learning_rate(100, stream["food"]) == 5e-5
    assert method.steps(stream[0]) == 1001


def test_eval_scale_changes_logits_and_never_the_class(clip, stream):
    images, task = clip.eval_transform(stream[0].test.images), stream[0]
    own = make_method("finetune", clip).predict(images, task)
    fixed = make_method("finetune", clip, {"eval_scale": 100.0}).predict(images, task)
    torch.testing.assert_close(own * 100 / clip.logit_scale, fixed)
    assert torch.equal(own.argmax(1), fixed.argmax(1))


# Registry and settings


@pytest.fixture
def registry(monkeypatch):
    """A registry whose changes last for one test."""
    monkeypatch.setattr("vlcl_toolkit.methods.registry._METHODS", dict(_METHODS))


def third_party(**attributes):
    @dataclass(frozen=True)
    class Config:
        """Settings of a third party's method."""

        strength: float = 1.0
        mode: str | None = None

    def predict(self, images, task):
        return torch.zeros(len(images), len(task.class_names))

    members = {"name": "third", "Config": Config, "predict": predict, "__module__": "elsewhere"}
    return type("Third", (Method,), members | attributes)


def test_a_third_party_can_register(registry, clip):
    register(third_party())
    register(third_party())  # the notebook cell is run again
    assert "third" in method_names()
    method = make_method("third", clip, {"strength": 2})
    assert method.config.strength == 2


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": ""}, "needs a class attribute `name`"),
        ({"Config": dict}, "needs a class attribute `Config`"),
        ({"name": "finetune"}, "'finetune' is taken"),
    ],
)
def test_unfit_methods_cannot_register(registry, attributes, message):
    with pytest.raises(UserError, match=message):
        register(third_party(**attributes))


def test_unknown_method_names_the_closest(clip):
    with pytest.raises(UserError, match="unknown method 'fine_tune'; did you mean 'finetune'"):
        make_method("fine_tune", clip)


def test_a_backbone_serves_one_method_at_a_time(clip, settings):
    holder, other = make_method("finetune", clip, settings), make_method("zero_shot", clip)
    with holder, pytest.raises(UserError, match="held by a method"):
        other.attach()
    other.detach()  # it never held the backbone: nothing happens
    with other:
        assert clip.holder == "zero_shot"


def test_what_a_training_method_lacks_is_named(clip, stream):
    method = make_method("zero_shot", clip)
    for call in (
        lambda: method.optimizer([]),
        lambda: method.learning_rate(0, stream[0]),
        lambda: method.loss(Batch(torch.zeros(1, 3, 32, 32), torch.zeros(1).long(), 0)),
    ):
        with pytest.raises(NotImplementedError, match="zero_shot trains, so it must define"):
            call()
    with pytest.raises(ValueError, match="saves nothing"):
        method.load_state_dict({"w": torch.zeros(1)})
