"""Feature shift on clouds that were moved in known ways; maps are judged by neighbourhoods only."""

import warnings

import numpy as np
import pandas as pd
import pytest
from planted import LABELS, SIZE, cloud, frozen_features, planted_probes, unit

from vlcl_toolkit import analysis
from vlcl_toolkit.analysis.feature_shift import nearest, nearest_mean
from vlcl_toolkit.errors import UserError


def at(frame, stage, domain):
    (row,) = frame[(frame["stage"] == stage) & (frame["domain"] == domain)].to_dict("records")
    return row


def rotation():
    return np.linalg.qr(np.random.default_rng(9).normal(size=(SIZE, SIZE)))[0].astype(np.float32)


@pytest.fixture
def moved():
    """Stage 1: land is rotated, signs shifted by 0.5 along an axis, faces drawn again."""
    now = frozen_features()
    turn, push = rotation(), np.eye(SIZE, dtype=np.float32)[0] * 0.5
    now["land"] = tuple(part @ turn for part in now["land"])
    now["signs"] = (now["signs"][0] + push, now["signs"][1])
    rng = np.random.default_rng(5)
    now["faces"] = (unit(rng.normal(size=(len(LABELS), SIZE))).astype(np.float32), cloud(2)[1])
    return planted_probes(frozen_features(), now)


def test_a_domain_that_was_pushed_aside_can_be_moved_back():
    now = frozen_features()
    images, texts = now["signs"]
    now["signs"] = (images + 3 * (texts[1] - texts[0]), texts)  # everything looks like class 1
    now["land"] = (np.roll(now["land"][0], 8, axis=0), now["land"][1])  # classes are exchanged
    table = analysis.moved_back(planted_probes(frozen_features(), now))
    assert at(table, 0, "signs")["moved_back"] == 100
    assert at(table, 1, "signs")["accuracy"] <= 50
    assert at(table, 1, "signs")["moved_back"] == 100
    assert at(table, 1, "land")["moved_back"] == at(table, 1, "land")["accuracy"] == 0


def test_movement_on_a_map_is_told_in_sizes_of_the_map(moved):
    positions = analysis.feature_map(moved)
    stays = positions[positions["stage"] == 0]
    later = stays.assign(stage=1, after="land", x=stays["x"] + 3, y=stays["y"] + 4)
    table = analysis.map_movement(pd.concat([stays, later]))
    images = stays[stays["kind"] == "image"]
    size = np.sqrt(images["x"].var(ddof=0) + images["y"].var(ddof=0))
    for domain in ("land", "signs", "faces"):
        assert at(table, 0, domain)["moved"] == 0
        assert at(table, 1, domain)["moved"] == pytest.approx(5 / size)


def test_a_planted_shift_has_its_length(moved):
    table = analysis.shift_length(moved)
    images = table[table["kind"] == "image"]
    assert at(images, 1, "signs")["length"] == pytest.approx(0.5, abs=1e-6)
    assert at(images, 1, "signs")["common"] == pytest.approx(0.5, abs=1e-6)
    assert at(images, 1, "faces")["common"] < 0.7 * at(images, 1, "faces")["length"]
    assert (images.loc[images["stage"] == 0, "length"] == 0).all()
    texts = table[table["kind"] == "class"]
    assert at(texts, 1, "signs")["length"] == 0
    assert at(texts, 1, "land")["length"] > 0.5


def test_rotated_and_shifted_clouds_keep_their_neighbourhoods(moved):
    table = analysis.neighbours_kept(moved, k=5)
    assert at(table, 1, "land")["kept"] == 1
    assert at(table, 1, "signs")["kept"] == 1
    redrawn = at(table, 1, "faces")
    assert redrawn["by_chance"] == 5 / 31
    assert abs(redrawn["kept"] - redrawn["by_chance"]) < 0.1
    assert at(table, 0, "faces")["kept"] == 1


def test_neighbourhoods_counted_by_hand():
    line = np.array([[0.0], [1], [3], [7]])
    expected = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(nearest(line, 1, "a line"), np.array(expected, bool))


def test_separation_survives_a_rotation_and_is_lost_in_noise(moved):
    table = analysis.class_separation(moved)
    for name in ("silhouette", "nearest_mean"):
        assert at(table, 1, "land")[name] == pytest.approx(at(table, 0, "land")[name], abs=1e-5)
    assert at(table, 0, "faces")["nearest_mean"] == 100
    assert at(table, 1, "faces")["nearest_mean"] < 60
    assert at(table, 1, "faces")["silhouette"] < 0.05


def test_nearest_mean_leaves_the_image_out():
    # With itself in the mean, each point would be right: its class mean would be pulled to it.
    images, labels = np.array([[0.0], [4], [1], [3]]), np.array([0, 0, 1, 1])
    assert nearest_mean(images, labels) == 0
    assert np.isnan(nearest_mean(images[:2], np.array([0, 1])))
    # The class of one image does not count, nor does it attract others.
    assert nearest_mean(np.array([[0.0], [1], [0.4], [9], [10]]), np.array([0, 0, 1, 2, 2])) == 100


