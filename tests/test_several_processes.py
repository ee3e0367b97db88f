"""Two processes under torchrun, and micro-batches, give what one process gives at once.

Tolerance: sums in float32 come in another order, and the steps carry the difference on; how far depends
on the case and on the CPU. So it is measured here: by how far, up to each step, three runs of one
process in float32 are from the same run in float64. The first of them is compared with other ways of
computing it; the other two start from weights one rounding away, because a single run may be close
by chance. Two runs as far from float64, in opposite directions, differ by twice that distance; allowed
are four times, and FLOOR, the rounding of a single loss.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from distributed_runs import CASES, main, stream_of
from in_float64 import run_in_float64, run_rounded
from tiny import tiny_clip

from vlcl_toolkit.methods import make_method
from vlcl_toolkit.sharding import BatchSharding, shard_bounds
from vlcl_toolkit.training.devices import Devices
from vlcl_toolkit.training.execution import Execution
from vlcl_toolkit.training.loader import load_step

HERE = Path(__file__).parent
TIMES, FLOOR = 4, 16 * torch.finfo(torch.float32).eps
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def launch(*arguments: object, folder: Path = HERE) -> subprocess.CompletedProcess:
    """Two processes with one thread each."""
    command = [*LAUNCH, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def run_two(folder: Path, cases: list[str], **options: object) -> None:
    """As `main`, in two processes."""
    done = launch("distributed_runs.py", folder, ",".join(cases), json.dumps(options))
    assert done.returncode == 0, done.stderr


def read_history(folder: Path, case: str) -> list[dict]:
    """The terms of the loss at every step."""
    return [json.loads(line) for line in (folder / case / "history.jsonl").read_text().splitlines()]


class Measured(NamedTuple):
    """Folders of the runs by which rounding is measured."""

    in_float64: Path
    one: Path
    others: list[Path]

    def rounding(self, case: str) -> list[dict[str, float]]:
        """By step and term: the largest relative distance from float64 until then."""
        runs = [read_history(folder, case) for folder in (self.one, *self.others)]
        largest = dict.fromkeys(runs[0][0].keys() - {"task", "step"}, 0.0)
        found = []
        for exact, *losses in zip(read_history(self.in_float64, case), *runs, strict=True):
            for name in largest:
                distance = max(abs(loss[name] - exact[name]) for loss in losses)
                largest[name] = max(largest[name], distance / (abs(exact[name]) or 1))
            found.append(dict(largest))
        return found

    def assert_near(self, folder: Path, case: str) -> None:
        """`folder` has the same steps and accuracies, and the same losses up to rounding."""
        steps = zip(read_history(folder, case), read_history(self.one, case), strict=True)
        for (found, one), rounding in zip(steps, self.rounding(case), strict=True):
            assert (found["task"], found["step"]) == (one["task"], one["step"])
            for name, distance in rounding.items():
                allowed = TIMES * distance + FLOOR
                assert found[name] == pytest.approx(one[name], rel=allowed, abs=0), (name, one)
        tables = [(f / case / "accuracy.csv").read_text() for f in (folder, self.one)]
        assert tables[0] == tables[1]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Every case by one process."""
    folder = tmp_path_factory.mktemp("one")
    main(folder, list(CASES), {})
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Every case by two."""
    folder = tmp_path_factory.mktemp("two")
    run_two(folder, list(CASES))
    return folder


@pytest.fixture(scope="module")
def measured(one, tmp_path_factory):
    """What rounding is measured by."""
    exact, *others = (tmp_path_factory.mktemp(name) for name in ("float64", "first", "second"))
    run_in_float64(exact, list(CASES))
    for seed, folder in enumerate(others):
        run_rounded(folder, list(CASES), seed)
    return Measured(exact, one, others)


@pytest.mark.parametrize("case", CASES)
def test_float32_gives_the_trajectory_of_float64(case, measured):
    """Within 1 % at the last step: else what the tests below allow would mean little."""
    assert max(measured.rounding(case)[-1].values()) < 1e-2


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_trajectory_of_one(case, measured, two):
    measured.assert_near(two, case)


def test_the_files_are_those_of_one_process(one, two):
    for case in CASES:
        configs = [(f / case / "config.json").read_bytes() for f in (one, two)]
        assert configs[0] == configs[1]
        assert {p.name for p in (two / case).iterdir()} == {p.name for p in (one / case).iterdir()}


RESUMED = ["finetune", "zscl", "moe_adapters", "diki"]


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_one(measured, tmp_path):
    run_two(tmp_path, RESUMED, stop=5)
    for case in RESUMED:
        assert not json.loads((tmp_path / case / "result.json").read_text())["complete"]
    main(tmp_path, RESUMED, {})
    for case in RESUMED:
        measured.assert_near(tmp_path, case)


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_two_in_micro_batches(measured, tmp_path):
    main(tmp_path, RESUMED, {"stop": 4})
    run_two(tmp_path, RESUMED, accumulate=2)
    for case in RESUMED:
        measured.assert_near(tmp_path, case)


# Micro-batches


def gradients(case: str, micro_batches: int) -> list[tuple[dict, dict]]:
    """Gradients and terms of three steps; the weights are away from where methods start them."""
    name, settings = CASES[case]
    method, stream = make_method(name, tiny_clip(), settings), stream_of(name)
    generator = torch.Generator().manual_seed(0)
    with method:
        method.enter_stream(stream)
        method.enter_task(0, stream[0])
        torch.manual_seed(0)
        method.begin_task(0, stream[0], generator)
        trained = method.trainable()
        with torch.no_grad():
            for value in trained.values():
                value.add_(torch.randn(value.shape, generator=generator), alpha=1e-2)
        devices, found = Devices(tiny_clip(), Execution(accumulate=micro_batches)), []
        for step in range(3):
            for value in trained.values():
                value.grad = None
            terms = devices.backward(method, load_step(method, stream[0], step, 0))
            grads = {n: v.grad.clone() for n, v in trained.items() if v.grad is not None}
            counts = {n: v for n, v in method.state_dict().items() if n.endswith(".count")}
            found.append((grads, terms | {n: v.clone() for n, v in counts.items()}))
    return found


@pytest.mark.parametrize("micro_batches", [2, 3, 50])
@pytest.mark.parametrize("case", CASES)
def test_micro_batches_give_the_gradient_of_the_batch(case, micro_batches):
    """Also which experts have none, what was counted, and every term of the loss."""
    for (whole, terms), (parts, same) in zip(
        gradients(case, 1), gradients(case, micro_batches), strict=True
    ):
        assert parts.keys() == whole.keys()
        largest = max(float(value.abs().max()) for value in whole.values())
        for name, value in whole.items():
            size = float(value.abs().max())
            torch.testing.assert_close(
                parts[name], value, rtol=0, atol=1e-5 * size + 1e-8 * largest, msg=name
            )
        for name, value in terms.items():
            torch.testing.assert_close(same[name], value, rtol=1e-6, atol=0)


def test_micro_batches_train_as_the_batch_does(measured, tmp_path):
    main(tmp_path, ["finetune", "zscl", "moe_adapters"], {"accumulate": 3})
    for case in ("finetune", "zscl", "moe_adapters"):
        measured.assert_near(tmp_path, case)


def test_a_micro_batch_keeps_only_its_own_graph(clip, stream):
    """Memory that a forward pass keeps for the backward pass."""
    method = make_method("finetune", clip, {"batch_size": 16, "iterations": 6, "warmup": 1})
    saved = {}
    for count in (1, 4):
        with method:
            method.enter_task(0, stream[0])
            batch = load_step(method, stream[0], 0, 0)
            devices, held, most = Devices(clip, Execution(accumulate=count)), [0], [0]

            def pack(value, held=held, most=most):
                held[0] += value.nbytes
                most[0] = max(most[0], held[0])
                return value

            def unpack(value, held=held):
                held[0] -= value.nbytes
                return value

            with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                devices.backward(method, batch)
            saved[count] = most[0]
    assert saved[4] < 0.6 * saved[1]  # the few texts are computed with every micro-batch


# The rule of sharding


@pytest.mark.parametrize("total", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("micro_batches", [1, 2, 5])
def test_the_mean_over_parts_counts_every_row_once(total, world_size, micro_batches):
    """With the factor that the gradient of own rows gets; rows that all compute have none."""
    weights, parts = [0.0] * total, 0
    for rank in range(world_size):
        sharding = BatchSharding(64, rank, world_size, micro_batches)
        for index in range(sharding.micro_batches):
            parts += 1
            with sharding.micro_batch(index):
                found = sharding.rows(total)
            local = range(total)[found.in_batch]
            assert local == range(total)[sharding.local_rows(total)][found.in_rank]
            for row in local:
                weights[row] += found.ranks * found.micro_batches
    assert weights == [parts] * total


def test_parts_differ_by_one_at_most():
    sizes = [stop - start for start, stop in (shard_bounds(7, i, 3) for i in range(3))]
    assert sorted(sizes) == [2, 2, 3]


def test_images_that_belong_to_no_part_are_refused():
    sharding = BatchSharding(8, 0, 2)
    with pytest.raises(ValueError, match="rank 0 of 2 has 4 of 8 rows; found 8"):
        sharding.run(lambda rows: rows, torch.zeros(8, 2), 8)


# The command line


@pytest.mark.slow
def test_one_process_of_two_speaks_and_writes(tmp_path):
    command = ["-m", "vlcl_toolkit.cli", "run", "--method", "finetune", "--tasks", "digits"]
    settings = ["--device", "cpu", "--set", "iterations=2", "warmup=1", "--out", "run"]
    done = launch(*command, *settings, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finetune on mini") == 1
    assert done.stderr.count("zero-shot:   0%") == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["complete"]
    again = launch(*command, *settings, "--seed", "3", folder=tmp_path)
    assert again.returncode == 1  # torchrun's; the command's own is 2
    assert again.stderr.count("belongs to a run with another seed: 0 there, 3 here") == 1
