"""iCaRL: which images it keeps, and what it does with them."""

import pytest
import torch
from small_methods import attached, begin, learn, prepared_batch, reference_stream
from tiny import tiny_clip

from vlcl_toolkit.methods import make_method
from vlcl_toolkit.methods.zscl.icarl import herd, herd_by_class
from vlcl_toolkit.streams import TaskStream
from vlcl_toolkit.training.loader import load_step


def points(n=30, seed=0):
    features = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return features / features.norm(dim=1, keepdim=True)


def three_tasks():
    stream = reference_stream()
    tasks = (*stream.tasks, *stream.held_out)
    return TaskStream("tiny", tasks, "random-1", reference=stream.reference)


def test_each_pick_brings_the_mean_closest():
    features, picks = points(), herd(points(), 6).tolist()
    assert len(set(picks)) == 6
    for k in range(6):
        left = [i for i in range(30) if i not in picks[:k]]
        distance = {
            i: float((features.mean(0) - features[[*picks[:k], i]].mean(0)).norm()) for i in left
        }
        assert distance[picks[k]] == pytest.approx(min(distance.values()), abs=1e-6)


def test_faithful_picks_are_positions_in_a_shrinking_list():
    right, shifted = herd(points(), 8).tolist(), herd(points(), 8, shifted=True).tolist()
    for k, pick in enumerate(right):
        assert shifted[k] == pick - sum(earlier < pick for earlier in right[:k])


def test_more_picks_than_images_are_all_images():
    assert sorted(herd(points(3), 10).tolist()) == [0, 1, 2]


def test_every_prefix_of_a_memory_is_balanced():
    labels = torch.arange(30) % 3
    labels[:10] = 0
    chosen = herd_by_class(points(), labels, 12)
    for end in range(1, 13):
        counts = labels[chosen[:end]].bincount(minlength=3)
        assert counts.max() - counts.min() <= 1
    assert len(set(chosen.tolist())) == 12


def test_the_memory_stays_within_its_size():
    method = attached("icarl", stream=three_tasks(), memory_size=9)
    for index, quota in enumerate((9, 4, 3)):
        older = {t: indices.clone() for t, indices in method.memory.items()}
        learn(method, index)
        assert [len(indices) for indices in method.memory.values()] == [quota] * (index + 1)
        for t, indices in older.items():
            assert torch.equal(method.memory[t], indices[:quota])


def test_the_faithful_memory_outgrows_its_size():
    method = attached("icarl", stream=three_tasks(), memory_size=9, faithful_memory=True)
    learn(method, 0)
    assert torch.equal(method.memory[0], torch.arange(9))
    learn(method, 1)
    assert [len(i) for i in method.memory.values()] == [4, 5]
    learn(method, 2)
    assert [len(i) for i in method.memory.values()] == [3, 3, 6]


def test_the_first_task_is_fine_tuned():
    method = attached("icarl")
    task = begin(method, 0)
    batch = prepared_batch(method, task, 0, seed=0)
    assert set(method.loss(batch)) == {"loss"}


def test_the_memory_is_walked_in_order():
    method = attached("icarl", memory_size=7, reference_batch_size=3)
    learn(method, 0)
    kept = method.stream[0].train.images[method.memory[0]]
    expected = method.clip.eval_transform(kept).split(3)
    task = begin(method, 1)
    for step in range(7):
        batch = load_step(method, task, step, seed=0)
        assert torch.equal(batch.others["reference"].images, expected[step % 3])


def test_the_class_incremental_code_updates_its_memory_first():
    method = attached("icarl", memory_update="before_task")
    begin(method, 0)
    assert method.memory[0].numel() == 9
    assert method.distillation_images() is not None


def test_without_distillation_it_is_fine_tuning():
    method, plain = attached("icarl", reference_images="none"), make_method("finetune", tiny_clip())
    for index in range(2):
        learn(method, index)
    assert "image_distillation" not in method.loss(
        prepared_batch(method, method.stream[1], 0, seed=0)
    )
    assert set(method.trainable()) == set(plain.trainable())
