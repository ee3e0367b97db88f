"""Prompts at a given strength, mixed batches, and the views of routes."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.test_probes import record
from tests.test_routing import votes
from tests.tiny import tiny_clip, tiny_stream
from vlcl_toolkit import analysis, plotting
from vlcl_toolkit.analysis import prompt_strength
from vlcl_toolkit.clip.weights import hash_weights
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.plotting.style import new_figure
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.widgets import RunExplorer
from vlcl_toolkit.widgets.probe_views import calibration_view, decision_view, experts_view


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


@pytest.fixture(scope="module", params=["diki", "prefix_tuning"])
def prompted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return record(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory):
    return record("moe_adapters", tmp_path_factory.mktemp("moe"))


def test_strength_0_is_the_frozen_clip_and_1_a_run_without_calibration(prompted, clip, tmp_path):
    found = prompt_strength(prompted, tiny_stream(), clip, [0, 1], images_per_domain=12)
    found = found.pivot(index="strength", columns="domain", values="accuracy")
    uncalibrated = run(
        prompted.method,
        tiny_stream(),
        clip,
        config=prompted.config["method_config"] | {"calibrate": False},
        out=tmp_path,
        progress=False,
    )
    for task in (*tiny_stream(), *tiny_stream().held_out):
        table = uncalibrated.accuracy if task.name in prompted.order else uncalibrated.held_out
        assert found.loc[1, task.name] == pytest.approx(table[task.name].iloc[-1], abs=1e-4)
        images = clip.eval_transform(task.test.images)
        texts = clip.class_features(task.class_names, task.templates[:1])
        frozen = clip.logits(clip.encode_image(images), texts).argmax(dim=1)
        right = 100 * float((frozen == task.test.labels).float().mean())
        assert found.loc[0, task.name] == pytest.approx(right, abs=1e-4)
    assert hash_weights(clip.model) == clip.weights_sha256


def test_strength_tells_the_methods_own_weight(prompted, clip):
    found = prompt_strength(prompted, tiny_stream(), clip, [1], images_per_domain=12)
    own = analysis.calibration(prompted.probes).groupby("domain")["strength"].mean()
    for row in found.itertuples():
        assert row.own == pytest.approx(own[row.domain], abs=1e-5)
    assert set(found["status"]) == {"learned", "held-out"}


def test_strength_refuses_what_has_no_prompts(moe, prompted, clip):
    with pytest.raises(UserError, match="another backbone"):
        prompt_strength(prompted, tiny_stream(), tiny_clip(seed=1))
    with pytest.raises(UserError, match="no prompts"):
        prompt_strength(moe, tiny_stream(), clip)


def test_strength_curves_have_a_line_and_a_ring_per_domain(prompted, clip):
    frame = prompt_strength(prompted, tiny_stream(), clip, [0, 1], images_per_domain=4)
    ax = Figure().subplots()
    plotting.strength_curves(frame, ax)
    assert len(ax.lines) == 2 * frame["domain"].nunique() + 1


def test_mixed_batches_of_known_votes():
    table = analysis.mixed_batches(votes(), mix=20, batches=3).set_index(["domain", "decision"])
    assert table["accuracy"].to_dict() == {
        ("a", "batch"): 0,
        ("a", "sample"): 100,
        ("b", "batch"): 0,
        ("b", "sample"): 100,
    }
    whole = analysis.mixed_batches(votes(), mix=100, batches=3)
    assert (whole["accuracy"] == 100).all()
    ax = Figure().subplots()
    plotting.mixed_batch_bars(whole, ax)
    assert [bar.get_height() for bar in ax.patches] == [100, 100]


def test_decisions_at_a_multiple_of_the_threshold(moe):
    probes = moe.probes
    pd.testing.assert_frame_equal(
        analysis.route_decisions(probes), analysis.route_decisions(probes, threshold=1)
    )
    none = analysis.route_decisions(probes, threshold=0)
    frozen = none[none["route"] == "frozen"]
    assert (frozen["share"] == 100).all()
    closed = analysis.mixed_batches(probes, mix=100, threshold=0, batches=2)
    right = closed.set_index(["domain", "decision"])["right"]
    assert right["pets", "batch"] == 0
    assert right["land", "batch"] == 100  # held out: the frozen CLIP is its right route


def test_views_of_routes(moe, prompted):
    views = [("Decisions", decision_view), ("Experts", experts_view)]
    assert isinstance(RunExplorer(moe, views).figure(), Figure)
    explorer = RunExplorer(prompted, [("Weights", calibration_view)], stage=1)
    assert explorer.views[0].error_view.error is None
    explorer.stage.value = 0  # the frozen CLIP has no routes, and the page says so, in no red
    assert explorer.views[0].error_view.error is None
    (said,) = calibration_view(prompted, 0, "pets").axes[0].texts
    assert "goes through the frozen CLIP" in said.get_text()


def test_expert_block_heat_shows_shares_of_every_block(moe):
    use = analysis.expert_use(moe.probes)
    _, ax = new_figure()
    plotting.expert_block_heat(use, ax, domain="pets")
    shares = 100 * use[use["domain"] == "pets"].pivot(
        index="block", columns="expert", values="share"
    )
    assert np.ma.filled(ax.images[0].get_array(), np.nan) == pytest.approx(
        shares.to_numpy(), nan_ok=True
    )


def test_calibration_strips_have_a_dot_per_image(prompted):
    frame = analysis.calibration(prompted.probes)
    ax = Figure().subplots()
    plotting.calibration_strips(frame, ax)
    dots = sum(len(c.get_offsets()) for c in ax.collections if len(c.get_offsets()) > 1)
    lone = sum(len(g) == 1 for _, g in frame.groupby(["domain", "route"]))
    assert dots + lone == len(frame)
