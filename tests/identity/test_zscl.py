"""The savings of ZSCL and its baselines give what the plain computation gives."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_methods import attached, begin, disturb, gradients, learn, prepared_batch, weights

from vlcl_toolkit.clip.model import Clip, normalize
from vlcl_toolkit.clip.weights import hash_weights
from vlcl_toolkit.methods.zscl.teacher import other_weights

NEAR = {"rtol": 1e-4, "atol": 2e-6}


def plain_loss(method, model, teacher, start, batch):
    """ZSCL's loss as the paper writes it: two models, three image passes, whole texts, a graph of
    the consolidation."""
    scale, tokens = method.clip.logit_scale, method.reference.tokens
    reference = batch.others["reference"].images
    text = normalize(model.encode_text(method.tokens))
    logits = scale * normalize(model.visual(batch.images)) @ text.T
    loss = F.cross_entropy(logits, batch.labels, label_smoothing=0.2)
    with torch.no_grad():
        texts = normalize(teacher.encode_text(tokens))
        target = scale * normalize(teacher.visual(reference)) @ texts.T
    found = scale * normalize(model.visual(reference)) @ texts.T
    for t, u in ((target, found), (target.T, found.T)):
        loss = loss - 4 * ((t / 2).softmax(1) * (u / 2).log_softmax(1)).sum(1).mean()
    anchor = sum((w - start[n]).square().sum() for n, w in model.named_parameters() if n in start)
    return loss + method.config.weight_consolidation * anchor


@pytest.mark.parametrize("name", ["zscl", "lwf"])
def test_a_training_step_is_the_plain_one(name):
    method = attached(name, weight_consolidation=0.7)
    frozen = copy.deepcopy(method.clip.model)
    learn(method, 0)
    task = begin(method, 1)
    start = weights(method)
    teacher = frozen if name == "zscl" else copy.deepcopy(method.clip.model)
    disturb(method)
    plain = copy.deepcopy(method.clip.model)
    batch = prepared_batch(method, task, 2, seed=0)
    loss = method.loss(batch)["loss"]
    expected = plain_loss(method, plain, teacher, start, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    found = gradients(method, loss)
    expected.backward()
    for name, parameter in plain.named_parameters():
        if name != "logit_scale":
            torch.testing.assert_close(found[name], parameter.grad, **NEAR, msg=name)


def test_kept_teacher_features_are_those_of_a_copy_of_the_model():
    method = attached("zscl")
    teacher = copy.deepcopy(method.clip.model)
    learn(method, 0)
    task = begin(method, 1)
    batch = prepared_batch(method, task, 0, seed=0)
    expected = normalize(teacher.visual(batch.others["reference"].images))
    torch.testing.assert_close(batch.prepared["teacher"], expected, **NEAR)
    tokens = method.reference.tokens
    found, expected = method.teacher.texts(tokens), normalize(teacher.encode_text(tokens))
    torch.testing.assert_close(found, expected, **NEAR)


@pytest.mark.parametrize("name", ["zscl", "lwf", "icarl"])
def test_keeping_image_features_changes_no_number(name, monkeypatch):
    kept, fresh = attached(name), attached(name)
    monkeypatch.setattr(fresh, "worth_caching", lambda data: False)
    for method in (kept, fresh):
        learn(method, 0)
    for index, first in weights(kept).items():
        torch.testing.assert_close(first, weights(fresh)[index], rtol=1e-4, atol=1e-5)
    tasks = [begin(method, 1) for method in (kept, fresh)]
    for step in range(3):
        one, other = (
            prepared_batch(method, task, step, seed=0)
            for method, task in zip((kept, fresh), tasks, strict=True)
        )
        assert torch.equal(one.others["reference"].images, other.others["reference"].images)
        teachers = one.prepared["teacher"], other.prepared["teacher"]
        torch.testing.assert_close(*teachers, rtol=1e-3, atol=1e-4)


def counting(monkeypatch):
    """Rows that the towers encode without a graph, i.e. for a teacher."""
    rows = {"images": 0, "texts": 0}
    for name, what in (("encode_image", "images"), ("encode_text", "texts")):
        original = getattr(Clip, name)

        def count(self, inputs, original=original, what=what):
            if not torch.is_grad_enabled():
                rows[what] += len(inputs)
            return original(self, inputs)

        monkeypatch.setattr(Clip, name, count)
    return rows


def test_the_frozen_teacher_sees_everything_once_per_run(monkeypatch):
    rows = counting(monkeypatch)
    method = attached("zscl")
    for index in range(2):
        learn(method, index)
    assert rows == {"images": 21, "texts": 3}  # reference images, sentences


def test_the_teacher_of_lwf_sees_a_task_once(monkeypatch):
    rows = counting(monkeypatch)
    method = attached("lwf")
    for index in range(2):
        learn(method, index)
    assert rows == {"images": 2 * 20, "texts": 3 + 2}


def test_a_large_reference_set_is_not_encoded_as_a_whole(monkeypatch):
    rows = counting(monkeypatch)
    method = attached("lwf", iterations=3, reference_batch_size=4)  # 16 of 20 images
    learn(method, 0)
    assert rows["images"] == 16


def test_one_image_pass_per_step(monkeypatch):
    method = attached("zscl")
    task = begin(method)
    batch = prepared_batch(method, task, 0, seed=0)
    method.teacher.texts(method.reference.tokens)
    calls = []
    method.clip.model.visual.register_forward_hook(lambda m, i, o: calls.append(len(i[0])))
    method.loss(batch)
    assert calls == [16]


def test_consolidation_in_closed_form_is_the_gradient():
    method = attached("weight_consolidation", weight_consolidation=0.3)
    task = begin(method)
    start = weights(method)
    disturb(method, amount=0.1)
    batch = prepared_batch(method, task, 0, seed=0)
    terms = method.loss(batch)
    found = gradients(method, terms["loss"])
    method.clip.model.zero_grad(set_to_none=True)
    parameters = method.trainable()
    penalty = sum((w - start[name]).square().sum() for name, w in parameters.items())
    torch.testing.assert_close(terms["consolidation"], penalty.detach(), rtol=1e-5, atol=0)
    features = method.clip.encode_image(batch.images)
    (method.classification_loss(features, batch.labels) + 0.3 * penalty).backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad, **NEAR, msg=name)


def test_the_teacher_leaves_the_student_untouched():
    method = attached("zscl")
    learn(method, 0)
    parameters, before = method.trainable(), hash_weights(method.clip.model)
    storage = {name: p.data_ptr() for name, p in parameters.items()}
    with other_weights(parameters, method._before):
        assert hash_weights(method.clip.model) != before
    assert hash_weights(method.clip.model) == before
    assert storage == {name: p.data_ptr() for name, p in parameters.items()}
    assert all(p.requires_grad for p in parameters.values())