def test_centred_anchors_close_the_gap_and_uncentred_ones_show_it():
    """Two modalities a long way apart along an axis of their own."""
    features = {}
    for domain, (images, texts) in frozen_features().items():
        gap = np.eye(SIZE, dtype=np.float32)[3] * 4
        features[domain] = (images + gap, texts - gap)
    probes = planted_probes(features)

    def gap_on_map(anchors):
        middle = analysis.feature_map(probes, anchors=anchors).groupby("kind")[["x", "y"]].mean()
        return np.linalg.norm(middle.loc["image"] - middle.loc["class"])

    assert gap_on_map("as they are") == pytest.approx(8, abs=0.5)
    assert gap_on_map("centred") == pytest.approx(0, abs=1e-5)
    assert set(analysis.feature_map(probes, anchors="none")["kind"]) == {"image"}


def test_pca_puts_later_stages_into_the_frozen_map(moved):
    positions = analysis.feature_map(moved)
    assert len(positions) == 2 * 3 * (len(LABELS) + 4)
    frozen, now = (
        positions[(positions["stage"] == stage) & (positions["domain"] == "signs")]
        for stage in (0, 1)
    )
    move = now[["x", "y"]].to_numpy() - frozen[["x", "y"]].to_numpy()
    images = (frozen["kind"] == "image").to_numpy()
    np.testing.assert_allclose(move[images], move[images][:1].repeat(images.sum(), 0), atol=1e-6)
    np.testing.assert_allclose(move[~images], 0, atol=1e-6)
    assert list(frozen["class_name"].iloc[-4:]) == [f"signs {c}" for c in range(4)]
    assert set(now["status"]) == {"unseen"}


def test_a_flat_cloud_is_mapped_without_loss():
    flat = {}
    for seed, name in enumerate(("land", "signs", "faces")):
        rng = np.random.default_rng(seed)
        plane = np.zeros((len(LABELS) + 4, SIZE), np.float32)
        plane[:, :2] = rng.normal(size=(len(LABELS) + 4, 2))
        flat[name] = (plane[:-4], plane[-4:])
    probes = planted_probes(flat)
    quality = analysis.map_quality(probes, analysis.feature_map(probes), k=5).iloc[0]
    assert quality["trustworthiness"] == 1
    assert quality["kept"] == 1


def test_umap_keeps_neighbourhoods_and_is_silent(moved, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        positions = analysis.feature_map(moved, "umap", neighbours=8)
        film = analysis.feature_film(moved, neighbours=8)
    assert capfd.readouterr() == ("", "")
    for table in (positions, film):
        quality = analysis.map_quality(moved, table, k=5)
        assert list(quality["stage"]) == [0, 1]
        assert quality.loc[0, "trustworthiness"] > 0.9
        assert quality.loc[0, "kept"] > 5 * quality.loc[0, "by_chance"]
        assert quality.loc[0, "anchors_agree"] > 90
    # One map: what has not moved stays; the film follows what the stage really is.
    texts = positions[(positions["kind"] == "class") & (positions["domain"] == "signs")]
    assert np.isfinite(texts[["x", "y"]].to_numpy()).all()


def test_a_film_of_the_only_stage_there_is():
    probes = planted_probes(frozen_features())
    assert set(analysis.feature_film(probes, neighbours=8)["stage"]) == {0}


@pytest.mark.parametrize("make", [analysis.feature_map, analysis.feature_film])
def test_fewer_points_than_neighbours(make):
    probes = planted_probes(frozen_features())
    options = {"kind": "umap"} if make is analysis.feature_map else {}
    with pytest.raises(UserError, match="36 points needs 2 to 35 neighbours; found 36"):
        make(probes, domains=["land"], neighbours=36, **options)
    with pytest.raises(UserError, match="neighbours; found 1"):
        make(probes, neighbours=1, **options)


def test_bad_input(moved):
    with pytest.raises(UserError, match="k must be between 1 and 31; found 32"):
        analysis.neighbours_kept(moved, k=32)
    with pytest.raises(UserError, match="unknown domain 'sings'; did you mean 'signs'"):
        analysis.shift_length(moved, ["sings"])
    with pytest.raises(UserError, match="no domain is chosen"):
        analysis.class_separation(moved, [])
    with pytest.raises(UserError, match="unknown kind of map 'tsne'"):
        analysis.feature_map(moved, "tsne")
    with pytest.raises(
        UserError, match="unknown anchor placement 'center'; did you mean 'centred'"
    ):
        analysis.feature_map(moved, anchors="center")
    positions = analysis.feature_map(moved)
    with pytest.raises(UserError, match=r"96 images, k must be .* found 48"):
        analysis.map_quality(moved, positions, k=48)
    broken = frozen_features()
    broken["land"] = (broken["land"][0] * np.nan, broken["land"][1])
    with pytest.raises(
        UserError, match=r"'land' at stage 1 .* contain NaN or Inf: the training diverged"
    ):
        analysis.feature_map(planted_probes(frozen_features(), broken))
