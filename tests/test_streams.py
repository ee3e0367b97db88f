"""Tasks, streams, data order and batches."""

import pytest
import torch
from tiny import random_images, tiny_stream, tiny_task

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.streams import ImageData, Task, TaskStream, batches, load_batch, resolve_order

IMAGES = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 0, 1])


def three_tasks() -> TaskStream:
    names = ("pets", "food", "land")
    return TaskStream("three", tuple(tiny_task(n, ("a", "b"), i) for i, n in enumerate(names)), "s")


# Images


def test_image_data_gives_pairs():
    data = ImageData(IMAGES, LABELS)
    image, label = data[1]
    assert len(data) == 4
    assert image.shape == (3, 8, 8)
    assert label == 1
    assert data.subset([3, 0]).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.float(), LABELS, r"uint8 \[N, 3, H, W\]; found float32 \[4, 3, 8, 8\]"),
        (IMAGES.permute(0, 2, 3, 1), LABELS, r"found uint8 \[4, 8, 8, 3\]"),
        (IMAGES[0], LABELS, r"found uint8 \[3, 8, 8\]"),
        (IMAGES, LABELS[:3], r"int64 \[4\], one per image; found int64 \[3\]"),
        (IMAGES, LABELS.float(), "found float32"),
        (IMAGES, LABELS - 1, "must be >= 0; found -1"),
    ],
)
def test_unfit_images_and_labels_are_named(images, labels, message):
    with pytest.raises(UserError, match=message):
        ImageData(images, labels)


# Tasks


def make_task(classes=("a", "b"), templates=("a {}.",), labels=LABELS) -> Task:
    data = ImageData(IMAGES, labels)
    return Task("letters", classes, templates, data, data, data)


def test_task_prompts():
    assert make_task(templates=("one {}.", "two {}!")).prompts(1) == ["two a!", "two b!"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, "empty class list"),
        ({"templates": ()}, "no template"),
        ({"templates": ("a photo.",)}, "exactly one {}"),
        ({"templates": ("{} and {}",)}, "exactly one {}"),
        ({"templates": ("a {name}",)}, "exactly one {}"),
        ({"templates": ("a {",)}, "exactly one {}"),
        ({"labels": LABELS + 1}, r"0\.\.1; found 2 in its train set"),
    ],
)
def test_unfit_tasks_are_named(change, message):
    with pytest.raises(UserError, match=message):
        make_task(**change)


# Streams


def test_stream_is_indexed_by_name_and_position(stream):
    assert stream.names == ("pets", "food")
    assert stream["food"] is stream[1] is stream[-1]
    assert [task.name for task in stream] == ["pets", "food"]


@pytest.mark.parametrize("order", [[2, 0, 1], ["land", "pets", "food"], "land, pets,food", "2,0,1"])
def test_reorder_takes_names_and_indices(order):
    stream = three_tasks()
    assert stream.reorder(order).names == ("land", "pets", "food")
    assert resolve_order(stream, order) == (2, 0, 1)
    assert stream.names == ("pets", "food", "land"), "the stream itself must not change"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1], "missing: land; repeated: none"),
        ([0, 1, 1], "missing: land; repeated: food"),
        (["pets", "food", "lamd"], "unknown task 'lamd'; did you mean 'land'"),
        ([0, 1, 3], r"tasks 0\.\.2 \(pets, food, land\); found index 3"),
        ("", "unknown task ''"),
    ],
)
def test_reorder_needs_a_permutation(order, message):
    with pytest.raises(UserError, match=message):
        three_tasks().reorder(order)


def test_subset_keeps_the_given_order_and_held_out_tasks(stream):
    part = stream.subset(["food"])
    assert part.names == ("food",)
    assert part.held_out == stream.held_out


def test_subset_can_hold_other_tasks_out(stream):
    part = stream.subset([1], held_out=["pets"])
    assert part.names == ("food",)
    assert [task.name for task in part.held_out] == ["pets", "land"]
    with pytest.raises(UserError, match=r"repeats \['pets'\]"):
        stream.subset(["pets"], held_out=["pets"])
    with pytest.raises(UserError, match="unknown task 'land'"):
        stream.subset(["pets"], held_out=["land"])


def test_streams_need_tasks_of_different_names(stream):
    with pytest.raises(UserError, match=r"repeats \['pets'\]"):
        stream.subset(["pets", 0])
    with pytest.raises(UserError, match="has no task"):
        stream.subset([])


def test_few_shot_counts_per_class():
    stream = three_tasks().few_shot(5)
    assert stream.id == "three-5shot"
    for task in stream:
        assert task.train.labels.bincount().tolist() == [5, 5]
        assert max(task.validation.labels.bincount().tolist()) <= 4
        assert len(task.test) == 12


def test_few_shot_is_a_repeatable_subset_of_the_training_images():
    task, again = tiny_stream()[0], tiny_stream().few_shot(2)[0]
    few, other = tiny_stream().few_shot(2)[0], tiny_stream().few_shot(2, seed=1)
    assert torch.equal(few.train.images, again.train.images)
    assert not torch.equal(few.train.images, other[0].train.images)
    assert other.id == "tiny-2shot-seed1"
    assert all((task.train.images == image).flatten(1).all(1).any() for image in few.train.images)


def test_few_shot_keeps_all_of_a_small_class():
    task = tiny_stream().few_shot(100)[0]
    assert len(task.train) == 20


def test_few_shot_needs_an_image(stream):
    with pytest.raises(UserError, match=r"few_shot.* of at least 1; found 0"):
        stream.few_shot(0)


def test_unknown_stream_names_the_known_ones():
    with pytest.raises(UserError, match="unknown stream 'mimi'; did you mean 'mini'"):
        load_stream("mimi")


# Data order


def test_every_epoch_visits_every_image_once():
    epochs = [[batches(10, 4, 3 * epoch + i, 0).tolist() for i in range(3)] for epoch in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert sorted(index for batch in epoch for index in batch) == list(range(10))
    assert epochs[0] != epochs[1]


def test_data_order_depends_on_the_seed_alone():
    global_state = torch.get_rng_state()
    first = batches(10, 4, 7, seed=3)
    batches(10, 4, 0, seed=9)
    first_again = batches(10, 4, 7, seed=3)
    assert torch.equal(first, first_again)
    assert not torch.equal(batches(100, 100, 0, seed=3), batches(100, 100, 0, seed=4))
    assert torch.equal(global_state, torch.get_rng_state())


def test_a_batch_may_be_changed_by_its_owner():
    batches(10, 4, 0, seed=5).zero_()
    assert sorted(batches(10, 10, 0, seed=5).tolist()) == list(range(10))


def test_augmentation_is_seeded_and_leaves_the_global_generator(clip):
    data, indices = random_images(6, 2, 0), torch.arange(6)
    global_state = torch.get_rng_state()
    images, labels = load_batch(data, indices, clip.train_transform, seed=1)
    again, _ = load_batch(data, indices, clip.train_transform, seed=1)
    other, _ = load_batch(data, indices, clip.train_transform, seed=2)
    assert torch.equal(labels, data.labels)
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    assert torch.equal(global_state, torch.get_rng_state())
