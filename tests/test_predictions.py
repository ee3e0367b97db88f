"""How predictions break: a class is broken on purpose, and found."""

import numpy as np
import pytest
from planted import EACH, LABELS, frozen_features, made_up_run, planted_probes

from vlcl_toolkit import analysis
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.probes import Probes

NAN = float("nan")


def probes_of(*stages, **options):
    """Probes of one held-out domain from its logits per stage."""
    arrays = [{"labels/d": LABELS[: len(x)], "logits/d": np.asarray(x, np.float32)} for x in stages]
    return Probes(dict(enumerate(arrays)), ["t", "u"][: len(stages) - 1], ["d"], **options)


@pytest.fixture
def broken():
    """The text of class 2 of signs is turned round from stage 1 on."""
    now = frozen_features()
    images, texts = now["signs"]
    texts = texts.copy()
    texts[2] = -texts[2]
    now["signs"] = (images, texts)
    return planted_probes(frozen_features(), now, now)


def test_flips_count_both_ways():
    frozen = [[9.0, 0], [9, 0], [0, 9], [0, 9]]  # all images have label 0
    now = [[9.0, 0], [0, 9], [9, 0], [0, 9]]
    table = analysis.flips(probes_of(frozen, now), ["d"])
    assert table["accuracy"].tolist() == [50, 50]
    assert table["changed"].tolist() == [0, 50]
    assert table["broken"].tolist() == [0, 25]
    assert table["repaired"].tolist() == [0, 25]


def test_confusion_drifts_away_from_the_broken_class(broken):
    before, now = (analysis.confusion(broken, stage, "signs") for stage in (0, 1))
    assert (np.diag(before) == 100).all()
    np.testing.assert_allclose(now.sum(axis=1), 100)
    drift = analysis.confusion_drift(broken, 1, "signs")
    np.testing.assert_allclose(drift.sum(axis=1), 0, atol=1e-9)
    assert drift.loc["signs 2", "signs 2"] == -100
    assert (drift.drop(index="signs 2") == 0).all(axis=None)
    np.testing.assert_array_equal(analysis.confusion_drift(broken, 1, "faces"), 0)


def test_classes_without_images_are_unknown():
    table = analysis.confusion(probes_of([[9.0, 0, 0]] * EACH), 0, "d")
    assert table.loc["0"].tolist() == [100, 0, 0]
    assert table.loc[["1", "2"]].isna().all(axis=None)


def test_unseen_accuracy_ends_when_the_task_is_learned():
    run = made_up_run(
        "ABC",
        [[50, 60, 70], [90, 55, 66], [80, 85, 61], [NAN] * 3],
        held_out=[40, 41, 30, NAN],
    )
    table = analysis.unseen_accuracy(run)
    curves = {name: part["accuracy"].tolist() for name, part in table.groupby("domain")}
    assert curves == {"A": [50], "B": [60, 55], "C": [70, 66, 61], "faces": [40, 41, 30]}
    assert table[table["domain"] == "C"]["change"].tolist() == [0, -4, -9]
    assert table[table["domain"] == "C"]["after"].tolist() == ["zero-shot", "A", "B"]
    assert set(table[table["domain"] == "faces"]["status"]) == {"held-out"}


def test_bad_input(broken):
    with pytest.raises(UserError, match="contain NaN or Inf: the training diverged"):
        analysis.flips(probes_of([[1.0, 0]], [[NAN, 0]]), ["d"])
    with pytest.raises(UserError, match="found stage 7"):
        analysis.confusion(broken, 7, "signs")
    with pytest.raises(UserError, match="unknown domain 'sign'"):
        analysis.flips(broken, ["sign"])
