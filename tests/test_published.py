"""Published results: the data file, tables beside a run's own, caveats."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vlcl_toolkit import UserError
from vlcl_toolkit.analysis.published import (
    SCORES,
    beside_published,
    caveats,
    cost_table,
    own_scores,
    published_for,
    published_results,
    published_scores,
)
from vlcl_toolkit.experiments.published_runs import find_recipe, recipes
from vlcl_toolkit.training.metrics import metrics
from vlcl_toolkit.training.results import RunResult, row_names


def result_of(recipe: str, order: list[str], matrix: np.ndarray, **changes) -> RunResult:
    """A finished run with the recipe's own settings and the accuracies `matrix` `[T, T]`."""
    chosen = find_recipe(recipe)
    config = {
        "split_id": "mtil-zscl-12345678",
        "label_space": "task",
        "decision": "sample",
        "method_config": vars(chosen.config()),
        "backbone": {"name": "ViT-B-16-quickgelu", "pretrained": "openai", "weights_sha256": "0"},
        "images": {name: [10, 0, 5] for name in order},
    } | changes
    table = pd.DataFrame(np.vstack([matrix[:1], matrix]), row_names(order), order, dtype=float)
    return RunResult(
        folder=Path("nowhere"),
        config=config,
        method=chosen.method,
        stream="mtil",
        order=order,
        seed=0,
        accuracy=table,
        held_out=pd.DataFrame(index=table.index),
        validation=pd.Series(math.nan, index=order),
        metrics=metrics(matrix),
        history=pd.DataFrame(),
        trainable_parameters=1,
        total_parameters=2,
        seconds={"train": 1.0, "evaluate": 1.0},
        peak_memory_mib=1.0,
        complete=True,
    )


def entry(identity: str):
    return next(found for found in published_results() if found.id == identity)


# The data file


def test_every_entry_says_where_it_comes_from():
    known = {recipe.protocol for recipe in recipes().values()}
    assert len({found.id for found in published_results()}) == len(published_results())
    for found in published_results():
        assert found.source
        assert found.protocol in known
        assert all(math.isnan(x) or 0 < x < 100 for x in found.scores.values()), found.id
    quoted = [
        found
        for found in published_results()
        if "notes" in found.source or "quoted" in found.source or "restates" in found.source
    ]
    assert quoted
    assert not any(found.verified for found in quoted)


def test_published_scores_follow_from_published_matrices():
    with_matrix = [found for found in published_results() if found.matrix is not None]
    assert len(with_matrix) == 14
    for found in with_matrix:
        scores = metrics(found.accuracy.to_numpy()[1:])
        assert [scores[name] for name in SCORES] == pytest.approx(
            [found.scores[name] for name in SCORES], abs=0.006
        ), found.id
        assert found.verified


def test_accuracies_are_whole_numbers_of_images():
    table = entry("zscl_repo_t3_7").accuracy.loc["after SUN397"]
    for name, images in {"Aircraft": 3333, "MNIST": 10000, "SUN397": 21751}.items():
        right = table[name] * images / 100
        assert abs(right - round(right)) < 0.02


def test_class_incremental_averages_are_means_over_stages():
    found = [each for each in published_results() if each.stages is not None]
    assert len(found) == 6
    for each in found:
        assert each.scores["average"] == pytest.approx(np.mean(each.stages), abs=0.02)
        assert each.scores["last"] == each.stages[-1]


def test_the_figures_of_the_papers():
    table = published_scores("mtil-order-I").set_index("method")
    assert table.loc["zscl", "transfer"].tolist() == [68.14, 68.1]
    assert table.loc["moe_adapters", ["transfer", "average", "last"]].tolist() == [68.9, 76.7, 85.0]
    assert not table.loc["moe_adapters", "verified"]
    assert table.loc["zero_shot", "verified"]
    assert published_for("mtil-order-I", "zscl")[0].id == "zscl_repo_t3_7"
    with pytest.raises(UserError, match="unknown protocol 'mtil-order-1'; did you mean"):
        published_scores("mtil-order-1")


def test_costs_are_derived_or_quoted():
    table = cost_table("mtil-order-I").set_index("recipe")
    assert table.loc["mtil-order-I/zscl"].tolist() == [11011, 64, 47.24, 43.1]
    assert table.loc["mtil-order-I/diki", ["steps", "images_per_step"]].tolist() == [15030, 128]
    assert math.isnan(table.loc["mtil-order-I/lwf", "gpu_hours"])
    assert cost_table("imagenet100-10")["steps"].isna().sum() == 1
    with pytest.raises(UserError, match="unknown protocol 'mtil'"):
        cost_table("mtil")


def test_zero_shot_row_is_published_too():
    table = entry("zscl_repo_t9_7").accuracy
    assert table.index[0] == "zero-shot"
    assert table.columns[0] == "StanfordCars"
    assert table.loc["zero-shot", "StanfordCars"] == 64.7
    with pytest.raises(UserError, match="moe_I has no accuracy matrix"):
        _ = entry("moe_I").accuracy


