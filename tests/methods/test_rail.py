"""RAIL: what a closed form promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_methods import attached, learn
from tiny import CLASSES, tiny_clip, tiny_stream, tiny_task

from vlcl_toolkit import run
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.rail.regression import Dual, Primal, random_projection
from vlcl_toolkit.streams import TaskStream
from vlcl_toolkit.streams.label_space import union
from vlcl_toolkit.training.checkpoint import CheckpointStore
from vlcl_toolkit.training.events import RowEvent, StopRun

FORMS = [{"width": 40}, {"lift": False}, {"form": "dual"}]
each_form = pytest.mark.parametrize("settings", FORMS, ids=str)


def three_tasks(label_space="all"):
    tasks = tuple(tiny_task(name, words, i) for i, (name, words) in enumerate(CLASSES.items()))
    return TaskStream("three", tasks, "s", label_space=label_space)


def scores(method, stream):
    """Of every test set among all classes, columns by class name."""
    asked = union(stream.tasks)
    order = np.argsort(asked.class_names)
    found = [method.predict(method.clip.eval_transform(t.test.images), asked) for t in stream]
    return {task.name: part[:, order] for task, part in zip(stream, found, strict=True)}


@each_form
def test_the_order_of_tasks_does_not_matter(settings):
    found = []
    for order in ("default", "reversed"):
        stream = three_tasks().reorder(order)
        method = attached("rail", stream=stream, **settings)
        for index, task in enumerate(stream):
            learn(method, index, task)
        found.append(scores(method, stream))
    for name in CLASSES:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=1e-6)


@each_form
@pytest.mark.parametrize("label_space", ["task", "all"])
def test_what_was_not_learned_is_as_zero_shot_has_it(settings, label_space, tmp_path):
    options = {"clip": tiny_clip(), "progress": False}
    stream = three_tasks(label_space)
    config = {"zero_shot_scale": 100.0} | settings
    result = run("rail", stream, out=tmp_path / "rail", config=config, **options)
    zero_shot = run("zero_shot", stream, out=tmp_path / "zero", **options)
    ahead = np.triu_indices(3)
    found, frozen = (r.accuracy.to_numpy()[:-1][ahead] for r in (result, zero_shot))
    assert (found >= frozen).all() if label_space == "all" else (found == frozen).all()
    assert result.metrics["last"] > zero_shot.metrics["last"]
    assert result.trainable_parameters == 0


@each_form
def test_without_fusion_it_is_zero_shot_bit_for_bit(settings):
    method, plain = attached("rail", fusion=0.0, **settings), attached("zero_shot")
    learn(method)
    for task in (tiny_stream()[0], union(tiny_stream().tasks)):
        images = method.clip.eval_transform(tiny_stream()[0].test.images)
        expected = plain.predict(images, task).softmax(dim=1)
        assert torch.equal(method.predict(images, task), expected)


@each_form
def test_interrupted_between_tasks_it_ends_in_the_same_state(settings, tmp_path):
    options = {"config": settings, "progress": False}
    whole = run("rail", three_tasks(), tiny_clip(), out=tmp_path / "whole", **options)

    def stop(event):
        if isinstance(event, RowEvent) and event.row_index == 2:
            raise StopRun

    halted = run(
        "rail", three_tasks(), tiny_clip(), out=tmp_path / "halted", callback=stop, **options
    )
    assert not halted.complete
    resumed = run("rail", three_tasks(), tiny_clip(), out=tmp_path / "halted", **options)
    assert resumed.accuracy.equals(whole.accuracy)
    states = [CheckpointStore(r.folder / "checkpoints").load() for r in (whole, resumed)]
    for name, value in states[0].tensors.items():
        assert torch.equal(value, states[1].tensors[name]), name


@each_form
def test_regression_stays_exact_on_a_bf16_backbone(settings, tmp_path):
    clip = tiny_clip(precision="bf16")
    method = attached("rail", clip, **settings)
    learn(method)
    state = method.state_dict()
    exact = (torch.float32, torch.float64, torch.int64)
    assert all(value.dtype in exact for value in state.values())
    assert (
        method.predict(clip.eval_transform(tiny_stream()[0].test.images), tiny_stream()[0])
        .isfinite()
        .all()
    )


def test_one_image_per_class_and_more_lifted_features_than_images():
    stream = three_tasks().few_shot(1)
    method = attached("rail", stream=stream, width=300, ridge=1e-3)
    for index, task in enumerate(stream):
        learn(method, index, task)
        images = method.clip.eval_transform(task.train.images)
        assert method.regression.predict(method.clip.encode_image(images)).isfinite().all()
        assert torch.equal(method.predict(images, task).argmax(1), task.train.labels)


def test_relative_ridge_is_the_official_one_at_the_official_width():
    method = attached("rail", relative_ridge=0.1 * 6 * 512 / 15000, width=40)
    learn(method)
    assert method.regression.ridge == pytest.approx(0.1 * (40 / 16) / (15000 / 512))


def test_a_longer_factor_is_the_factor_of_all():
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(30, 8, generator=generator), dim=1)
    labels = torch.arange(30) % 3
    grown, whole = Dual(0.1, 1e-3), Dual(0.1, 1e-3)
    grown.add(features[:10], labels[:10], 3)
    grown.add(features[10:], labels[10:], 3)
    whole.add(features, torch.cat((labels[:10], labels[10:] + 3)), 6)
    torch.testing.assert_close(grown.alpha, whole.alpha, rtol=1e-8, atol=1e-8)


def test_mistakes_are_named():
    stream = three_tasks()
    with pytest.raises(UserError, match=r"a kernel over all 60 training images.*max_images"):
        attached("rail", stream=stream, form="dual", max_images=59)
    with pytest.raises(UserError, match="does not merge shared names"):
        attached("rail", stream=replace(stream, merge_shared_names=True))
    primal = Primal(random_projection(9, 4, torch.Generator()), 4, 1e-30)
    features = torch.nn.functional.normalize(torch.ones(5, 4), dim=1)
    primal.add(features, torch.zeros(5, dtype=torch.int64), 1)
    with pytest.raises(UserError, match="singular with ridge=1e-30; raise ridge"):
        primal.weights  # noqa: B018
