"""On a GPU: precisions, determinism, resuming, loading ahead, attention, compilation, and torchrun with NCCL.

Every other test that uses the tiny backbone runs on a GPU with VLCL_TEST_DEVICE=cuda in the environment.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from small_methods import SMALL, reference_stream
from test_execution import picture_stream
from test_several_processes import HERE
from tiny import tiny_clip

from vlcl_toolkit.methods.dpw import prefixes
from vlcl_toolkit.methods.low_rank import branches
from vlcl_toolkit.methods.moe_adapters import experts
from vlcl_toolkit.training.checkpoint import CheckpointStore
from vlcl_toolkit.training.events import StepEvent, StopRun
from vlcl_toolkit.training.execution import Execution
from vlcl_toolkit.training.loop import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
METHODS = [name for name in SMALL if name != "zero_shot"]
every_method = pytest.mark.parametrize("method", METHODS)
reduced = pytest.mark.parametrize("precision", ["bf16", "fp16"])


def run_on(
    folder, method, *, device="cuda", precision="fp32", stream=None, callback=None, **execution
):
    return run(
        method,
        stream or reference_stream(),
        tiny_clip(device=device, precision=precision),
        out=folder,
        config=SMALL[method],
        progress=False,
        callback=callback,
        execution=Execution(**execution),
    )


def stop_at(step):
    def callback(event):
        if isinstance(event, StepEvent) and event.step == step:
            raise StopRun

    return callback


def losses(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def assert_same(one, other):
    for name in ("accuracy.csv", "history.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    saved = [CheckpointStore(folder / "checkpoints").load() for folder in (one, other)]
    for name, value in saved[0].tensors.items():
        assert torch.equal(value, saved[1].tensors[name]), name


def random_on_the_cpu(function, like):
    return function(like.shape).to(like)


@every_method
def test_losses_are_those_of_the_cpu(tmp_path, method, monkeypatch):
    for module in (experts, branches, prefixes):  # noise and dropout are drawn where they are used
        monkeypatch.setattr(module, "local_random", random_on_the_cpu)
    run_on(tmp_path / "gpu", method)
    run_on(tmp_path / "cpu", method, device="cpu")
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)


def start(folder, cases, options, *prefix):
    """Runs in a process of its own."""
    call = [sys.executable, *prefix, "distributed_runs.py", str(folder), cases, json.dumps(options)]
    environment = os.environ | {"VLCL_TEST_DEVICE": "cuda"}
    done = subprocess.run(
        call, cwd=HERE, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@every_method
def test_twice_is_identical(tmp_path, method):
    for folder in ("one", "two"):
        run_on(tmp_path / folder, method)
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@every_method
def test_strict_determinism_finds_nothing(tmp_path, method, precision):
    run_on(tmp_path, method, precision=precision, determinism="strict")


@reduced
@every_method
def test_reduced_precision_learns_from_the_same_start(tmp_path, method, precision):
    """Of fp16 the scale of the gradients is found first: the steps that overflow are left out."""
    for kind in ("fp32", precision):
        run_on(tmp_path / kind, method, precision=kind)
    found, expected = (losses(tmp_path / kind) for kind in (precision, "fp32"))
    assert found[:1] == pytest.approx(expected[:1], rel=2e-2)
    assert all(math.isfinite(loss) for loss in found)
    assert len(found) == len(expected)


@reduced
@every_method
def test_stopped_and_resumed_is_identical(tmp_path, method, precision):
    run_on(tmp_path / "whole", method, precision=precision)
    run_on(tmp_path / "parts", method, precision=precision, callback=stop_at(4))
    run_on(tmp_path / "parts", method, precision=precision)
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("method", ["finetune", "zscl", "moe_adapters", "diki"])
def test_images_loaded_ahead_into_pinned_memory(tmp_path, method):
    stream = replace(picture_stream(tmp_path), reference=reference_stream().reference)
    for workers in (0, 2):
        run_on(tmp_path / str(workers), method, stream=stream, workers=workers)
    assert_same(tmp_path / "0", tmp_path / "2")


@pytest.mark.parametrize("kind", ["math", "flash", "efficient"])
@pytest.mark.parametrize("method", ["finetune", "zscl", "moe_adapters", "diki"])
def test_attention_kernels_agree(tmp_path, method, kind):
    for name in ("auto", kind):
        run_on(tmp_path / name, method, precision="bf16", attention=name)
    found, expected = losses(tmp_path / kind), losses(tmp_path / "auto")
    assert found[:1] == pytest.approx(expected[:1], rel=2e-2)
    assert found == pytest.approx(expected, rel=0.25)  # the steps carry bf16's rounding on


@pytest.mark.parametrize("case", ["finetune", "zscl", "moe_adapters", "diki"])
def test_compiled_towers_agree(tmp_path, case):
    """In processes of their own: the shape annotations that tests check cannot be compiled."""
    for name, compiled in (("plain", False), ("compiled", True)):
        start(tmp_path / name, case, {"compile": compiled})
    found, expected = (losses(tmp_path / name / case) for name in ("compiled", "plain"))
    assert found == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_micro_batches_agree(tmp_path, precision):
    for parts in (1, 3):
        run_on(tmp_path / str(parts), "zscl", precision=precision, accumulate=parts)
    assert losses(tmp_path / "3") == pytest.approx(losses(tmp_path / "1"), rel=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_process_of_torchrun_takes_the_path_of_several(tmp_path, precision):
    """DDP, broadcasts and barriers over NCCL."""
    cases = ["finetune", "zscl", "moe_adapters", "diki"]
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
    for name, prefix in (("plain", ()), ("torchrun", launch)):
        start(tmp_path / name, ",".join(cases), {"precision": precision}, *prefix)
    for case in cases:
        found, expected = (losses(tmp_path / name / case) for name in ("torchrun", "plain"))
        assert found == pytest.approx(expected, rel=1e-3)
