"""Analysis of interference on cases with known answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP

from tests.test_probes import record
from tests.tiny import tiny_clip, tiny_stream
from vlcl_toolkit.analysis.interference import (
    attention_to_prompts,
    drift_by_block,
    lost_predictions,
)
from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.plotting.interference import (
    attention_lines,
    drift_heat,
    drift_lines,
    lost_prediction_bars,
)
from vlcl_toolkit.plotting.style import new_figure, to_png
from vlcl_toolkit.probes import ProbeConfig, Probes
from vlcl_toolkit.probes.recorder import Recorder
from vlcl_toolkit.training.checkpoint import CheckpointStore


def deep_clip() -> Clip:
    """A tiny random CLIP with four blocks in the image tower."""
    shallow = tiny_clip()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIP(
            embed_dim=16,
            vision_cfg={"image_size": 32, "patch_size": 16, "width": 64, "layers": 4},
            text_cfg={"vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
            quick_gelu=True,
        )
    return Clip(model, shallow.tokenizer, name="deep")


def test_drift_planted_in_block_3_is_found_in_block_3(tmp_path: Path):
    clip, stream = deep_clip(), tiny_stream()
    method = make_method("finetune", clip, {"iterations": 3, "warmup": 1})
    recorder = Recorder(method, stream, tmp_path, ProbeConfig())
    with method, torch.no_grad():
        mlp = clip.model.visual.transformer.resblocks[2].mlp.c_fc.weight
        mlp += 0.3 * torch.randn(mlp.shape, generator=torch.Generator().manual_seed(1))
        recorder.record(1)
    config = {"order": list(stream.names), "held_out": ["land"], "class_names": {}, "method": ""}
    probes = Probes.load(tmp_path, config)
    for position in ("class", "rest"):
        drift = drift_by_block(probes, position=position)
        assert (drift.loc[drift["block"] < 3, "relative_norm"] == 0).all()
        assert (drift.loc[drift["block"] >= 3, "relative_norm"] > 0).all()
        worst = drift.loc[drift.groupby("domain")["increase"].idxmax(), "block"]
        assert (worst == 3).all()
    drift = drift_by_block(probes)
    later = drift["block"].between(3, 4)
    assert (drift.loc[later, "cka"] < 1 - 1e-6).all()
    np.testing.assert_allclose(drift.loc[drift["block"].between(1, 2), "cka"], 1)
    assert (drift_by_block(probes, tower="text")["relative_norm"] == 0).all()
    moved = probes.parameter_distance()
    assert moved.loc[moved["from_frozen"] > 0, ["tower", "block"]].to_numpy().tolist() == [
        ["image", 3]
    ]


def test_swapping_one_tower_is_the_network_with_that_tower(tmp_path: Path):
    """Recorded features say what a network of one trained and one frozen tower really predicts."""
    result, clip = record("finetune", tmp_path), tiny_clip()
    checkpoint = CheckpointStore(tmp_path / "checkpoints").load()
    assert checkpoint is not None
    trained = {k.removeprefix("method."): v for k, v in checkpoint.tensors.items()}
    visual = {k.removeprefix("visual."): v for k, v in trained.items() if k.startswith("visual.")}
    clip.model.visual.load_state_dict(visual)  # the text tower stays frozen
    method = make_method("zero_shot", clip)
    for task in (*tiny_stream(), *tiny_stream().held_out):
        expected = method.predict(clip.eval_transform(task.test.images), task).argmax(1)
        found = result.probes.mixed_predictions(task.name, image_stage=2, text_stage=0)
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("method", ["finetune", "diki", "moe_adapters"])
def test_swapping_both_towers_back_restores_zero_shot(method: str, tmp_path: Path):
    result = record(method, tmp_path)
    probes = result.probes
    for name in probes.domains:
        images, classes = probes.image_features(0, name), probes.class_features(0, name)
        both = (images @ classes.T).argmax(axis=1)
        again = probes.mixed_predictions(name, image_stage=0, text_stage=0)
        assert both.tolist() == again.tolist()
        table = result.accuracy if name in result.accuracy else result.held_out
        assert 100 * (both == probes.labels(name)).mean() == pytest.approx(table[name].iloc[0])
    lost = lost_predictions(probes)
    assert lost.loc[lost["stage"] == 0, ["lost", "by_image", "by_text"]].eq(0).all(axis=None)
    parts = lost[["by_image", "by_text", "by_either", "by_both"]].sum(axis=1)
    np.testing.assert_allclose(parts, lost["lost"])
    kept = lost["zero_shot"] - lost["lost"]
    assert (kept <= lost["now"] + 1e-9).all()


def planted(image: np.ndarray, text: np.ndarray, frozen_image: np.ndarray) -> Probes:
    """Two classes, three images of class 0; stage 1 has these features."""
    frozen_text = np.eye(2)
    stages = {}
    for stage, (x, t) in enumerate([(frozen_image, frozen_text), (image, text)]):
        stages[stage] = {
            "labels/a": np.zeros(len(x), int),
            "image_features/a": x,
            "class_features/a": t,
            "logits/a": x @ t.T,
        }
    return Probes(stages, ["a"])


def test_lost_predictions_name_the_side_that_moved():
    right, wrong = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    frozen = np.stack([right, right, right, wrong])
    one_moved = np.stack([wrong, right, right, wrong])
    row = lost_predictions(planted(one_moved, np.eye(2), frozen)).iloc[-1]
    assert (row["zero_shot"], row["now"], row["lost"]) == (75, 50, 25)
    assert (row["by_image"], row["by_text"]) == (25, 0)
    row = lost_predictions(planted(frozen, np.eye(2)[::-1], frozen)).iloc[-1]
    assert (row["lost"], row["by_text"], row["by_image"]) == (75, 75, 0)
    # both sides turned around together answer as before
    row = lost_predictions(planted(frozen[:, ::-1], np.eye(2)[::-1], frozen)).iloc[-1]
    assert (row["lost"], row["image_moved"], row["text_moved"]) == (0, 25, 25)


def test_towers_are_mixed_with_the_frozen_ones_only():
    probes = planted(np.eye(2), np.eye(2), np.eye(2))
    with pytest.raises(UserError, match=r"must be 0 .*found 1 and 2"):
        probes.mixed_predictions("a", image_stage=1, text_stage=2)


def test_prompts_compared(tmp_path: Path):
    results = [record(name, tmp_path / name) for name in ("prefix_tuning", "diki")]
    table = attention_to_prompts(results)
    assert list(dict.fromkeys(table["method"])) == ["prefix_tuning", "diki"]
    with pytest.raises(UserError, match=r"'attention'.*--method finetune"):
        attention_to_prompts([record("finetune", tmp_path / "finetune")])
    probes = results[0].probes
    for draw, frame in (
        (drift_lines, drift_by_block(probes)),
        (drift_heat, drift_by_block(probes)),
        (lost_prediction_bars, lost_predictions(probes)),
        (attention_lines, table),
    ):
        figure, ax = new_figure()
        assert draw(frame, ax) is ax
        assert to_png(figure)
