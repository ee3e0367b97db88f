"""The line between frozen and trained weights."""

from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from tests.tiny import tiny_clip, tiny_stream
from vlcl_toolkit.analysis import weight_path
from vlcl_toolkit.clip.weights import hash_weights
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.plotting import weight_path_curves
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.widgets.sliders import weight_path_slider

SHORT = {"iterations": 4, "warmup": 1, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


@pytest.fixture(scope="module")
def result(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return run("finetune", tiny_stream(), clip, out=folder, config=SHORT, progress=False)


def test_its_ends_are_the_first_and_the_last_row_of_the_run(result, clip):
    path = weight_path(result, tiny_stream(), clip, [0, 0.5, 1]).pivot(
        index="alpha", columns="domain", values="accuracy"
    )
    rows = result.accuracy.join(result.held_out)[path.columns]
    assert path.loc[0].tolist() == rows.iloc[0].tolist()
    assert path.loc[1].tolist() == rows.iloc[-1].tolist()
    assert not rows.iloc[0].equals(rows.iloc[-1])
    assert hash_weights(clip.model) == clip.weights_sha256


def test_says_what_each_task_is(result, clip):
    path = weight_path(result, tiny_stream(), clip, [0])
    stream = tiny_stream()
    status = dict(zip(path["domain"], path["status"], strict=True))
    assert [status[name] for name in stream.names] == ["learned"] * len(stream)
    assert {status[task.name] for task in stream.held_out} == {"held-out"}


def test_is_drawn_with_a_line_per_task(result, clip):
    ax = Figure().subplots()
    path = weight_path(result, tiny_stream(), clip, [0, 1])
    weight_path_curves(path, ax)
    assert len(ax.lines) == path["domain"].nunique()


def test_refuses_what_has_no_line(result, clip, tmp_path):
    with pytest.raises(UserError, match="another backbone"):
        weight_path(result, tiny_stream(), tiny_clip(seed=1))
    frozen = run("zero_shot", tiny_stream(), clip, out=tmp_path, progress=False)
    with pytest.raises(UserError, match="does not train CLIP's own weights"):
        weight_path(frozen, tiny_stream(), clip)
    with pytest.raises(UserError, match="no checkpoint"):
        weight_path(replace(result, folder=tmp_path / "none"), tiny_stream(), clip)


def test_a_slider_walks_along_it(result, clip):
    page = weight_path_slider(weight_path(result, tiny_stream(), clip, [0, 0.5, 1]))
    assert page.view.error_view.error is None
    first = page.view.picture.value
    page.sliders["alpha"].value = 0.0
    assert page.view.error_view.error is None
    assert page.view.picture.value != first