# Beside a run


def test_the_published_matrix_beside_itself_is_the_same_twice():
    found = entry("zscl_repo_t3_7")
    run = result_of("mtil-order-I/zscl", found.order, np.array(found.matrix))
    table = beside_published(run, found)
    assert table.index.tolist() == [*found.order, "mean"]
    assert table.columns.tolist() == [(s, who) for s in SCORES for who in ("ours", "published")]
    for score in SCORES:
        ours, published = table[score, "ours"], table[score, "published"]
        np.testing.assert_allclose(ours.iloc[:-1], published.iloc[:-1], rtol=1e-12)
        assert ours["mean"] == pytest.approx(published["mean"], abs=0.006)
    assert math.isnan(table.loc["Aircraft", ("transfer", "ours")])
    assert table.loc["SUN397", ("last", "published")] == 80.2216


def test_another_order_is_compared_by_means_alone():
    found = entry("zscl_repo_t3_7")
    run = result_of("mtil-order-I/zscl", found.order[::-1], np.array(found.matrix))
    assert beside_published(run, found).index.tolist() == ["mean"]


def test_zero_shot_beside_the_constants_of_the_repository():
    found = entry("zscl_repo_zeroshot_I")
    frozen = np.tile(np.arange(11.0), (11, 1))
    order = entry("zscl_repo_t3_7").order
    table = beside_published(result_of("mtil-order-I/zero_shot", order, frozen), found)
    assert table.loc["CIFAR100", ("last", "ours")] == 2.0
    assert table.loc["CIFAR100", ("last", "published")] == 68.2


def test_stages_beside_published_stages():
    found = entry("moe_cil_cifar100_10-10")
    names = [f"step{i:02}" for i in range(1, 11)]
    run = result_of(
        "cifar100-10/moe_adapters",
        names,
        np.tri(10) * 50 + 40,  # 90 on every step that was learned
        label_space="seen",
        split_id="cifar100-12345678",
    )
    assert own_scores(run)["average"] == 90
    table = beside_published(run, found)
    assert table.index.tolist() == [*names, "mean"]
    assert table.loc["step02", ("accuracy", "ours")] == 90
    assert table.loc["step02", ("accuracy", "published")] == 94.7
    assert table.loc["mean", ("last", "published")] == 77.52
    assert "transfer" not in table.columns.get_level_values(0)


# Caveats


def told(recipe: str, **changes) -> str:
    found = entry("zscl_repo_t3_7")
    run = result_of(recipe, found.order, np.array(found.matrix), **changes)
    return "\n".join(caveats(run, find_recipe(recipe)))


def test_a_faithful_run_has_the_caveats_of_split_and_label_space():
    text = told("mtil-order-I/zscl")
    assert (
        "label space 'task': an image is classified among the classes of its own data set" in text
    )
    assert "split 'zscl'" in text
    assert "SUN397's cannot equal the authors'" in text
    assert "settings differ" not in text
    assert "backbone" not in text
    assert "imitations" not in text


def test_what_was_changed_is_told():
    config = vars(find_recipe("mtil-order-I/zscl").config()) | {"iterations": 7}
    random = {"name": "random:ViT-B-16-quickgelu:depth=2", "pretrained": "", "weights_sha256": "0"}
    text = told(
        "mtil-order-I/zscl",
        method_config=config,
        split_id="mtil-zscl-unverified-12345678",
        backbone=random,
        skipped_images={"Food": 2},
    )
    assert "settings differ from the paper's: iterations=7" in text
    assert "the data sets were not checked against the published sizes" in text
    assert "random weights (random:ViT-B-16-quickgelu:depth=2)" in text
    assert "2 unreadable images were left out" in text
    other = {"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k", "weights_sha256": "0"}
    assert "backbone ViT-B-32 (laion2b_s34b_b79k) instead of" in told(
        "mtil-order-I/zscl", backbone=other
    )


def test_numbers_of_another_split_are_never_compared_silently():
    text = told("mtil-order-I/zscl", split_id="mtil-coop-12345678")
    assert "published for split 'zscl': test images differ for 8 of 11 data sets" in text
    diki = told("mtil-order-I/diki", split_id="mtil-coop-12345678", decision="batch")
    assert "quoted by later papers beside numbers of ZSCL's splits" in diki
    assert "published figure not verified: quoted in" in diki
    assert "decide together" in diki


def test_unknown_figures_and_unfinished_runs_are_told():
    assert "no published figure of this recipe" in told("mtil-order-I/prefix_tuning")
    found = entry("zscl_repo_t3_7")
    run = result_of("mtil-order-I/zscl", found.order, np.array(found.matrix))
    assert (
        "not finished" in caveats(replace(run, complete=False), find_recipe("mtil-order-I/zscl"))[0]
    )
