"""Accuracy, and the four scores of a stream: Transfer, Average, Last, Forgetting.

`a[i, j]` is the accuracy in percent on task j after learning task i, i and j = 1 .. T (rows and
columns 0 .. T-1 of the array). Transfer, Average and Last are those of ZSCL (Zheng et al. 2023,
section 5.1); Forgetting is that of Chaudhry et al. 2018, section 3.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.methods.base import Method
from vlcl_toolkit.methods.inference import percent_correct
from vlcl_toolkit.streams.base import ImageData, Task

Vector = Float[np.ndarray, " n"]
Matrix = Float[np.ndarray, "tasks tasks"]


def accuracy(method: Method, data: ImageData, task: Task) -> float:
    """Percent of `data` that `method` puts into the right class of `task`; nan for no image."""
    if not len(data):  # a method need not know what to do with no image
        return float("nan")
    return percent_correct(method.classify(data, task), data.labels)


# Backbone -> images -> task -> percent; entries go with what they belong to.
_frozen: WeakKeyDictionary[Clip, WeakKeyDictionary[ImageData, WeakKeyDictionary[Task, float]]]
_frozen = WeakKeyDictionary()


def frozen_accuracy(zero_shot: Method, data: ImageData, task: Task) -> float:
    """`accuracy` of the frozen CLIP: measured once in a process, since runs leave it as it was.

    Args:
        zero_shot: on a backbone that no method has changed.
    """
    of_images = _frozen.setdefault(zero_shot.clip, WeakKeyDictionary())
    of_tasks = of_images.setdefault(data, WeakKeyDictionary())
    if task not in of_tasks:
        of_tasks[task] = accuracy(zero_shot, data, task)
    return of_tasks[task]


def transfer(matrix: Matrix) -> Vector:
    """Per task j = 2 .. T: mean accuracy before it is learned, over i < j. Shape [T-1]."""
    return np.array([matrix[:j, j].mean() for j in range(1, len(matrix))])


def average(matrix: Matrix) -> Vector:
    """Per task: mean accuracy over all rows. Shape [T]."""
    return matrix.mean(axis=0)


def last(matrix: Matrix) -> Vector:
    """Per task: accuracy after the last task. Shape [T]."""
    return matrix[-1].copy()


def forgetting(matrix: Matrix) -> Vector:
    """Per task j < T: best accuracy over j <= i < T, minus the last. Shape [T-1]."""
    final = len(matrix) - 1
    return np.array([matrix[j:final, j].max() - matrix[final, j] for j in range(final)])


def metric_vectors(matrix: np.ndarray) -> dict[str, Vector]:
    """The four scores per task.

    Raises:
        ValueError: the matrix is not square, or empty.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"the accuracy matrix must be square [T, T]; found {matrix.shape}")
    scores = (transfer, average, last, forgetting)
    return {score.__name__: score(matrix) for score in scores}


def metrics(matrix: np.ndarray) -> dict[str, float]:
    """The four scores, means of `metric_vectors`, unrounded.

    One task alone has no Transfer and no Forgetting: nan. So has a matrix with unknown cells.
    """
    vectors = metric_vectors(matrix)
    return {name: float(v.mean()) if len(v) else float("nan") for name, v in vectors.items()}


def scores(
    matrix: np.ndarray, sizes: Sequence[int], label_space: str
) -> tuple[dict[str, float], str]:
    """The four scores of a run as its protocol defines them, and the name of the definition.

    Class-incremental learning has no Transfer (nan): an image of a class that was not seen yet
    cannot be answered.

    Args:
        matrix: as in `metric_vectors`. `sizes`: number of test images of each task.
        label_space: among which classes it was measured.
    """
    found = metrics(matrix)
    if label_space != "seen":
        return found, "mtil"
    over_stages = class_incremental_scores(matrix, sizes)
    own = {"transfer": float("nan")} | {name: over_stages[name] for name in ("average", "last")}
    return found | own, "class_incremental"


def class_incremental_scores(matrix: np.ndarray, sizes: Sequence[int]) -> dict[str, Any]:
    """The scores of class-incremental learning, percent.

    Args:
        matrix: as in `metric_vectors`, measured with label space "seen".
        sizes: number of test images of each task.

    Returns:
        "accuracies": per task i, the accuracy over the test images of all tasks up to i; "last", the
        last of them; "average", their mean.
    """
    matrix, weights = np.asarray(matrix, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    accuracies = [
        float(np.average(matrix[i, : i + 1], weights=weights[: i + 1])) for i in range(len(matrix))
    ]
    return {
        "accuracies": accuracies,
        "last": accuracies[-1],
        "average": float(np.mean(accuracies)),
    }
