"""The bench at a tiny size: it runs the real steps, and multiplies what it measured by the true numbers."""

import json

import pytest
import torch
from benchmarks.__main__ import bench
from benchmarks.material import noise_stream, noise_task
from benchmarks.measure import operations, peak_rate, side_by_side
from benchmarks.simulate import simulate
from benchmarks.steps import measure_steps
from tiny import tiny_clip

from vlcl_toolkit.cli import run_command
from vlcl_toolkit.methods.zscl.finetune import Finetune
from vlcl_toolkit.streams.splits import facts
from vlcl_toolkit.training.execution import Execution

pytestmark = pytest.mark.slow

TINY = ["--backbone", "random:ViT-B-16-quickgelu:depth=1,width=64,pixels=32,dim=16"]
QUICK = [*TINY, "--device", "cpu", "--steps", "2", "--scale", "0.0005"]
ALL = ["finetune", "zscl", "moe_adapters", "diki"]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_noise_has_the_true_numbers(clip):
    stream, known = noise_stream(clip), facts("mtil")
    assert list(stream.names) == known["orders"]["I"]
    assert sum(len(task.class_names) for task in stream) == 1201
    for task in stream:
        sizes = known["data_sets"][task.name]["sizes"]["zscl"]
        assert (len(task.train), len(task.test)) == (sizes["train"], sizes["test"])
        assert list(task.templates) == known["data_sets"][task.name]["templates"]
    assert len(stream.reference().images) == 100_000
    caltech = noise_task(clip, "Caltech101", "coop")
    assert (len(caltech.class_names), len(caltech.templates)) == (100, 1)
    assert len(caltech.validation) == 1649


def test_operations_of_a_product_are_counted():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert operations(lambda: a @ b) == 2 * 3 * 5 * 7
    assert peak_rate("fp32", torch.device("cpu"), repeats=1) > 1e8


def test_work_is_measured_in_turn():
    order = []
    side_by_side(lambda: order.append(1), lambda: order.append(2), torch.device("cpu"), repeats=2)
    assert order == [1, 2] * 3


@pytest.mark.parametrize("name", ALL)
def test_steps_of_every_method_are_measured(clip, name):
    options = {"batch_size": 6, "steps": 2, "peak": 1e12, "execution": Execution(), "scale": 1e-4}
    found = measure_steps(name, clip, **options)
    assert found["images_per_second"] == pytest.approx(6e3 / found["step_ms"])
    assert found["share_of_peak"] == pytest.approx(found["tflop"] / (found["step_ms"] / 1e3))
    assert found["peak_mib"] > 0
    assert clip.holder is None


@pytest.mark.parametrize("name", ALL)
def test_a_whole_run_is_extrapolated_with_the_true_numbers(clip, name):
    cost = simulate(name, clip, Execution(), steps=1, scale=2e-4, tasks=2)
    assert cost.steps == (2 * 1001 if name != "diki" else 20)
    assert cost.total == pytest.approx(sum(cost.by_task.values()), rel=0.5)
    assert cost.total > sum(cost.by_task.values())  # and the zero-shot row
    assert cost.measured > 0
    assert clip.holder is None


def test_the_command_adds_to_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = [*QUICK, "--methods", "finetune", "--batch-sizes", "4"]
    assert run_command(bench, ["steps", *quick, "--precisions", "fp32"]) == 0
    assert run_command(bench, ["steps", *quick, "--precisions", "bf16"]) == 0
    found = rows(tmp_path / "runs/bench/steps.jsonl")
    assert [row["precision"] for row in found] == ["fp32"] * 2 + ["bf16"] * 2
    assert found[0]["matmul_tflops"] > 0
    assert all("random:" in row["backbone"] for row in found)
    assert run_command(bench, ["mtil", *quick, "--tasks", "1", "--precisions", "fp32"]) == 0
    assert rows(tmp_path / "runs/bench/mtil.jsonl")[0]["hours"] > 0
    assert "added to" in capsys.readouterr().out


def test_savings_are_measured_beside_the_work_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(bench, ["savings", *QUICK, "--batch-sizes", "4"]) == 0
    found = {row["saving"]: row for row in rows(tmp_path / "runs/bench/savings.jsonl")}
    assert len(found) == 5
    for row in found.values():
        assert row["ratio"] == pytest.approx(row["without_ms"] / row["with_ms"])
    assert found["text tower only up to the end of the texts"]["ratio"] > 1.5


def test_what_does_not_fit_is_a_row_and_the_others_follow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loss = Finetune.loss

    def hungry(self, batch):
        if len(batch.images) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return loss(self, batch)

    monkeypatch.setattr(Finetune, "loss", hungry)
    arguments = ["--methods", "finetune", "--batch-sizes", "8", "4", "--precisions", "fp32"]
    assert run_command(bench, ["steps", *QUICK, *arguments]) == 0
    _, tried, fits = rows(tmp_path / "runs/bench/steps.jsonl")
    assert tried["problem"] == "out of memory"
    assert tried["step_ms"] is None
    assert fits["step_ms"] > 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--scale", "scale must be a number above 0 and at most 1"),
        ("--steps", "steps must be"),
    ],
)
def test_numbers_out_of_range_are_mistakes(option, message, capsys):
    assert run_command(bench, [option, "0"]) == 2
    assert message in capsys.readouterr().err


def test_the_backbone_of_the_bench_is_not_changed():
    clip = tiny_clip()
    before = clip.weights_sha256
    measure_steps("zscl", clip, batch_size=4, steps=1, peak=1.0, execution=Execution(), scale=1e-4)
    from vlcl_toolkit.clip.weights import hash_weights

    assert hash_weights(clip.model) == before
