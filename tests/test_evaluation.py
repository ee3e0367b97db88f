"""Accuracy and the scores: by hand, and against the official implementations' numbers."""

import numpy as np
import pytest
import torch

from vlcl_toolkit.methods import make_method
from vlcl_toolkit.training.metrics import accuracy, frozen_accuracy, metric_vectors, metrics

BY_HAND = np.array([[80.0, 50.0, 40.0], [70.0, 90.0, 30.0], [75.0, 60.0, 95.0]])


def test_metric_vectors_by_hand():
    vectors = metric_vectors(BY_HAND)
    np.testing.assert_allclose(vectors["transfer"], [50, 35])  # 50; (40 + 30) / 2
    np.testing.assert_allclose(vectors["average"], [75, 200 / 3, 55])
    np.testing.assert_allclose(vectors["last"], [75, 60, 95])
    np.testing.assert_allclose(vectors["forgetting"], [5, 30])  # 80 - 75; 90 - 60


def test_metrics_are_means_over_tasks():
    scores = metrics(BY_HAND)
    assert scores["transfer"] == pytest.approx(42.5)
    assert scores["average"] == pytest.approx((75 + 200 / 3 + 55) / 3)
    assert scores["last"] == pytest.approx(230 / 3)
    assert scores["forgetting"] == pytest.approx(17.5)


def test_transfer_is_a_mean_of_column_means():
    # the mean over all cells above the diagonal would be 40
    assert metrics(BY_HAND)["transfer"] != pytest.approx((50 + 40 + 30) / 3)


def test_one_task_has_neither_transfer_nor_forgetting():
    scores = metrics(np.array([[80.0]]))
    assert np.isnan(scores["transfer"])
    assert np.isnan(scores["forgetting"])
    assert scores["average"] == scores["last"] == 80


def test_unknown_cells_give_nan():
    assert np.isnan(metrics(np.array([[80.0, np.nan], [np.nan, 90.0]]))["average"])


def test_matrix_must_be_square():
    with pytest.raises(ValueError, match="square"):
        metrics(BY_HAND[:2])


def test_accuracy_counts_correct_images(clip, stream):
    task, method = stream["pets"], make_method("zero_shot", clip)
    images = clip.eval_transform(task.test.images)
    predicted = method.predict(images, task).argmax(dim=1)
    expected = 100 * (predicted == task.test.labels).double().mean().item()
    assert accuracy(method, task.test, task) == pytest.approx(expected)


def test_accuracy_does_not_depend_on_the_batch_size(clip, stream):
    task, method = stream["pets"], make_method("zero_shot", clip)
    whole = accuracy(method, task.test, task)
    method.eval_batch_size = 5
    assert accuracy(method, task.test, task) == whole


def test_accuracy_of_no_image_is_nan(clip, stream, monkeypatch):
    task, method = stream["pets"], make_method("zero_shot", clip)
    monkeypatch.setattr(method, "classify", None)  # no method is asked
    assert np.isnan(accuracy(method, task.test.subset(torch.tensor([], dtype=torch.int64)), task))


def test_the_frozen_backbone_is_measured_once(clip, stream, monkeypatch):
    task, method = stream["pets"], make_method("zero_shot", clip)
    plain, again = accuracy(method, task.test, task), frozen_accuracy(method, task.test, task)
    assert again == plain
    monkeypatch.setattr(clip, "encode_image", None)
    assert frozen_accuracy(make_method("zero_shot", clip), task.test, task) == plain
    half = task.test.subset(torch.arange(len(task.test) // 2))
    with pytest.raises(TypeError):  # other images have to be looked at
        frozen_accuracy(method, half, task)
