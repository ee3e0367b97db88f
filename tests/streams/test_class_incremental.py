"""Class-incremental streams from imitations, and their scores."""

import numpy as np
import pytest
from imitation_data import names as official_names
from imitation_data.imagenet import imagenet, tiny_imagenet
from imitation_data.writing import label_of

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.streams import TaskStream
from vlcl_toolkit.streams.full_size.class_incremental import class_names
from vlcl_toolkit.streams.splits import CLASS_INCREMENTAL, facts
from vlcl_toolkit.training.metrics import class_incremental_scores, metrics, scores

KNOWN = facts("class_incremental")


@pytest.mark.parametrize(
    ("name", "tasks", "base", "increment"),
    [
        ("cifar100-10", 10, 10, 10),
        ("cifar100-20", 20, 5, 5),
        ("cifar100-50", 50, 2, 2),
        ("tinyimagenet-5", 6, 100, 20),
        ("tinyimagenet-10", 11, 100, 10),
        ("tinyimagenet-20", 21, 100, 5),
        ("imagenet100-10", 10, 10, 10),
        ("imagenet100-b50-10", 11, 50, 5),
        ("imagenet1000-10", 10, 100, 100),
    ],
)
def test_streams_follow_the_published_order(mtil_root, imagenet_root, name, tasks, base, increment):
    root = mtil_root if name.startswith("cifar") else imagenet_root
    stream = load_stream(name, root=root, verify=False)
    key = CLASS_INCREMENTAL[name].data_set
    assert stream.id == name
    assert stream.label_space == "seen"
    assert stream.split_id.startswith(f"{key}-unverified-")
    assert [len(task.class_names) for task in stream] == [base] + [increment] * (tasks - 1)
    names = official_names.CIFAR100 if key == "cifar100" else class_names(key)
    learned = [text for task in stream for text in task.class_names]
    assert learned == [names[label] for label in KNOWN["orders"][key]]
    for task in (stream[0], stream[-1]):
        assert task.templates == (KNOWN["prompts"][key],)
        assert not len(task.validation)
    check_labels(stream, KNOWN["orders"][key])


def test_imagenets_names_are_open_clips():
    names = class_names("imagenet1000")
    assert (len(names), names[764], names[927]) == (1000, "rifle", "trifle")
    # As in all published lists, two names stand for two classes each.
    assert sorted(name for name in set(names) if names.count(name) > 1) == ["missile", "sunglasses"]


def check_labels(stream: TaskStream, order: list[int]) -> None:
    start = 0
    for task in stream:
        for data in (task.train, task.test):
            assert sorted(set(data.labels.tolist())) == list(range(len(task.class_names)))
            for index in range(0, len(data), max(1, len(data) // 5)):
                image, label = data[index]
                found = label_of(image.permute(1, 2, 0).numpy())
                assert found == order[start + int(label)]
        start += len(task.class_names)


def test_published_orders_and_names():
    for name, count in (("imagenet100", 100), ("imagenet1000", 1000)):
        order = np.random.RandomState(1993).permutation(count)
        assert KNOWN["orders"][name] == order.tolist()
    assert KNOWN["orders"]["cifar100"][:6] == [87, 0, 52, 58, 44, 91]
    assert KNOWN["orders"]["tinyimagenet"][:4] == [131, 181, 22, 172]
    assert sorted(KNOWN["orders"]["tinyimagenet"]) == list(range(200))
    assert class_names("tinyimagenet")[:2] == ("Egyptian Mau", "fishing casting reel")
    assert class_names("imagenet100")[99] == "goose"
    assert len(class_names("imagenet1000")) == 1000


def test_underscores_are_kept(mtil_root):
    stream = load_stream("cifar100-10", root=mtil_root, verify=False)
    assert "aquarium_fish" in [name for task in stream for name in task.class_names]


def test_missing_and_wrong_sets_are_named(tmp_path, imagenet_root):
    with pytest.raises(UserError, match=r"TinyImageNet is not complete.*cs231n.stanford.edu"):
        load_stream("tinyimagenet-5", root=tmp_path)
    with pytest.raises(UserError, match=r"ImageNet is not complete.*register at image-net.org"):
        load_stream("imagenet100-10", root=tmp_path)
    with pytest.raises(UserError, match=r"must have 100000 train images.*have 400"):
        load_stream("tinyimagenet-5", root=imagenet_root, verify=True)
    wnids = KNOWN["tinyimagenet_wnids"]
    tiny_imagenet(tmp_path, sorted(wnids))
    with pytest.raises(UserError, match="does not list the 200 classes in the published order"):
        load_stream("tinyimagenet-5", root=tmp_path, verify=False)
    imagenet(tmp_path, KNOWN["imagenet100_wnids"][:99])
    with pytest.raises(UserError, match=r"lacks 1 class folders, e.g. n01855672"):
        load_stream("imagenet100-10", root=tmp_path, verify=False)
    with pytest.raises(UserError, match=r"must have 1000 class folders.*found 99"):
        load_stream("imagenet1000-10", root=tmp_path, verify=False)


# Scores


def test_scores_weigh_tasks_by_their_test_images():
    scores = class_incremental_scores(np.array([[90.0, 0.0], [60.0, 80.0]]), [300, 100])
    assert scores == {"accuracies": [90.0, 65.0], "last": 65.0, "average": 77.5}


def test_scores_of_a_run_are_those_of_published_class_incremental_tables():
    """80 percent on all classes seen so far, at every stage; what was not seen cannot be answered."""
    matrix = np.tril(np.full((10, 10), 80.0))
    found, defined = scores(matrix, [1000] * 10, "seen")
    assert (found["average"], found["last"], defined) == (80, 80, "class_incremental")
    assert np.isnan(found["transfer"])
    for space in ("task", "odcl", "all"):
        found, defined = scores(matrix, [1000] * 10, space)
        assert (found, defined) == (metrics(matrix), "mtil")


def test_names_of_imagenet_are_those_of_clip_and_differ():
    names = class_names("imagenet1000")
    assert names[764] == "rifle"
    assert len(set(names)) == 998  # missile and sunglasses stand for two classes each, as published
