"""MoE-Adapters: what it promises, and the mistakes it names."""

from dataclasses import replace

import pytest
import torch
from small_methods import SMALL, begin, learn
from tiny import one_process, random_images, tiny_clip, tiny_stream

from vlcl_toolkit.errors import DivergedError, UserError
from vlcl_toolkit.methods import make_config, make_method
from vlcl_toolkit.methods.moe_adapters.experts import Sampler
from vlcl_toolkit.methods.moe_adapters.selector import Autoencoder, train_autoencoder
from vlcl_toolkit.methods.presets import preset_settings
from vlcl_toolkit.streams.base import Reference
from vlcl_toolkit.training.checkpoint import CheckpointStore
from vlcl_toolkit.training.loader import load_step
from vlcl_toolkit.training.loop import run, train_step

CLASS_INCREMENTAL = preset_settings("moe_adapters", "ViT-B-16-quickgelu", "cifar100-10")
SETTINGS = SMALL["moe_adapters"]


def moe_stream():
    """The tiny stream with reference images."""
    images = random_images(24, 3, 99).images
    return replace(tiny_stream(), reference=lambda: Reference(images, (), ()))


@pytest.fixture
def stream():
    return moe_stream()


def attached(clip=None, stream=None, method="moe_adapters", **settings):
    """A method on a tiny backbone."""
    method = make_method(method, clip or tiny_clip(), SETTINGS | settings)
    method.attach()
    method.enter_stream(stream or moe_stream())
    return method


