"""Orders of tasks, on made-up runs worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from planted import made_up_run

from vlcl_toolkit import analysis
from vlcl_toolkit.errors import UserError

NAN = float("nan")


@pytest.fixture
def runs():
    """Learning A costs B 10 points while B is new and 30 once it is known; B costs A 4 and 20."""
    return [
        made_up_run("AB", [[50, 60], [90, 50], [70, 80]], held_out=[40, 39, 30]),
        made_up_run("AB", [[50, 60], [90, 48], [72, 80]], held_out=[40, 37, 30], seed=1),
        made_up_run("BA", [[60, 50], [85, 46], [55, 90]], held_out=[40, 35, 34]),
    ]


def test_pairs_by_hand(runs):
    effects = analysis.pair_effects(analysis.pair_changes(runs))
    new = analysis.pair_matrix(effects, "not yet learned")
    known = analysis.pair_matrix(effects, "learned before")
    never = analysis.pair_matrix(effects, "held-out")
    assert new.loc["A", "B"] == (-10 - 12) / 2
    assert new.loc["B", "A"] == -4
    assert known.loc["A", "B"] == -30
    assert known.loc["B", "A"] == (-20 - 18) / 2
    assert np.isnan(np.diag(new)).all()
    assert never.loc["A", "faces"] == pytest.approx((-1 - 3 - 1) / 3)
    assert never.loc["B", "faces"] == pytest.approx((-9 - 7 - 5) / 3)
    row = effects[(effects["learned"] == "A") & (effects["when"] == "not yet learned")].iloc[0]
    assert (row["cases"], row["std"]) == (2, pytest.approx(np.sqrt(2)))


def test_spread_by_hand(runs):
    spread = analysis.order_spread(analysis.order_scores(runs)).set_index("score")
    # Transfer: 50 and 48 in the order A, B; 46 in the order B, A.
    transfer = spread.loc["transfer"]
    assert transfer[["runs", "orders"]].tolist() == [3, 2]
    assert transfer["mean"] == 48
    assert transfer[["lowest", "highest", "range"]].tolist() == [46, 50, 4]
    assert transfer["over_orders"] == pytest.approx(np.std([49, 46], ddof=1))
    assert transfer["over_seeds"] == pytest.approx(np.std([50, 48], ddof=1))


def test_transfer_beside_the_frozen_clip_in_the_same_order(runs):
    # A first: the frozen B has 60, and 50 and 48 are left. B first: the frozen A has 50, 46 is left.
    assert analysis.order_scores(runs)["transfer_change"].tolist() == [-10, -12, -4]


def test_one_run_has_no_spread(runs):
    spread = analysis.order_spread(analysis.order_scores(runs[:1]))
    assert spread[["over_orders", "over_seeds"]].isna().all(axis=None)
    assert (spread["range"] == 0).all()


def test_interrupted_runs_show_what_they_have(runs):
    stopped = made_up_run("BA", [[60, 50], [85, 40], [NAN, NAN]], held_out=[40, 36, NAN], seed=1)
    scores = analysis.order_scores([*runs, stopped])
    assert scores["tasks_learned"].tolist() == [2, 2, 2, 1]
    assert scores["complete"].tolist() == [True, True, True, False]
    known = analysis.order_spread(scores).set_index("score")["runs"]
    # All that Transfer needs was tested before the last task.
    assert known.to_dict() == {"transfer": 4, "average": 3, "last": 3, "forgetting": 3}
    effects = analysis.pair_effects(analysis.pair_changes([*runs, stopped]))
    assert analysis.pair_matrix(effects, "not yet learned").loc["B", "A"] == (-4 - 10) / 2
    assert analysis.pair_matrix(effects, "learned before").loc["A", "B"] == -30


def test_methods_stay_apart(runs):
    other = made_up_run("AB", [[50, 60], [90, 60], [90, 80]], method="diki")
    effects = analysis.pair_effects(analysis.pair_changes([*runs, other]))
    assert analysis.pair_matrix(effects, "not yet learned", "diki").loc["A", "B"] == 0
    assert analysis.pair_matrix(effects, "not yet learned", "finetune").loc["A", "B"] == -11
    with pytest.raises(UserError, match="effects of 2 methods"):
        analysis.pair_matrix(effects, "not yet learned")
    with pytest.raises(UserError, match="unknown method among these runs 'dika'"):
        analysis.pair_matrix(effects, "not yet learned", "dika")
    with pytest.raises(UserError, match="unknown state of the affected domain 'later'"):
        analysis.pair_matrix(effects, "later", "diki")


@pytest.mark.parametrize("analyse", [analysis.order_scores, analysis.pair_changes])
def test_what_cannot_be_mixed(analyse, runs):
    one = runs[0]
    with pytest.raises(UserError, match="no runs given"):
        analyse([])
    with pytest.raises(UserError, match="different streams"):
        analyse([one, replace(one, stream="another")])
    other = one.config | {"backbone": {"weights_sha256": "b" * 64}}
    with pytest.raises(UserError, match="different backbones"):
        analyse([one, replace(one, config=other)])
    faster = made_up_run("BA", [[60, 50], [85, 46], [55, 90]], rate=0.2)
    with pytest.raises(UserError, match=r"settings differ.*learning_rate 0\.1 and 0\.2"):
        analyse([one, faster])


def test_scores_of_different_tasks_are_refused(runs):
    other = made_up_run("AC", [[50, 60], [90, 50], [70, 80]])
    with pytest.raises(UserError, match=r"different sets of tasks.*A,B \| A,C"):
        analysis.order_scores([runs[0], other])
    assert len(analysis.pair_changes([runs[0], other])) == 6
