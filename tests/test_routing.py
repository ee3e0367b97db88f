"""Analysis of routes and experts on cases with known answers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.test_probes import CONFIGS, record
from tests.tiny import tiny_clip, tiny_stream
from vlcl_toolkit.analysis.decisions import (
    batch_mix,
    calibration,
    choose_routes,
    oracle_scores,
    route_decisions,
    threshold_sweep,
)
from vlcl_toolkit.analysis.routing import expert_overlap, expert_use, freezing_protects
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.plotting.routing import (
    batch_mix_curves,
    decision_matrix,
    expert_overlap_heat,
    expert_use_heat,
    freezing_bars,
    threshold_curves,
)
from vlcl_toolkit.plotting.style import new_figure, to_png
from vlcl_toolkit.probes import Probes
from vlcl_toolkit.training.loop import run


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory):
    return record("moe_adapters", tmp_path_factory.mktemp("moe"))


def synthetic() -> Probes:
    """Tasks a and b, held-out h; one block of four experts; a's experts are 0, 1, b's 1, 2."""
    use = {"a": [10, 10, 0, 0], "b": [0, 10, 10, 0], "h": [0, 0, 0, 0]}
    stage = {f"choices/image/{d}": np.array([v]) for d, v in use.items()}
    stage |= {f"gate_mass/image/{d}": np.array([v]) * 0.5 for d, v in use.items()}
    stage["expert_change/image"] = np.array([[0.0, 0.2, 0.3, 0.0]])  # b moved 1 and 2
    return Probes({1: stage, 2: stage}, ["a", "b"], ["h"])


def test_expert_use_of_known_choices():
    use = expert_use(synthetic()).set_index(["domain", "expert"])["share"]
    assert use["a"].tolist() == [0.5, 0.5, 0, 0]
    assert use["h"].isna().all()
    overlap = expert_overlap(synthetic()).set_index(["domain", "other"])["overlap"]
    assert overlap["a", "a"] == 1
    assert overlap["a", "b"] == 0.5
    assert np.isnan(overlap["a", "h"])


def test_freezing_protects_what_later_tasks_left_alone():
    protects = freezing_protects(synthetic()).set_index("domain")
    assert protects.loc["a", "changed"] == 0.5  # expert 1 moved, expert 0 did not
    assert protects.loc["b", "protected"] == 1  # nothing came later


def test_freezing_of_a_real_run(moe):
    table = freezing_protects(moe.probes)
    assert set(table["domain"]) == set(moe.order)
    changed = table.set_index(["domain", "block"])["changed"].dropna()
    assert changed.between(0, 1).all()


def test_decisions_of_known_routes():
    stage = {
        "routes": np.array(["task 1", "task 2", "frozen"]),
        "route/a": np.array([0, 0, 0, 1]),
        "route/b": np.array([2, 2, 1, 1]),
        "route/h": np.array([2, 2, 2, 2]),
    }
    probes = Probes({2: stage}, ["a", "b"], ["h"])
    table = route_decisions(probes).set_index(["domain", "route"])
    assert table["share"].to_dict()["a", "a"] == 75
    assert table["share"].to_dict()["b", "frozen"] == 50
    assert table.index[table["own"]].tolist() == [("a", "a"), ("b", "b"), ("h", "frozen")]


def test_an_oracle_takes_the_own_route_or_the_frozen_clip():
    def stage(routes: list[str], taken: dict[str, list[int]], right: dict[str, list[int]]):
        # each domain has two images of class 0; `right[domain][route]`: how many of them it gets right
        arrays = {"routes": np.array([*routes, "frozen"])}
        for domain, route in taken.items():
            arrays |= {f"route/{domain}": np.array(route), f"labels/{domain}": np.zeros(2)}
            logits = np.zeros((2, len(right[domain]), 2), np.float32)
            for number, hits in enumerate(right[domain]):
                logits[:hits, number, 0] = logits[hits:, number, 1] = 1
            arrays[f"route_logits/{domain}"] = logits
        return arrays

    first = stage(["task 1"], {"a": [0, 1], "b": [0, 0]}, {"a": [2, 0], "b": [0, 1]})
    second = stage(
        ["task 1", "task 2"], {"a": [0, 0], "b": [1, 2]}, {"a": [2, 0, 0], "b": [0, 2, 0]}
    )
    table = oracle_scores(Probes({1: first, 2: second}, ["a", "b"], []))
    assert table.loc["taken", ["transfer", "last"]].tolist() == [0, 75]
    assert table.loc["oracle", ["transfer", "last"]].tolist() == [50, 100]
    with pytest.raises(UserError, match="1 of 2 tasks learned"):
        oracle_scores(Probes({1: first}, ["a", "b"], []))


def test_the_routes_of_a_run_give_its_scores(moe):
    table = oracle_scores(moe.probes)
    for name in moe.order:  # the probes saw all test images
        assert len(moe.probes.labels(name)) == moe.config["images"][name][2]
    assert table.loc["taken"].to_dict() == pytest.approx(moe.metrics)
    frozen = moe.accuracy.loc["zero-shot"].iloc[1:].mean()  # of two tasks
    assert table.loc["oracle", "transfer"] == pytest.approx(frozen)


def test_threshold_sweep_equals_real_runs(moe, tmp_path: Path):
    """At three thresholds the swept accuracy is that of a run made with that threshold."""
    probes = moe.probes
    errors = np.concatenate([probes.route_scores(2, d)[0].min(axis=1) for d in probes.domains])
    thresholds = [float(np.quantile(errors, q)) for q in (0.2, 0.5, 0.9)]
    sweep = threshold_sweep(probes, thresholds).set_index(["threshold", "domain"])
    for threshold in thresholds:
        config = CONFIGS["moe_adapters"] | {"threshold": threshold}
        again = run(
            "moe_adapters",
            tiny_stream(),
            tiny_clip(),
            config=config,
            out=tmp_path / str(threshold),
            progress=False,
        )
        for domain in probes.domains:
            table = again.accuracy if domain in again.accuracy else again.held_out
            found = sweep.loc[(threshold, domain), "accuracy"]
            assert found == pytest.approx(table[domain].iloc[-1]), (threshold, domain)
    frozen = sweep["frozen"].groupby("threshold").mean()
    assert frozen.is_monotonic_decreasing
    assert frozen.iloc[0] > frozen.iloc[-1]


def test_the_runs_own_threshold_gives_its_own_answers(moe):
    own = threshold_sweep(moe.probes, [1], relative=True)
    for row in own.itertuples():
        predicted = moe.probes.logits(2, row.domain).argmax(axis=1)
        right = 100 * (predicted == moe.probes.labels(row.domain)).mean()
        assert row.accuracy == pytest.approx(right)


@pytest.mark.parametrize("method", ["moe_adapters", "diki"])
def test_a_batch_decides_as_the_method_does(method: str, tmp_path: Path):
    """The rule for batches, applied to recorded scores, is that of a run with decision "batch"."""
    alone = record(method, tmp_path / "sample").probes
    config = CONFIGS[method] | {"decision": "batch"}
    options = {"out": tmp_path / "batch", "progress": False, "probes": True}
    batch = run(method, tiny_stream(), tiny_clip(), config=config, **options).probes
    limits = alone.array(2, "thresholds") if method == "moe_adapters" else None
    for domain in alone.domains:
        scores, columns = alone.route_scores(2, domain)
        found = choose_routes(scores, columns, limits, alone.routes(2), together=True)
        assert found.tolist() == batch.route(2, domain).tolist()


def votes() -> Probes:
    """Log densities that name the own task of a and b; each route is right for its own domain."""
    stage = {
        "routes": np.array(["task 1", "task 2", "frozen"]),
        "score_names": np.array(["x", "y"]),
    }
    for number, domain in enumerate("ab"):
        scores = np.full((8, 2), -5.0)
        scores[:, number] = 5.0
        logits = np.zeros((8, 3, 2))
        logits[:, number, 0] = 1.0  # the true class is 0
        logits[:, 1 - number, 1] = 1.0
        stage |= {
            f"labels/{domain}": np.zeros(8, int),
            f"route/{domain}": np.full(8, number),
            f"route_scores/{domain}": scores,
            f"route_logits/{domain}": logits,
        }
    return Probes({2: stage}, ["a", "b"])


def test_batch_mix_of_known_votes():
    mix = batch_mix(votes(), "b", mixes=[1, 40, 60, 100], batch_size=50)
    batch = mix[mix["decision"] == "batch"].set_index("mix")["accuracy"]
    assert batch.to_dict() == {1: 0, 40: 0, 60: 100, 100: 100}
    assert (mix.loc[mix["decision"] == "sample", "accuracy"] == 100).all()
    with pytest.raises(UserError, match="found 0"):
        batch_mix(votes(), "b", mixes=[0])


def test_missing_routes_name_probe_and_command(tmp_path: Path):
    probes = record("finetune", tmp_path).probes
    message = r"vlcl run --probes --method finetune"
    for analysis in (route_decisions, expert_use, calibration, freezing_protects):
        with pytest.raises(UserError, match=message):
            analysis(probes)
    with pytest.raises(UserError, match=rf"'thresholds'.*{message}"):
        threshold_sweep(probes, [1])


def test_plots(moe, tmp_path: Path):
    probes = moe.probes
    mix = batch_mix(probes, "pets", mixes=[10, 100])
    frames: list[tuple] = [
        (decision_matrix, route_decisions(probes), {}),
        (threshold_curves, threshold_sweep(probes, [0, 1, 2], relative=True), {"now": 1}),
        (batch_mix_curves, mix, {"domain": "pets"}),
        (expert_use_heat, expert_use(probes), {"block": 1}),
        (expert_overlap_heat, expert_overlap(probes), {}),
        (freezing_bars, freezing_protects(probes), {}),
    ]
    for draw, frame, options in frames:
        assert isinstance(frame, pd.DataFrame)
        figure, ax = new_figure()
        assert draw(frame, ax, **options) is ax
        assert to_png(figure)
    strengths = calibration(record("diki", tmp_path).probes)
    assert strengths["strength"].between(0, 1).all()