def snapshot(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


def eval_images(task, clip):
    return clip.eval_transform(task.test.images)


# Promises


@pytest.mark.parametrize("settings", [{}, {"text_route": "end"}, {"towers": "image"}])
def test_untrained_experts_leave_the_frozen_clip_exactly(clip, stream, settings):
    images = eval_images(stream[0], clip)
    features = clip.encode_image(images)
    head = clip.class_features(stream[0].class_names, stream[0].templates)
    method = attached(clip, stream, **settings)
    begin(method, 0, stream[0])
    for route in (-1, 0):
        with torch.no_grad():
            assert torch.equal(method.image_features(images, route), features)
        assert torch.equal(method.text_head(stream[0], route), head)
    assert any(bool(e.down_proj.weight.any()) for e in first_mixture(method).adaptmlp_list)


def first_mixture(method):
    return next(iter(method.towers.mixtures.values()))


def test_frozen_experts_and_old_routers_do_not_change_by_one_bit(stream):
    method = attached(stream=stream)
    learn(method, 0, stream[0])
    before = snapshot(method)
    frozen = [name for name, value in before.items() if name.endswith(".frozen")]
    assert all(int(before[name].sum()) == 2 for name in frozen)
    learn(method, 1, stream[1])
    after = method.state_dict()
    kept = [name for name in before if name.endswith(("router_list.0", "w_noise_list.0"))]
    for name in frozen:
        block = name.removesuffix(".frozen")
        for index in before[name].nonzero().flatten().tolist():
            expert = f"{block}.adaptmlp_list.{index}."
            kept += [entry for entry in before if entry.startswith(expert)]
        assert bool((after[name] >= before[name]).all())
    kept += [name for name in before if name.startswith(("selector.0.", "selector.1."))]
    assert len(kept) == 4 * (2 + 2 * 4) + 2 * 4
    for name in kept:
        assert torch.equal(before[name], after[name]), name
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(".adaptmlp_list." in name for name in changed)


def test_only_the_experts_and_the_tasks_router_are_trained(stream):
    method = attached(stream=stream)
    learn(method, 0, stream[0])
    begin(method, 1, stream[1])
    names = method.trainable()
    assert not any(name.endswith("list.0") and "router" in name for name in names)
    assert sum("router_list.1" in name for name in names) == 4
    assert sum(name.endswith("down_proj.weight") for name in names) == 4 * (4 - 2)
    assert not any(p.requires_grad for p in method.clip.model.parameters())
    flags = {n: p.requires_grad for n, p in method.towers.named().items() if p.is_floating_point()}
    assert {name for name, flag in flags.items() if flag} == names.keys()


def test_the_most_chosen_experts_freeze_and_ties_go_to_the_lower_index(stream):
    method = attached(stream=stream)
    begin(method, 0, stream[0])
    for mixture in method.towers.mixtures.values():
        mixture.count.copy_(torch.tensor([1, 5, 3, 3]))
    method.end_task(0, stream[0])
    assert first_mixture(method).frozen.tolist() == [False, True, True, False]


def test_training_learns(stream):
    method = attached(stream=stream, iterations=40, learning_rate=3e-2, label_smoothing=0.0)
    begin(method, 0, stream[0])
    optimizer = method.optimizer(list(method.trainable().values()))
    batch = load_step(method, stream[0], 0, 0)
    terms = [
        train_step(method, optimizer, batch, one_process())["loss"]
        for step in range(method.steps(stream[0]))
    ]
    assert terms[-1] < 0.5 * terms[0]


def test_counters_count_rows_of_training_alone(stream):
    method = attached(stream=stream)
    begin(method, 0, stream[0])
    batch = load_step(method, stream[0], 0, 0)
    method.loss(batch)
    method.image_features(batch.images, 0)
    totals = [int(m.count.sum()) for m in method.towers.mixtures.values()]
    assert totals == [2 * 8] * 2 + [2 * 3] * 2
    begin(method, 1, stream[1])
    assert not any(m.count.any() for m in method.towers.mixtures.values())


class Fixed(Sampler):
    """Noise that sends every row to experts 0 and 1."""

    def noise(self, place, like):
        return torch.arange(like.shape[1], 0, -1).float().expand_as(like)


@pytest.mark.parametrize("rule", ["skip", "zero"])
def test_adam_and_an_expert_that_no_row_chose(stream, rule):
    method = attached(stream=stream, unused_expert_grad=rule, dropout=0.0)
    begin(method, 0, stream[0])
    optimizer = method.optimizer(list(method.trainable().values()))
    batch = load_step(method, stream[0], 0, 0)
    method.towers.mode.sampler = Fixed()
    train_step(method, optimizer, batch, one_process())
    steps = {
        name: int(optimizer.state[parameter]["step"]) if parameter in optimizer.state else None
        for name, parameter in method.trainable().items()
    }
    unused = {name: step for name, step in steps.items() if "adaptmlp_list.2" in name}
    assert set(unused.values()) == ({1} if rule == "zero" else {None})
    assert steps["visual.transformer.resblocks.0.adaptmlp_list.0.up_proj.weight"] == 1


def test_the_balance_term_is_an_option(stream):
    method = attached(stream=stream, balance_weight=2.0, dropout=0.0)
    begin(method, 0, stream[0])
    batch = load_step(method, stream[0], 0, 0)
    torch.manual_seed(0)
    found = method.loss(batch)
    method.config = replace(method.config, balance_weight=0.0)
    torch.manual_seed(0)
    plain = method.loss(batch)
    assert plain.keys() == {"loss"}
    assert float(found["balance"].detach()) > 0
    torch.testing.assert_close(found["loss"], plain["loss"] + 2 * found["balance"])


def test_prompts_can_be_routed_by_their_end(stream):
    method = attached(stream=stream, text_route="end")
    learn(method, 0, stream[0])
    seen = {}
    method.towers.mode.observer = lambda place, routing: seen.setdefault(place, routing)
    method.forget_class_features()
    method.text_head(stream[0], 0)
    routing = next(r for place, r in seen.items() if place.tower == "text")
    assert routing.clean.shape[0] == 6
    assert len(routing.clean.unique(dim=0)) > 1  # the start-of-text token would say one thing
    assert method.towers.mode.ends is None


def test_a_learning_rate_per_task_and_a_count_in_epochs(clip, stream):
    method = make_method("moe_adapters", clip, SETTINGS | {"task_learning_rates": {"food": 0.5}})
    rates = [method.learning_rate(step, stream[1]) for step in range(method.steps(stream[1]))]
    assert len(rates) == 7
    assert rates[:3] == [0.25, 0.5, 0.5]
    assert rates[-1] == 0
    method = make_method("moe_adapters", clip, SETTINGS | {"epochs": 2})
    assert method.steps(stream[0]) == 2 * 3 + 1


# The selector


def test_a_batch_decides_together_or_each_image_alone(clip, stream):
    method = attached(clip, stream, decision="sample")
    for index, task in enumerate(stream):
        learn(method, index, task)
    images = torch.cat([eval_images(task, clip)[:5] for task in stream])
    alone = torch.cat([method.select(image[None]) for image in images])
    assert torch.equal(method.select(images), alone)
    errors = method.selector.errors(method.selector.features.finish(clip.encode_image(images)))
    method.decision = "batch"
    together = method.select(images)
    assert together.unique().tolist() == method.selector.decide(errors.mean(0)[None]).tolist()


@pytest.mark.parametrize("decision", ["sample", "batch"])
def test_classify_is_predict(clip, stream, decision):
    method = attached(clip, stream, decision=decision, eval_batch_size=5)
    for index, task in enumerate(stream):
        learn(method, index, task)
    for task in (*stream, *stream.held_out):
        images = eval_images(task, clip)
        expected = torch.cat([method.predict(part, task).argmax(1) for part in images.split(5)])
        assert torch.equal(method.classify(task.test, task), expected)


def test_beyond_the_threshold_the_plain_clip_answers(clip, stream):
    frozen = make_method("zero_shot", clip)
    expected = {task: frozen.predict(eval_images(task, clip), task) for task in stream}
    method = attached(clip, stream, threshold=1e-9)
    learn(method, 0, stream[0])
    for task, logits in expected.items():
        assert set(method.select(eval_images(task, clip)).tolist()) == {-1}
        assert torch.equal(method.predict(eval_images(task, clip), task), logits)


def test_thresholds_can_follow_the_training_errors(clip, stream):
    method = attached(clip, stream, threshold_quantile=1.0, selector_reference=False)
    learn(method, 0, stream[0])
    features = method.selector.features
    raw = features.extract(clip.eval_transform(stream[0].train.images))
    errors = method.selector.errors(features.finish(raw))
    assert method.selector.thresholds == pytest.approx([float(errors.max())], rel=1e-5)
    assert set(method.selector.decide(errors).tolist()) <= {0, -1}
    assert int((method.selector.decide(errors) == 0).sum()) >= len(errors) - 1  # rounding


def test_the_selector_learns_from_whole_images_or_crops(clip, stream):
    for augment in (True, False):
        method = attached(clip, stream, selector_augment=augment)
        generator = torch.Generator().manual_seed(0)
        losses = method.selector.learn(stream[0].train, 60, generator)
        assert losses[-1] < 0.9 * losses[0]
        method.detach()


GAUSSIAN = {"selector": "gaussian", "threshold_quantile": 0.9}


def test_gaussians_can_stand_in_for_the_autoencoders(clip, stream):
    method = attached(clip, stream, **GAUSSIAN)
    for index, task in enumerate(stream):
        learn(method, index, task)
    selector = method.selector
    for task in stream:  # number 0 is of the reference images
        features = selector.features.finish(clip.encode_image(eval_images(task, clip)))
        mean, covariance = selector.gaussians.means[1], selector.gaussians.covariances[1]
        expected = torch.distributions.MultivariateNormal(mean.double(), covariance.double())
        log_density = expected.log_prob(features.double())
        assert torch.allclose(-selector.errors(features)[:, 1].double(), log_density, rtol=1e-4)
        routes = selector.decide(selector.errors_of(task.test))
        assert torch.equal(method.select(eval_images(task, clip)), routes)
    images, state = eval_images(stream[1], clip), snapshot(method)
    logits = method.predict(images, stream[1])
    method.detach()
    again = attached(clip, stream, **GAUSSIAN)
    again.enter_task(1, stream[1])
    again.load_state_dict(state)
    assert again.selector.tasks == 2
    assert torch.equal(again.predict(images, stream[1]), logits)


def test_the_class_incremental_variant(clip, tmp_path):
    small = {"bottleneck": 4, "batch_size": 8, "learning_rate": 1e-2}
    config = CLASS_INCREMENTAL | small
    result = run("moe_adapters", tiny_stream(), clip, out=tmp_path, config=config, progress=False)
    assert result.history.groupby("task").size().to_dict() == {"pets": 4, "food": 4}
    assert result.history["learning_rate"].max() == pytest.approx(1e-2 * 4 / 30)
    state = CheckpointStore(tmp_path / "checkpoints").load().tensors
    assert not any("router_list.1" in name or "selector" in name for name in state)
    assert not any(bool(v.any()) for name, v in state.items() if name.endswith(".frozen"))


def test_noise_at_test_time_is_an_option(clip):
    stream = tiny_stream()
    settings = CLASS_INCREMENTAL | {"bottleneck": 4, "batch_size": 8, "learning_rate": 0.5}
    images = eval_images(stream[0], clip)
    for noise in (True, False):
        method = make_method("moe_adapters", clip, settings | {"eval_noise": noise})
        with method:
            learn(method, 0, stream[0])
            twice = [method.predict(images, stream[0]) for _ in range(2)]
            assert torch.equal(*twice) is not noise


def test_the_record_names_the_features_and_the_decision(tmp_path, stream, clip):
    config = run("moe_adapters", stream, clip, out=tmp_path, config=SETTINGS, progress=False).config
    assert config["method_config"]["selector_features"] == "clip"
    assert config["decision"] == "sample"
    settings = make_config("moe_adapters", {"decision": "batch"})
    assert make_method("moe_adapters", tiny_clip(), settings).decision == "batch"


# Mistakes


@pytest.mark.parametrize("wrong", [{"threshold_quantile": None}, {"selector_features": "alexnet"}])
def test_gaussians_need_the_features_of_the_clip_and_a_quantile(wrong):
    with pytest.raises(UserError, match="set selector_features='clip' and"):
        make_config("moe_adapters", SETTINGS | GAUSSIAN | wrong)


def test_prediction_before_any_task(clip, stream):
    method = attached(clip, stream)
    images = eval_images(stream[0], clip)
    for ask in (
        lambda: method.predict(images, stream[0]),
        lambda: method.classify(stream[0].test, stream[0]),
    ):
        with pytest.raises(UserError, match="no task was learned yet"):
            ask()


@pytest.mark.parametrize("route", [-2, 1, 7])
def test_task_ids_out_of_range_are_named(clip, stream, route):
    method = attached(clip, stream)
    begin(method, 0, stream[0])
    message = rf"routers are 0..0 \(1 learned\), or -1 for the plain model; found {route}"
    with pytest.raises(UserError, match=message):
        method.image_features(eval_images(stream[0], clip), route)


def test_a_checkpoint_of_another_backbone_is_refused(stream):
    method = attached(tiny_clip(), stream)
    begin(method, 0, stream[0])
    other = attached(tiny_clip(seed=1), stream)
    with pytest.raises(UserError, match="belongs to another backbone than 'tiny'"):
        other.load_state_dict(method.state_dict())


def test_a_checkpoint_of_other_settings_is_refused(clip, stream):
    method = attached(clip, stream)
    begin(method, 0, stream[0])
    state = snapshot(method)
    method.detach()
    for settings in ({"experts": 5}, {"bottleneck": 6}, {"towers": "image"}):
        other = attached(clip, stream, **settings)
        with pytest.raises(UserError, match="this checkpoint of moe_adapters does not fit"):
            other.load_state_dict(state)
        other.detach()


def test_a_stream_without_reference_images_is_told(clip):
    method = make_method("moe_adapters", clip, SETTINGS)
    with method, pytest.raises(UserError, match="has no reference images"):
        method.enter_stream(tiny_stream())
    with method, pytest.raises(UserError, match="needs reference images"):
        begin(method, 0, tiny_stream()[0])
    with make_method("moe_adapters", clip, SETTINGS | {"selector_reference": False}) as free:
        free.enter_stream(tiny_stream())
        begin(free, 0, tiny_stream()[0])
        assert free.selector.tasks == 1


def test_images_too_small_for_alexnet_are_told(clip):
    method = make_method("moe_adapters", clip)
    with pytest.raises(UserError, match="set selector_features='clip'"):
        method.attach()
    assert clip.holder is None


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_selector_that_learns_nothing_is_named(rate):
    autoencoder = Autoencoder(8, 4)
    autoencoder.reset_parameters(torch.Generator().manual_seed(0))
    inputs = torch.full((4, 8), 0.4)
    with pytest.raises(DivergedError, match="lower selector_learning_rate"):
        train_autoencoder(
            autoencoder,
            lambda step: inputs,
            last_step=5,
            batches_per_epoch=10,
            learning_rate=rate,
            weight_decay=0.0,
        )
