"""Among which classes test images are classified."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_methods import SMALL, attached, learn, reference_stream
from tiny import CLASSES, tiny_clip, tiny_stream, tiny_task

from vlcl_toolkit import run
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.streams import TaskStream
from vlcl_toolkit.streams.label_space import LabelSpace, shared_class_names, union

SPACES = ["task", "seen", "odcl", "all"]


def three_tasks(label_space: str = "task") -> TaskStream:
    """Three tasks with templates of their own."""
    tasks = tuple(
        replace(tiny_task(name, words, i), templates=(f"{name}: {{}}.", f"a {{}} of {name}."))
        for i, (name, words) in enumerate(CLASSES.items())
    )
    return TaskStream("three", tasks, "s", label_space=label_space)


@pytest.mark.parametrize(
    ("space", "columns"),  # classes of each task asked about, after each number of learned tasks
    [
        ("task", [[3, 2, 4]] * 4),
        ("seen", [[9, 9, 9], [3, 9, 9], [5, 5, 9], [9, 9, 9]]),
        ("odcl", [[3, 2, 4], [3, 2, 4], [5, 5, 4], [9, 9, 9]]),
        ("all", [[9, 9, 9]] * 4),
    ],
)
def test_columns_and_labels(space, columns):
    stream = three_tasks(space)
    spaces, offsets = LabelSpace(stream), (0, 3, 5)
    for learned, expected in enumerate(columns):
        for position, task in enumerate(stream):
            data, asked = spaces.evaluation_set(task, learned)
            assert len(asked.class_names) == expected[position]
            own = not asked.parts
            assert torch.equal(data.labels, task.test.labels + (0 if own else offsets[position]))
            names = [asked.class_names[i] for i in data.labels]
            assert names == [task.class_names[i] for i in task.test.labels]
            again = spaces.evaluation_set(task, learned)
            assert again[0] is data, "methods remember what they know of a set by the object"
            assert again[1] is asked


def test_held_out_tasks_keep_their_own_classes():
    stream = tiny_stream().with_label_space("all")
    (held_out,) = stream.held_out
    assert LabelSpace(stream).evaluation_set(held_out, 1) == (held_out.test, held_out)


def test_every_class_keeps_its_templates(clip):
    tasks = three_tasks().tasks
    of_parts = torch.cat([clip.class_features(t.class_names, t.templates) for t in tasks])
    method = attached("zero_shot", clip)
    torch.testing.assert_close(method.class_features(union(tasks)), of_parts)
    assert union(tasks).prompts()[3] == "food: apple."


def test_more_classes_are_never_easier_for_a_frozen_model(clip, tmp_path):
    accuracy = {
        space: run(
            "zero_shot", three_tasks(space), clip, out=tmp_path / space, progress=False
        ).accuracy.to_numpy()
        for space in SPACES
    }
    assert (accuracy["task"] >= accuracy["odcl"]).all()
    assert (accuracy["odcl"] >= accuracy["all"]).all()
    assert (accuracy["task"] > accuracy["all"]).any()
    assert (accuracy["all"] == accuracy["all"][0]).all()
    assert (accuracy["odcl"][0] == accuracy["task"][0]).all()
    above = np.triu_indices(3)
    assert (accuracy["odcl"][:-1][above] == accuracy["task"][:-1][above]).all()
    assert (accuracy["odcl"][-1] == accuracy["all"][-1]).all()
    assert (accuracy["seen"][-1] == accuracy["all"][-1]).all()


def test_the_order_of_tasks_permutes_classes():
    stream = three_tasks("all")
    said = []
    for order in ("default", "reversed"):
        asked = union(stream.reorder(order).tasks)
        labels = attached("zero_shot").classify(stream[1].test, asked)
        said.append([asked.class_names[label] for label in labels])
    assert said[0] == said[1]


@pytest.mark.parametrize("name", SMALL)
def test_no_method_needs_to_be_told_the_task(name):
    """Images of two tasks in one batch, asked about all classes: each is classified as it is alone."""
    method = attached(name)
    for index in range(2):
        learn(method, index)
    asked = union(tiny_stream().tasks)
    images = torch.cat([method.clip.eval_transform(t.test.images) for t in tiny_stream()])
    mixed = torch.arange(len(images)).view(2, -1).T.flatten()  # one of each, in turns
    logits = method.predict(images[mixed], asked)
    assert logits.shape == (24, 5)
    alone = torch.cat([method.predict(images[i : i + 1], asked) for i in range(len(images))])
    if method.decision == "sample":
        torch.testing.assert_close(logits, alone[mixed], rtol=1e-4, atol=1e-4)
    labels = method.classify(tiny_stream()[0].test, asked)
    assert labels.shape == (12,)


@pytest.mark.parametrize("name", ["finetune", "diki", "moe_adapters"])
def test_the_record_says_what_was_asked(name, tmp_path):
    shared = replace(tiny_stream()[1], class_names=("apple", "cat"))
    stream = replace(reference_stream(), tasks=(tiny_stream()[0], shared), label_space="odcl")
    result = run(name, stream, tiny_clip(), out=tmp_path, config=SMALL[name], progress=False)
    assert result.config["label_space"] == "odcl"
    assert result.config["shared_class_names"] == ["cat"]
    assert bool(result.config["task_found_by"]) == (name != "finetune")
    assert shared_class_names(tiny_stream()) == []


def test_what_no_label_space_can_mean_is_refused():
    with pytest.raises(UserError, match="unknown label space 'alle'; did you mean 'all'"):
        tiny_stream().with_label_space("alle")
    with pytest.raises(UserError, match="'odcl' needs at least two tasks; stream 'tiny' has one"):
        tiny_stream().subset([0]).with_label_space("odcl")
