"""Scores with and without the task's identity, and RAIL learned again in memory."""

import pytest
import torch

from tests.tiny import tiny_clip, tiny_stream
from vlcl_toolkit.analysis import (
    closed_form_accuracy,
    task_separation,
    with_and_without_identity,
)
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.widgets import regression_sliders

SETTINGS = {"width": 30, "relative_ridge": 0.02}


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


@pytest.mark.parametrize("label_space", ["task", "odcl", "all", "seen"])
def test_in_memory_it_is_the_matrix_of_a_run(label_space, clip, tmp_path):
    stream = tiny_stream().with_label_space(label_space)
    whole = run("rail", stream, clip, out=tmp_path, config=SETTINGS, seed=3, progress=False)
    assert closed_form_accuracy(stream, clip, SETTINGS, seed=3).equals(whole.accuracy)


@pytest.mark.parametrize("method", ["rail", "finetune", "diki"])
def test_both_scores_are_those_of_runs_in_the_two_label_spaces(method, clip, tmp_path):
    few = {"rail": SETTINGS, "finetune": {"iterations": 3, "warmup": 1}}
    config = few.get(method, {"epochs": 1, "batch_size": 16, "shrinkage": "auto"})
    scores = {}
    for space in ("task", "all"):
        stream = tiny_stream().with_label_space(space)
        done = run(method, stream, clip, out=tmp_path / space, config=config, progress=False)
        scores[space] = done.accuracy.iloc[-1]
        table = with_and_without_identity(done, stream, clip).set_index("domain")
    assert table["given"].tolist() == pytest.approx(scores["task"].tolist())
    assert table["not_given"].tolist() == pytest.approx(scores["all"].tolist())
    assert (table["not_given"] <= table["right_task"]).all()
    assert clip.has_own_weights()


def test_another_backbone_is_refused(clip, tmp_path):
    done = run("rail", tiny_stream(), clip, out=tmp_path, config=SETTINGS, progress=False)
    with pytest.raises(UserError, match="another backbone"):
        with_and_without_identity(done, tiny_stream(), tiny_clip(seed=1))


def test_sliders_learn_again(clip):
    panel = regression_sliders(tiny_stream(), clip, widths=[5, 20], ridges=[0.1, 1.0])
    first = panel.view.picture.value
    panel.sliders["fusion"].value = 0.0
    assert panel.view.error_view.error is None
    assert panel.view.picture.value != first
    assert panel.values["label_space"] == "all"


@pytest.mark.parametrize("rule", ["official", "quantile"])
def test_separation_is_that_of_dikis_own_gaussians(rule, clip):
    stream = tiny_stream()
    table = task_separation(stream, clip, shrinkage="auto", quantile=0.1)
    table = table.set_index(["task", "domain"])
    assert len(table) == len(stream) * (len(stream) + len(stream.held_out))
    settings = {"shrinkage": "auto", "calibration": rule, "calibration_quantile": 0.1}
    settings |= {"calibration_divisor": None, "epochs": 1}
    task, other = stream
    with make_method("diki", clip, settings) as method, torch.no_grad():
        method.enter_stream(stream)
        method.begin_task(0, task, torch.Generator())
        own, strange = (
            method.gaussians.log_prob(method._features_of(each.test), 0) for each in (task, other)
        )
        weight = float(method.task_weights(strange[:, None]).mean())
    column = {"official": "official", "quantile": "calibrated"}[rule]
    assert table.loc[(task.name, other.name), column] == pytest.approx(weight)
    above = (own[:, None] > strange).double() + (own[:, None] == strange) / 2
    assert table.loc[(task.name, other.name), "auc"] == pytest.approx(float(above.mean()))
    assert table["auc"].isna().sum() == len(stream)
