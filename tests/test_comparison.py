"""Score tables of several runs, on made-up runs whose numbers are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import SETTINGS, tiny_clip, tiny_stream

from vlcl_toolkit.analysis.comparison import alone_table, gains, mean_and_spread, score_table
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.experiments.compare import choose_methods, search
from vlcl_toolkit.training.metrics import metrics
from vlcl_toolkit.training.results import RunResult, row_names


def made_up(matrix: list[list[float]], method: str = "finetune", seed: int = 0) -> RunResult:
    """A run with the given rows after each task; zero-shot is 50 everywhere, the held-out task falls by 1 a step."""
    order = [f"task{number}" for number in range(len(matrix))]
    rows = row_names(order)
    return RunResult(
        folder=Path("nowhere"),
        config={
            "split_id": "s",
            "backbone": {"weights_sha256": "a" * 64},
            "method_config": {"learning_rate": 0.1 * (seed + 1)},
        },
        method=method,
        stream="made-up",
        order=order,
        seed=seed,
        accuracy=pd.DataFrame([[50.0] * len(order), *matrix], index=rows, columns=order),
        held_out=pd.DataFrame({"probe": [40.0 - i for i in range(len(rows))]}, index=rows),
        validation=pd.Series([80.0, 90.0][: len(order)], index=order),
        metrics=metrics(np.array(matrix)),
        history=pd.DataFrame(),
        trainable_parameters=10,
        total_parameters=20,
        seconds={"train": 1.0, "evaluate": 2.0},
        peak_memory_mib=100.0,
        complete=True,
    )


def test_scores_of_one_run():
    table = score_table([made_up([[90.0, 40.0], [70.0, 80.0]])])
    row = table.iloc[0]
    assert row["transfer"] == 40.0
    assert row["average"] == (80.0 + 60.0) / 2
    assert row["last"] == 75.0
    assert row["forgetting"] == 20.0
    assert row["learned"] == 85.0
    assert row["validation"] == 85.0
    assert row["held_out"] == 38.0
    assert row["order"] == "task0,task1"


def test_gains_are_differences_from_the_frozen_backbone_in_the_same_order():
    run = made_up([[90.0, 40.0], [70.0, 80.0]])
    assert gains(run) == {"transfer": 40.0 - 50.0, "last": 75.0 - 50.0}
    uneven = replace(run, accuracy=run.accuracy.copy())
    uneven.accuracy.iloc[0] = [10.0, 45.0]  # Transfer reads only the task that comes second
    assert gains(uneven) == {"transfer": 40.0 - 45.0, "last": 75.0 - 27.5}


def test_mean_and_spread_over_seeds_keep_the_order_of_methods():
    runs = [
        made_up([[90.0, 40.0], [70.0, 80.0]], "zeta", 0),
        made_up([[90.0, 44.0], [70.0, 80.0]], "zeta", 1),
        made_up([[90.0, 50.0], [70.0, 80.0]], "alpha", 0),
    ]
    table = mean_and_spread(score_table(runs))
    assert list(table.index) == ["zeta", "alpha"]
    assert table.loc["zeta", ("transfer", "mean")] == 42.0
    assert table.loc["zeta", ("transfer", "std")] == pytest.approx(np.sqrt(8))
    assert np.isnan(table.loc["alpha", ("transfer", "std")])
    assert table.loc["zeta", ("runs", "count")] == 2


def test_a_search_groups_by_the_value_of_its_setting():
    runs = [made_up([[90.0, 40.0], [70.0, 80.0]], seed=seed) for seed in (0, 1)]
    table = mean_and_spread(score_table(runs, "learning_rate"), "learning_rate")
    assert list(table.index) == [0.1, 0.2]


def test_a_search_by_average_tests_the_validation_images_of_all_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream, clip = tiny_stream(), tiny_clip()
    options = {"config": SETTINGS, "seeds": (0,), "progress": False}
    runs = search("finetune", stream, clip, "learning_rate", [1e-3], criterion="average", **options)
    for task in stream:
        row = runs[0].accuracy.loc[f"after {task.name}"]
        assert row.notna().all()
        assert row[task.name] == pytest.approx(runs[0].validation[task.name])
    assert list(runs[0].accuracy.columns) == list(
        stream.names
    )  # what is held out has no validation images
    quick = search("finetune", stream, clip, "learning_rate", [1e-3], **options)
    assert quick[0].folder != runs[0].folder
    nothing = stream[1].validation.subset(torch.tensor([], dtype=torch.int64))
    few = replace(stream, tasks=(stream[0], replace(stream[1], validation=nothing)))
    with pytest.raises(UserError, match="found none of food; give some"):
        few.tested_on_validation()


@pytest.mark.parametrize("kind", ["streams", "backbones"])
def test_runs_that_cannot_be_compared_are_refused(kind):
    one = made_up([[90.0, 40.0], [70.0, 80.0]])
    if kind == "streams":
        other = replace(one, stream="another")
    else:
        other = replace(one, config=one.config | {"backbone": {"weights_sha256": "b" * 64}})
    with pytest.raises(UserError, match=f"different {kind}"):
        score_table([one, other])


def test_tasks_learned_alone():
    table = alone_table([made_up([[90.0]]), made_up([[94.0]], seed=1)])
    assert table.loc["task0", "zero_shot"] == 50.0
    assert table.loc["task0", "learned"] == 92.0
    assert table.loc["task0", "std"] == pytest.approx(np.sqrt(8))


def test_all_means_methods_with_a_preset_for_the_backbone():
    for stream in ("mini", "pets", "folder"):
        chosen = choose_methods(["all"], "mini", stream)
        assert chosen[0] == "zero_shot"
        assert {"finetune", "zscl", "moe_adapters", "diki"} <= set(chosen)
    assert choose_methods(["all"], "ViT-B-16-quickgelu", "mini") == ("zero_shot",)
    assert "zscl" in choose_methods(["all"], "ViT-B-16-quickgelu", "mtil")
