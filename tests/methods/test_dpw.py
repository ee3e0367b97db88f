"""DPW: what its switches, its heads and its cut-off promise."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from small_methods import SMALL, begin, learn
from tiny import tiny_clip, tiny_stream

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.methods.diki.prompts import residual_branch
from vlcl_toolkit.methods.dpw.heads import difficulty, head_count, light_head_count
from vlcl_toolkit.methods.dpw.pool import singular_vectors
from vlcl_toolkit.methods.dpw.prefixes import add_weighted_branch
from vlcl_toolkit.streams.label_space import union

SETTINGS = SMALL["dpw"]


def attached(clip=None, **settings):
    """A method on a tiny backbone."""
    method = make_method("dpw", clip or tiny_clip(), SETTINGS | settings)
    method.attach()
    return method


def test_the_foot_of_the_ladder_is_dikis_branch():
    """Query-key scores, softmax, no adapter: the same numbers from the same keys and values."""
    stream = tiny_stream()
    method = attached(scores="query_key", activation="softmax", adapter=False)
    begin(method, 0, stream[0])
    for name, attention in method.pool.places.items():
        prompts = method.pool.prompts_at(0, name, None)
        query = torch.randn(3, 5, attention.embed_dim, generator=torch.Generator().manual_seed(1))
        zero = partial(torch.zeros_like, query)
        strength = torch.tensor([0.2, 0.5, 0.9])
        pair = torch.stack((prompts.score_weight[0], prompts.values))
        with torch.no_grad():
            ours = add_weighted_branch(attention, zero, query, prompts, strength, None)
            expected = residual_branch(attention, query, pair, strength)
        assert expected.abs().max() > 0.01
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_light_with_one_head_scores_as_full():
    full, light = attached(heads=1), attached(heads=1, variant="light")
    for method in (full, light):
        begin(method, 0, tiny_stream()[0])
    name = next(iter(full.pool.places))
    a, b = (method.pool.prompts_at(0, name, None) for method in (full, light))
    x = torch.randn(2, 4, full.pool.places[name].embed_dim)
    with torch.no_grad():
        b.score_weight.copy_(a.score_weight)
        attention = full.pool.places[name]
        torch.testing.assert_close(a.scores(attention, x), b.scores(attention, x))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "normalised"])
def test_total_weight_of_a_token(activation):
    method = attached(activation=activation)
    begin(method, 0, tiny_stream()[0])
    prompts = method.pool.prompts_at(0, next(iter(method.pool.places)), None)
    scores = torch.randn(4, 6, 2, 3, generator=torch.Generator().manual_seed(0)) * 3
    weights, residual = prompts.weights(scores)
    total, sigmoids = weights.sum(dim=-1), scores.sigmoid().sum(dim=-1)
    if activation == "softmax":
        torch.testing.assert_close(total, torch.ones_like(total))
        assert not residual.any()
        return
    expected = sigmoids.clamp(max=1) if activation == "normalised" else sigmoids
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(residual, (sigmoids - 1).clamp(min=0))
    assert (sigmoids > 1).any()
    assert (sigmoids < 1).any()


def test_which_sequences_are_cut_off():
    weights = torch.tensor([0.9, 0.8, 0.95])

    def cut(**settings):
        return attached(**settings).pool.cut(weights)

    assert cut().tolist() == [False, True, False]
    assert cut(decision="batch").tolist() == [False] * 3  # the mean is 0.883
    assert cut(decision="batch", cutoff_threshold=0.9).tolist() == [True] * 3
    assert cut(cutoff="always").tolist() == [True] * 3
    assert cut(cutoff="off") is None


def test_the_cut_leaves_what_is_likely_and_never_touches_the_adapter():
    method = attached()
    learn(method, 0, tiny_stream()[0])
    name = next(iter(method.pool.places))
    strength = torch.tensor([0.1, 0.9])
    prompts = method.pool.prompts_at(0, name, strength)
    assert prompts.cut.tolist() == [True, False]
    scores = prompts.score_mean.expand(2, 4, -1, -1).clone()
    scores[0, 0] += 100  # a class token that the task has never seen
    weights, _ = prompts.weights(scores)
    kept = prompts.kept(scores, weights, strength)
    assert not kept[0].any()
    assert torch.equal(kept[1], weights[1])
    text = replace(prompts, image_tower=False)
    bound = 1 - strength[0]
    assert torch.equal(text.kept(scores, weights, strength)[0] > 0, weights[0] > bound)


def test_scores_are_measured_on_the_finished_task():
    stream = tiny_stream()
    method = attached()
    learn(method, 0, stream[0])
    name = "visual.transformer.resblocks.1"
    attention, found = method.pool.places[name], []
    method.pool.listener = lambda place, at, plain, query, prompts, *rest: (
        found.append(prompts.scores(attention, query)[:, 0]) if place == name else None
    )
    with torch.no_grad():
        images = method.clip.eval_transform(stream[0].train.images)
        method.towers.image_features(images, 0)
    method.pool.listener = None
    scores = torch.cat(found).double()
    mean, variance = method.pool.score_statistics[0][name]
    torch.testing.assert_close(mean, scores.mean(dim=0).float(), rtol=1e-4, atol=1e-5)
    expected = scores.var(dim=0, unbiased=False).float()
    torch.testing.assert_close(variance, expected, rtol=1e-3, atol=1e-6)


def test_in_a_union_each_task_speaks_with_its_own_prompts_at_its_own_weight():
    stream = tiny_stream()
    method = attached(calibration_divisor=30.0)
    for index in range(2):
        learn(method, index, stream[index])
    images = method.clip.eval_transform(stream[0].test.images)[:4]
    together = method.predict(images, union(tuple(stream.tasks[:2])))
    weights = method.task_weights(method.gaussians.log_probs(method.clip.encode_image(images)))
    decision = method.decide(method.gaussians.log_probs(method.clip.encode_image(images)))
    first = 0
    for index, task in enumerate(stream.tasks[:2]):
        last = first + len(task.class_names)
        for row in range(len(images)):
            own = int(decision.task[row])
            with torch.no_grad():
                image = method.towers.image_features(
                    images[row : row + 1], own, decision.image_weight[row : row + 1]
                )
                text = method.towers.text_features(task, index, weights[row : row + 1, index])
            logits = method.clip.logits(image, text[0])[0] * weights[row, index]
            torch.testing.assert_close(together[row, first:last], logits, rtol=1e-4, atol=1e-4)
        first = last


def test_head_counts():
    assert [head_count(12, n / 12 + 1e-9, 768, 8) for n in (0, 1, 2, 3, 5, 6, 11, 12, 22, 23)] == [
        1, 1, 2, 4, 4, 8, 8, 16, 16, 32,
    ]  # fmt: skip
    assert head_count(12, 100.0, 96, 4) == 16  # a power of two that divides 96, 64 <= 96 directions
    assert [light_head_count(own, 512, 8) for own in (12, 8, 2)] == [4, 2, 1]


def test_difficulty_survives_lonely_classes():
    images = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    for labels in ([0, 0, 1, 1, 2], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]):
        factor = difficulty(images, torch.tensor(labels), texts)
        assert 0 <= factor < float("inf")


def test_singular_vectors_have_a_sign():
    matrix = torch.randn(6, 4)
    a, b = singular_vectors(matrix), singular_vectors(-matrix)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_state_of_other_settings_is_refused():
    stream = tiny_stream()
    method = attached()
    learn(method, 0, stream[0])
    state = method.state_dict()
    for settings in ({"adapter_rank": 2}, {"variant": "light"}, {"adapter": False}):
        with pytest.raises(UserError, match="another backbone or depth"):
            attached(**settings).load_state_dict(state)


def test_heads_that_do_not_fit():
    with pytest.raises(UserError, match="do not fit a width"):
        begin(attached(heads=7), 0, tiny_stream()[0])
