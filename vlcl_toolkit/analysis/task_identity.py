"""What it is worth to be told which task a test image belongs to, and a method that is learned at once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from vlcl_toolkit.analysis.interpolation import trained_state
from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.methods.caches import FeatureCache
from vlcl_toolkit.methods.diki.gaussians import Shrinkage, TaskGaussians, prompt_weight
from vlcl_toolkit.seeds import derive_seed, generator
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.streams.label_space import LabelSpace
from vlcl_toolkit.training.metrics import accuracy
from vlcl_toolkit.training.results import RunResult, row_names


@torch.no_grad()
def with_and_without_identity(result: RunResult, stream: TaskStream, clip: Clip) -> pd.DataFrame:
    """Score the end of a run twice: among the classes of each image's own task, and of all tasks.

    Args:
        result: a finished run.
        stream: of the run.
        clip: the frozen CLIP of the run; it is not changed.

    Returns:
        columns method, domain; in percent of its test images: given (right among its own classes),
        not_given (right among all), right_task (answered with a class of its own task).

    Raises:
        UserError: another backbone, or no checkpoint.
    """
    state = trained_state(result, clip)
    method = make_method(result.method, clip, result.config["method_config"])
    spaces = {name: LabelSpace(stream.with_label_space(name)) for name in ("task", "all")}
    rows = []
    with method:
        method.enter_stream(stream.with_label_space("all"))
        method.load_state_dict(state)
        for task in stream:
            own, everything = (s.evaluation_set(task, len(stream)) for s in spaces.values())
            said, labels = method.classify(*everything), everything[0].labels
            first = int((labels - task.test.labels)[0])
            there = (said >= first) & (said < first + len(task.class_names))
            rows.append(
                {
                    "method": result.method,
                    "domain": task.name,
                    "given": accuracy(method, *own),
                    "not_given": 100 * float((said == labels).double().mean()),
                    "right_task": 100 * float(there.double().mean()),
                }
            )
    return pd.DataFrame(rows)


@torch.no_grad()
def closed_form_accuracy(
    stream: TaskStream, clip: Clip, settings: Mapping[str, Any] | None = None, *, seed: int = 0
) -> pd.DataFrame:
    """The accuracy matrix of RAIL, learned and tested here and now, without a run folder.

    Args:
        stream: tasks, order and label space.
        clip: the frozen CLIP; features of its images are computed once per process.
        settings: of RAIL, on top of its defaults.
        seed: of the random projection.

    Returns:
        `[T+1, T]` percent, as `RunResult.accuracy` of the same run.
    """
    space, rows = LabelSpace(stream), []
    questions = [space.evaluation_set(task, 0) for task in stream]
    frozen = make_method("zero_shot", clip)
    rows.append([accuracy(frozen, *asked) for asked in questions])
    with make_method("rail", clip, settings) as method:
        method.enter_stream(stream)
        for k, task in enumerate(stream):
            method.enter_task(k, task)
            draw = generator("begin_task", derive_seed(seed, k))
            method.begin_task(k, task, draw)
            method.end_task(k, task)
            asked = [space.evaluation_set(other, k + 1) for other in stream]
            rows.append([accuracy(method, *each) for each in asked])
    return pd.DataFrame(np.array(rows), row_names(list(stream.names)), stream.names)


@torch.no_grad()
def task_separation(
    stream: TaskStream, clip: Clip, *, shrinkage: Shrinkage = 0.0, quantile: float = 0.05
) -> pd.DataFrame:
    """Do frozen features tell the images of a task from strangers, and does DIKI's weight?

    Each task alone gets DIKI's Gaussian over its training images, which every domain's test images meet.

    Args:
        stream: its held-out domains are strangers, too.
        clip: the frozen CLIP.
        shrinkage: of the covariances; see `TaskGaussians`.
        quantile: of the task's validation images, for the calibrated weight.

    Returns:
        a row per task and domain: task, domain; auc (the share of pairs in which an image of the task
        has the higher density; 0.5: not told apart; nan for the task itself); mean prompt weights
        in [0, 1]: official (the dimension of the features as divisor), calibrated.

    Raises:
        UserError: too few images for a Gaussian.
    """
    cache, rows = FeatureCache.of_backbone(clip), []
    for task in stream:
        gaussians = TaskGaussians(shrinkage)
        gaussians.add(cache.features(task.train), task.name)
        gaussians.calibrate(cache.features(task.validation), quantile)
        own = gaussians.log_prob(cache.features(task.test), 0)
        dim, (threshold, spread) = float(clip.embed_dim), gaussians.calibrations[0].tolist()
        for domain in (*stream, *stream.held_out):
            found, auc = own, np.nan
            if domain is not task:
                found = gaussians.log_prob(cache.features(domain.test), 0)
                of_task = np.repeat([True, False], [len(own), len(found)])
                auc = roc_auc_score(of_task, torch.cat([own, found]).cpu())
            rows.append(
                {
                    "task": task.name,
                    "domain": domain.name,
                    "auc": auc,
                    "official": float(prompt_weight(found, dim, dim).mean()),
                    "calibrated": float(prompt_weight(found, threshold, spread).mean()),
                }
            )
    return pd.DataFrame(rows)
