"""What a run records, and that recording changes nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import SETTINGS, tiny_clip, tiny_stream
from vlcl_toolkit import StopRun
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.probes import ProbeConfig, Probes
from vlcl_toolkit.probes.activations import cosine, linear_cka, relative_norm
from vlcl_toolkit.probes.config import spread_over_classes
from vlcl_toolkit.training.events import StepEvent
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.training.results import RunResult

PROMPTS = {"epochs": 2, "batch_size": 8, "shrinkage": "auto", "depth_text": 1}
CONFIGS = {
    "finetune": SETTINGS,
    "zscl": SETTINGS | {"reference_images": "none", "reference_texts": "task_prompts"},
    "diki": PROMPTS,
    "prefix_tuning": PROMPTS,
    "moe_adapters": SETTINGS
    | {
        "selector_features": "clip",
        "selector_reference": False,
        "selector_iterations": 5,
        "experts": 4,
        "bottleneck": 8,
        "threshold": 0.0128,
    },
}
"""Settings with which every method learns the tiny stream in moments."""


def record(method: str, folder: Path | None, **options: object) -> RunResult:
    """A tiny run with probes."""
    options = {"probes": True, "progress": False} | options
    return run(method, tiny_stream(), tiny_clip(), config=CONFIGS[method], out=folder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "probes").iterdir())}


@pytest.fixture(scope="module", params=CONFIGS)
def recorded_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return record(request.param, tmp_path_factory.mktemp(request.param))


def test_probing_changes_no_number(recorded_run: RunResult, tmp_path: Path):
    plain = record(recorded_run.method, tmp_path, probes=False)
    for name in ("accuracy.csv", "history.jsonl", "config.json"):
        assert (tmp_path / name).read_bytes() == (recorded_run.folder / name).read_bytes()
    assert not (tmp_path / "probes").exists()
    assert "probes" not in plain.seconds
    assert recorded_run.seconds["probes"] > 0


@pytest.mark.parametrize("method", ["dpw", "rail", "lora", "keeplora", "nusa_cl"])
def test_the_other_methods_can_be_probed(method, tmp_path):
    from small_methods import SMALL  # not where this file is imported by another process

    folders = tmp_path / "probed", tmp_path / "plain"
    options = {"config": SMALL[method], "progress": False}
    for folder in folders:
        options |= {"out": folder, "probes": folder is folders[0]}
        result = run(method, tiny_stream(), tiny_clip(), **options)
    for name in ("accuracy.csv", "history.jsonl"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    probes = RunResult.load(folders[0]).probes
    assert probes.stages == [0, 1, 2]
    assert set(probes.drift()["tower"]) == {"image", "text"}
    frozen, learned = (probes.logits(stage, "pets") for stage in (0, 2))
    assert (frozen != learned).any()
    last = 100 * (probes.logits(2, "pets").argmax(1) == probes.labels("pets")).mean()
    assert last == pytest.approx(result.accuracy["pets"].iloc[2])


def test_a_resumed_run_records_the_same(recorded_run: RunResult, tmp_path: Path):
    """Stopped in both tasks, and once after a step was recorded but before it was saved."""
    stops = iter([4, 9, None])

    def stop_at(step: int | None):
        seen = []

        def listen(event: object) -> None:
            if isinstance(event, StepEvent):
                seen.append(event)
                if len(seen) == step:
                    raise StopRun

        return listen

    result = None
    for step in stops:
        result = record(recorded_run.method, tmp_path, callback=stop_at(step))
    assert result is not None
    assert result.complete
    assert contents(tmp_path) == contents(recorded_run.folder)
    assert sorted(contents(tmp_path)) == ["step_00.npz", "step_01.npz", "step_02.npz"]


def test_predictions_are_those_of_the_method(recorded_run: RunResult):
    """Of every method, recorded logits are what `predict` says of the same images."""
    stream, clip = tiny_stream(), tiny_clip()
    method = make_method(recorded_run.method, clip, CONFIGS[recorded_run.method])
    from vlcl_toolkit.training.checkpoint import CheckpointStore

    checkpoint = CheckpointStore(recorded_run.folder / "checkpoints").load()
    assert checkpoint is not None
    saved = checkpoint.tensors.items()
    with method:
        method.enter_stream(stream)
        method.load_state_dict(
            {k.removeprefix("method."): v for k, v in saved if k.startswith("method.")}
        )
        for task in (*stream, *stream.held_out):
            images = clip.eval_transform(task.test.images)
            expected = method.predict(images, task)
            found = torch.from_numpy(recorded_run.probes.logits(2, task.name))
            torch.testing.assert_close(found, expected)


def test_stage_zero_is_the_zero_shot_row(recorded_run: RunResult):
    probes = recorded_run.probes
    for name in probes.domains:
        correct = (probes.logits(0, name).argmax(1) == probes.labels(name)).mean()
        table = recorded_run.accuracy if name in recorded_run.accuracy else recorded_run.held_out
        assert 100 * correct == pytest.approx(table[name].iloc[0])


def test_tables(recorded_run: RunResult):
    probes = recorded_run.probes
    drift = probes.drift()
    assert set(drift["block"]) == {0, 1, 2}
    frozen = drift[drift["stage"] == 0]
    assert frozen["relative_norm"].eq(0).all()
    np.testing.assert_allclose(frozen["cosine"], 1)
    later = drift[(drift["stage"] == 2) & (drift["tower"] == "image") & (drift["block"] == 2)]
    assert later["relative_norm"].max() > 0
    assert set(drift["status"]) == {"unseen", "current", "learned", "held-out"}
    moved = probes.parameter_distance()
    assert (moved["from_previous"].groupby(moved["stage"]).sum() > 0).all()


def test_expert_tables(tmp_path: Path):
    probes = record("moe_adapters", tmp_path).probes
    routing = probes.routing()
    images = routing[(routing["tower"] == "image") & (routing["block"] == 1)]
    for (stage, domain), rows in images.groupby(["stage", "domain"]):
        routed = (probes.route(stage, domain) < stage).sum()  # the rest take the frozen CLIP
        assert rows["choices"].sum() <= 2 * routed
        assert rows["gate_mass"].sum() == pytest.approx(routed)
    assert probes.array(2, "expert_change/image").shape == (2, 4)
    # each task freezes two experts of a block: the second task cannot move them
    assert ((probes.array(2, "expert_change/image") == 0).sum(axis=1) >= 2).all()


def test_prompts_take_attention_from_tokens_only_when_prepended(tmp_path: Path):
    prefix = record("prefix_tuning", tmp_path / "prefix").probes.attention()
    assert prefix["share"].between(0, 1, inclusive="neither").all()
    diki = record("diki", tmp_path / "diki").probes.attention()
    assert (diki["share"] > 0).any()
    assert set(diki.loc[diki["tower"] == "text", "block"]) == {1}


def test_probes_never_cost_what_is_there_already(tmp_path: Path, monkeypatch):
    def content(folder: Path) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}

    few = ProbeConfig(images_per_domain=4)
    finished = record("finetune", tmp_path / "run", probes=False).folder
    before = content(finished)
    for probes in (True, few):
        with pytest.raises(UserError, match="holds a run without these probes"):
            record("finetune", finished, probes=probes)
    assert content(finished) == before
    monkeypatch.chdir(tmp_path)  # without a folder of the user's they get one of their own
    plain, first, second = (record("finetune", None, probes=p) for p in (False, True, few))
    assert len({plain.folder, first.folder, second.folder}) == 3
    assert first.probes.stages == second.probes.stages == [0, 1, 2]
    assert second.probes.labels("pets").shape == (4,)
    assert first.accuracy.equals(plain.accuracy)
    stamp = (first.folder / "result.json").stat().st_mtime_ns
    assert record("finetune", None).folder == first.folder
    assert (first.folder / "result.json").stat().st_mtime_ns == stamp  # it is only read


def test_an_interrupted_run_shows_what_it_has(tmp_path: Path):
    def stop(event: object) -> None:
        if isinstance(event, StepEvent) and event.task_index == 1:
            raise StopRun

    probes = record("finetune", tmp_path, callback=stop).probes
    assert probes.stages == [0, 1]
    with pytest.raises(UserError, match="probes of stages 0, 1; found stage 2"):
        probes.logits(2, "pets")


def test_missing_probes_name_probe_and_command(tmp_path: Path):
    result = record("finetune", tmp_path, probes=False)
    with pytest.raises(UserError, match="vlcl run --probes --method finetune"):
        _ = result.probes
    probes = Probes({0: {}, 1: {}}, ["a"], method="diki")
    with pytest.raises(UserError, match=r"'drift'.*vlcl run --probes --method diki"):
        probes.drift()
    with pytest.raises(UserError, match=r"'logits/a'.*--probes"):
        probes.logits(1, "a")
    with pytest.raises(UserError, match="unknown domain 'b'"):
        probes.logits(1, "b")


def test_a_damaged_file_is_named(tmp_path: Path):
    result = record("finetune", tmp_path)
    (tmp_path / "probes" / "step_01.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UserError, match=r"step_01\.npz is damaged"):
        RunResult.load(result.folder).probes.logits(1, "pets")


def test_a_killed_run_keeps_its_probes(tmp_path: Path):
    """SIGKILL between two steps of the second task; the same call goes on and records the same."""
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.test_probes import record\n"
        "def kill(event):\n"
        "    if getattr(event, 'task_index', 0) == 1 and getattr(event, 'step', 0) == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "record('diki', Path(sys.argv[1]), callback=kill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "killed")], check=False)
    assert killed.returncode == -9
    record("diki", tmp_path / "killed")
    record("diki", tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_lost_files_stop_a_resumed_run(tmp_path: Path):
    def stop(event: object) -> None:
        if isinstance(event, StepEvent) and event.task_index == 1:
            raise StopRun

    record("finetune", tmp_path, callback=stop)
    (tmp_path / "probes" / "weights_01.bin").unlink()
    with pytest.raises(UserError, match=r"weights_01.*vlcl run --probes --out"):
        record("finetune", tmp_path)
    shutil.rmtree(tmp_path / "probes")
    with pytest.raises(UserError, match=r"probes/step_00\.npz, probes/step_01\.npz missing"):
        record("finetune", tmp_path)
    assert (tmp_path / "checkpoints").is_dir()


# Measures with known answers.


def test_cka_of_a_rotated_copy_is_one():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(40, 8))
    rotation, _ = np.linalg.qr(draw.normal(size=(8, 8)))
    assert linear_cka(x, 3 * x @ rotation + draw.normal(size=8)) == pytest.approx(1)
    assert linear_cka(x, draw.normal(size=(40, 8))) < 0.5
    assert np.isnan(linear_cka(x, np.ones((40, 8))))


def test_cka_equals_its_definition():
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(30, 6)), draw.normal(size=(30, 4))
    y = y + x[:, :4]
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (np.linalg.norm(y.T @ x) ** 2) / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert linear_cka(x, y) == pytest.approx(expected)


def test_norm_and_cosine():
    frozen = np.array([[3.0, 4.0], [1.0, 0.0]])
    assert relative_norm(2 * frozen, frozen) == pytest.approx(1)
    assert cosine(2 * frozen, frozen) == pytest.approx(1)
    assert cosine(-frozen, frozen) == pytest.approx(-1)


def test_probe_images_are_spread_over_classes():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert spread_over_classes(labels, 4).tolist() == [0, 1, 3, 5]
    assert spread_over_classes(labels, 100).tolist() == list(range(6))
    with pytest.raises(UserError, match="images_per_domain"):
        ProbeConfig(images_per_domain=0)
