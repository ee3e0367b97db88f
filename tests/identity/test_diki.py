"""DIKI's savings give what the plain computation gives."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from methods.test_diki import attached
from small_methods import begin, learn
from tiny import random_images, tiny_clip, tiny_stream
from torch.distributions import MultivariateNormal

from vlcl_toolkit.clip.model import normalize
from vlcl_toolkit.methods.diki.diki import Diki
from vlcl_toolkit.methods.diki.gaussians import TaskGaussians
from vlcl_toolkit.methods.diki.prefix_tuning import prefix_attention
from vlcl_toolkit.methods.diki.prompts import residual_branch
from vlcl_toolkit.methods.inference import percent_correct
from vlcl_toolkit.streams import TaskStream
from vlcl_toolkit.training.loader import load_step

NEAR = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def learned():
    """DIKI after three tiny tasks, prompts large enough to matter, and the tasks."""
    stream = tiny_stream()
    stream = TaskStream("tiny", (*stream.tasks, *stream.held_out), "random-1")
    method = attached(epochs=1, eval_batch_size=5, calibration_divisor=4.0)
    for index, task in enumerate(stream):
        learn(method, index, task, seed=index)
        enlarge(method, index)
    return method, stream


def enlarge(method, index):
    """Values that change predictions."""
    generator = torch.Generator().manual_seed(index)
    for value in method.pool.tasks[index].values():
        value.data[1] = torch.randn(value[1].shape, generator=generator)
    method.predictions.forget(index)


class Calls:
    """Counts calls of a module and the rows that it got."""

    def __init__(self, module):
        self.rows = []
        self._handle = module.register_forward_pre_hook(
            lambda module, arguments, keywords: self.rows.append(
                len((*arguments, *keywords.values())[0])
            ),
            with_kwargs=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.remove()


# Attention


def heads(x, attention):
    return x.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(-3, -2)


def written_out(attention, query, prompts, weights, mask, *, one_softmax):
    """The attention of the papers, product by product."""
    q, k, v = F.linear(query, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    q, k, v = (heads(x, attention) for x in (q, k, v))
    keys, values = heads(prompts[0], attention), heads(prompts[1], attention)
    scale = attention.head_dim**-0.5
    tokens = scale * q @ k.mT + (0 if mask is None else mask)
    own = scale * q @ keys.mT
    w = torch.ones(len(query)) if weights is None else weights
    w = w[:, None, None, None]
    if one_softmax:
        parts = torch.cat((own.exp() * w, tokens.exp()), dim=-1)
        parts = parts / parts.sum(dim=-1, keepdim=True)
        mixed = parts[..., : keys.shape[-2]] @ values + parts[..., keys.shape[-2] :] @ v
    else:
        mixed = tokens.softmax(dim=-1) @ v + w * (own.softmax(dim=-1) @ values)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("one_softmax", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_attention_is_the_papers(one_softmax, masked, weighted, count):
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(24, count, batch_first=True).eval()
    torch.nn.init.normal_(attention.in_proj_bias)
    torch.nn.init.normal_(attention.out_proj.bias)
    query, prompts = torch.randn(5, 7, 24), torch.randn(2, 4, 24, requires_grad=True)
    weights = torch.rand(5) if weighted else None
    mask = torch.full((7, 7), -torch.inf).triu(1) if masked else None

    def plain():
        return attention(query, query, query, need_weights=False, attn_mask=mask)[0]

    expected = written_out(attention, query, prompts, weights, mask, one_softmax=one_softmax)
    attend = prefix_attention if one_softmax else Diki.attend
    found = attend(attention, plain, query, prompts, weights, mask)
    torch.testing.assert_close(found, expected, **NEAR)
    direction = torch.randn(found.shape)
    gradients = [torch.autograd.grad((x * direction).sum(), prompts)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients, **NEAR)


def test_values_of_zero_add_exactly_zero_and_keys_get_no_gradient():
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(24, 3, batch_first=True)
    prompts = torch.randn(2, 4, 24)
    prompts[1] = 0
    prompts.requires_grad_()
    branch = residual_branch(attention, torch.randn(5, 7, 24), prompts, torch.rand(5))
    assert not branch.any()
    branch.sum().backward()
    assert not prompts.grad[0].any()
    assert prompts.grad[1].any()


# Towers


def test_text_up_to_the_last_end_of_text_is_the_whole_text(learned):
    method, stream = learned
    model, tokens = method.clip.model, method.towers.tokens(stream[0])
    weights = torch.rand(2)
    found = method.towers.text_features(stream[0], 1, weights)
    x = model.token_embedding(tokens) + model.positional_embedding
    for row, weight in zip(found, weights, strict=True):
        with method.pool.use(1, weight.expand(len(tokens))):
            whole = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
        ends = whole[torch.arange(len(tokens)), tokens.argmax(dim=-1)]
        torch.testing.assert_close(row, normalize(ends @ model.text_projection), **NEAR)


def test_a_training_step_runs_no_frozen_image_pass(learned):
    method, stream = learned
    method.enter_task(2, stream[2])
    batch = load_step(method, stream[2], 0, seed=0)
    with Calls(method.clip.model.visual) as image_tower:
        terms = method.loss(batch)
    assert image_tower.rows == [len(batch.images)]
    text = method.towers.text_features(stream[2], 2)[0]
    image = method.towers.image_features(batch.images, 2)
    plain = F.cross_entropy(method.clip.logit_scale * image @ text.T, batch.labels)
    torch.testing.assert_close(terms["loss"], plain, **NEAR)


def test_validation_encodes_its_texts_once(learned):
    method, stream = learned
    method = attached(clip=released(method), epochs=1, batch_size=2)
    task = stream[0]
    begin(method, 0, task)
    enlarge(method, 0)
    model = method.clip.model
    with Calls(model.transformer) as text_tower, Calls(model.visual) as image_tower:
        found = method._validate()
    assert text_tower.rows == [len(task.class_names)]
    assert sum(image_tower.rows) == len(task.validation)
    with torch.no_grad():
        logits = method.logits(method.clip.eval_transform(task.validation.images), task, 0)
        plain = percent_correct(logits.argmax(dim=1), task.validation.labels)
    assert found == plain


def released(method):
    method.detach()
    return method.clip


def test_the_statistics_pass_sees_each_training_image_once(stream):
    method = attached()
    with Calls(method.clip.model.visual) as image_tower:
        begin(method, 0, stream[0])
    assert sum(image_tower.rows) == len(stream[0].train)


# Densities


def test_log_densities_are_those_of_the_normal_distribution():
    generator = torch.Generator().manual_seed(0)
    gaussians = TaskGaussians()
    for index in range(3):
        train = normalize(torch.randn(40, 8, generator=generator) + index)
        gaussians.add(train, str(index))
        covariance = torch.cov(train.T.double()) + 1e-7 * torch.eye(8)
        torch.testing.assert_close(gaussians.covariances[index], covariance.float(), **NEAR)
    new = normalize(torch.randn(10, 8, generator=generator))
    plain = [
        MultivariateNormal(mean.double(), covariance.double()).log_prob(new.double())
        for mean, covariance in zip(gaussians.means, gaussians.covariances, strict=True)
    ]
    torch.testing.assert_close(gaussians.log_probs(new), torch.stack(plain, dim=1))


def test_a_covariance_is_factorised_once(monkeypatch):
    gaussians = TaskGaussians()
    gaussians.add(normalize(torch.randn(40, 8)), "a")
    factorise, calls = torch.linalg.cholesky_ex, []
    monkeypatch.setattr(
        torch.linalg, "cholesky_ex", lambda matrix: calls.append(0) or factorise(matrix)
    )
    new = normalize(torch.randn(10, 8))
    assert torch.equal(gaussians.log_probs(new), gaussians.log_probs(new))
    assert len(calls) == 1


# Testing


@pytest.mark.parametrize("templates", ["first", "all"])
def test_images_that_decide_alone_can_share_a_batch(learned, templates):
    trained, stream = learned
    state, clip = trained.state_dict(), released(trained)
    settings = {"calibration_divisor": 4.0, "templates": templates}
    together = attached(clip=clip, decision="sample", **settings)
    together.load_state_dict(state)
    images = torch.cat([clip.eval_transform(task.test.images) for task in stream])
    for task in stream:
        found = together.predict(images, task)
        log_probs = together.gaussians.log_probs(clip.encode_image(images))
        decision = together.decide(log_probs)
        together.detach()
        alone = attached(clip=clip, decision="batch", **settings)
        alone.load_state_dict(state)
        plain = torch.cat([alone.predict(image[None], task) for image in images])
        each = [alone.decide(row[None]) for row in log_probs]
        alone.detach()
        together.attach()
        # Logits are tens; rounding of features is amplified by the density.
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-4)
        assert torch.equal(found.argmax(dim=1), plain.argmax(dim=1))
        for name in ("task", "image_weight", "text_weight"):
            parts = torch.cat([getattr(one, name) for one in each])
            assert torch.equal(getattr(decision, name), parts), name
    assert len(decision.task.unique()) > 1, "else the test says little"


@pytest.mark.parametrize("decision", ["sample", "batch", "group"])
def test_predictions_are_computed_only_where_they_can_change(decision):
    stream = tiny_stream()
    sets = [
        replace(t, test=random_images(23, len(t.class_names), 7 + i))
        for i, t in enumerate((*stream.tasks, *stream.held_out))
    ]
    clip = tiny_clip()
    settings = {"epochs": 1, "eval_batch_size": 5, "decision": decision}
    method = attached(clip=clip, calibration_divisor=4.0, **settings)
    batch = 5 if decision != "sample" else 1
    before: dict[int, torch.Tensor] = {}
    frozen_rows, prompted_rows = [], 0
    for index, task in enumerate(sets):
        learn(method, index, task, seed=index)
        enlarge(method, index)
        for number, other in enumerate(sets):
            with Calls(clip.model.visual) as image_tower:
                found = method.classify(other.test, other)
            features = method.log_densities.features(other.test)
            score = method.gaussians.log_probs(features).max(dim=1).values
            changed = score != before[number] if number in before else torch.ones(23, dtype=bool)
            changed = torch.cat([c.any().expand_as(c) for c in changed.split(batch)])
            frozen = 23 if number not in before else 0
            assert sum(image_tower.rows) == frozen + int(changed.sum())
            frozen_rows.append(frozen)
            prompted_rows += int(changed.sum())
            before[number] = score
            images = clip.eval_transform(other.test.images)
            plain = [method.predict(part, other).argmax(dim=1) for part in images.split(5)]
            assert torch.equal(found, torch.cat(plain))
    assert sum(frozen_rows) == 3 * 23, "frozen features once per image"
    assert prompted_rows < 9 * 23, "something was reused"


def test_predictions_are_computed_again_when_the_prompts_move(learned):
    method, stream = learned
    task = stream[2]
    method.enter_task(2, task)
    first = method.classify(task.test, task)
    assert torch.equal(method.classify(task.test, task), first)
    images = method.clip.eval_transform(task.test.images)
    for value in method.trainable().values():
        value.data[1] *= -3
    method.after_step(0)
    plain = [method.predict(part, task).argmax(dim=1) for part in images.split(5)]
    assert torch.equal(method.classify(task.test, task), torch.cat(plain))


def test_answers_belong_to_their_images_and_class_names(learned):
    method, stream = learned
    task = stream[0]
    method.classify(task.test, task)
    others = random_images(len(task.test), len(task.class_names), seed=99)
    for changed in (
        replace(task, test=others),
        replace(task, class_names=tuple(reversed(task.class_names))),
    ):
        images = method.clip.eval_transform(changed.test.images)
        plain = [method.predict(part, changed).argmax(dim=1) for part in images.split(5)]
        assert torch.equal(method.classify(changed.test, changed), torch.cat(plain))


def test_texts_without_prompts_are_encoded_once_per_batch(stream):
    method = attached(depth_text=0, calibration_divisor=4.0, epochs=1)
    learn(method, 0, stream[0])
    images = method.clip.eval_transform(stream[0].test.images)
    with Calls(method.clip.model.transformer) as text_tower:
        found = method.predict(images, stream[0])
    assert text_tower.rows == [len(stream[0].class_names)]
    weights = method.decide(method.gaussians.log_probs(method.clip.encode_image(images)))
    image = method.towers.image_features(images, 0, weights.image_weight)
    text = method.clip.encode_text(method.towers.tokens(stream[0]))
    torch.testing.assert_close(found, method.clip.logits(image, text), **NEAR)


def test_images_without_prompts_are_encoded_once(stream):
    method = attached(depth_vision=0, calibration_divisor=4.0, epochs=1)
    learn(method, 0, stream[0])
    images = method.clip.eval_transform(stream[0].test.images)
    with Calls(method.clip.model.visual) as image_tower:
        found = method.predict(images, stream[0])
    assert image_tower.rows == [len(images)]
    frozen = method.clip.encode_image(images)
    weights = method.decide(method.gaussians.log_probs(frozen)).text_weight
    text = method.towers.text_features(stream[0], 0, weights)
    plain = method.clip.logit_scale * torch.einsum("bd,bcd->bc", frozen, text)
    torch.testing.assert_close(found, plain, **NEAR)


def test_equal_weights_share_their_texts(stream):
    method = attached(calibrate=False, epochs=1)
    learn(method, 0, stream[0])
    images = method.clip.eval_transform(stream[0].test.images)
    with Calls(method.clip.model.transformer) as text_tower:
        found = method.predict(images, stream[0])
    assert text_tower.rows == [len(stream[0].class_names)]
    with torch.no_grad():
        torch.testing.assert_close(found, method.logits(images, stream[0], 0), **NEAR)
