"""Checkpoints: round trips of each part, damage found and named, locks."""

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from test_files import full_disk

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.seeds import derive_seed, local_seed, rng_state, seed_everything, set_rng_state
from vlcl_toolkit.training.checkpoint import (
    CheckpointStore,
    CheckpointWarning,
    RunLock,
    pack_optimizer,
    unpack_optimizer,
)


def fill(folder: Path, steps: range) -> None:
    store = CheckpointStore(folder)
    for step in steps:
        store.save(step, {"w": torch.full((100,), float(step))}, {"count": step})


def assert_loads(folder: Path, step: int) -> None:
    found = CheckpointStore(folder).load()
    assert found is not None
    assert (found.step, found.state) == (step, {"count": step})
    assert torch.equal(found.tensors["w"], torch.full((100,), float(step)))


# Round trips


def test_nothing_saved_is_none(tmp_path):
    assert CheckpointStore(tmp_path).load() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_return_bit_for_bit(tmp_path, dtype):
    tensors = {
        "matrix": torch.randn(3, 4).to(dtype),
        "transposed": torch.randn(3, 4).to(dtype).T,
        "scalar": torch.tensor(3).to(dtype),
        "empty": torch.empty(0, 2).to(dtype),
    }
    CheckpointStore(tmp_path).save(1, tensors, {})
    found = CheckpointStore(tmp_path).load()
    for name, value in tensors.items():
        assert found.tensors[name].dtype == dtype
        assert torch.equal(found.tensors[name], value)


def test_views_of_one_storage_are_saved(tmp_path):
    pool = torch.randn(4, 5)
    CheckpointStore(tmp_path).save(1, {"all": pool, "first": pool[0], "rest": pool[1:]}, {})
    found = CheckpointStore(tmp_path).load().tensors
    assert torch.equal(torch.cat([found["first"][None], found["rest"]]), pool)


def test_state_returns_exactly(tmp_path):
    state = {"lr": 0.1 + 0.2, "rows": [{"a": 1 / 3}], "none": None, "text": "ä"}
    CheckpointStore(tmp_path).save(1, {}, state)
    assert CheckpointStore(tmp_path).load().state == state


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
        lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1),
    ],
    ids=["adamw-fused", "adamw-amsgrad", "sgd-momentum", "sgd"],
)
def test_optimizer_goes_on_identically(tmp_path, make):
    def parameters():
        torch.manual_seed(0)
        return [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]

    def steps(optimizer, values, count):
        for step in range(count):
            optimizer.zero_grad()
            sum(((value - step) ** 3).sum() for value in values).backward()
            optimizer.step()

    whole, halves = parameters(), parameters()
    optimizer = make(whole)
    steps(optimizer, whole, 3)
    steps(optimizer, whole, 3)

    first = make(halves)
    steps(first, halves, 3)
    tensors, state = pack_optimizer(first)
    CheckpointStore(tmp_path).save(1, tensors, state)
    saved = CheckpointStore(tmp_path).load()
    second = make(halves)
    unpack_optimizer(second, saved.tensors, saved.state)
    steps(second, halves, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_generators_go_on_identically(tmp_path):
    def draw():
        return np.random.standard_normal(), torch.randn(()).item()  # noqa: NPY002

    seed_everything(derive_seed(1, "test"))
    draw()
    random.gauss(0, 1)  # keeps a second number for the next call
    tensors, values = rng_state()
    CheckpointStore(tmp_path).save(1, tensors, values)
    expected = [draw() for _ in range(3)]
    seed_everything(0)
    saved = CheckpointStore(tmp_path).load()
    set_rng_state(saved.tensors, saved.state)
    # Python's generator by its state: the type checker of the tests draws from it
    version, internal, gauss_next = random.getstate()
    assert [version, list(internal), gauss_next] == values["python"]
    assert [draw() for _ in range(3)] == expected


def test_a_local_seed_leaves_no_trace():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    with local_seed(5):
        inside = torch.randn(3)
    assert torch.equal(torch.randn(3), expected)
    with local_seed(5):
        assert torch.equal(torch.randn(3), inside)


def test_derived_seeds_are_fixed_and_different():
    assert derive_seed(0, "order") == 3273107889246686185
    assert len({derive_seed(a, b) for a in range(30) for b in range(30)}) == 900


# Generations and damage


def test_the_two_newest_generations_are_kept(tmp_path):
    fill(tmp_path, range(1, 6))
    names = sorted(path.name for path in tmp_path.iterdir())
    steps = ["step_4.safetensors", "step_5.safetensors"]
    assert names == ["manifest.json", "manifest.previous.json", *steps]
    assert_loads(tmp_path, 5)


def torn(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(content: bytes) -> bytes:
    return b""


def flipped_at(position: float):
    def flip(content: bytes) -> bytes:
        index = int(position * (len(content) - 1))
        return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]

    return flip


DAMAGES = [torn, empty, *(flipped_at(p) for p in (0, 0.1, 0.5, 0.9, 1))]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("file", "left"), [("step_3.safetensors", 2), ("manifest.json", 2)])
def test_damage_is_named_and_the_state_before_is_used(tmp_path, file, left, damage):
    fill(tmp_path, range(1, 4))
    path = tmp_path / file
    path.write_bytes(damage(path.read_bytes()))
    expected = f"{file} is damaged; going on from step {left}"
    with pytest.warns(CheckpointWarning, match=expected):
        assert_loads(tmp_path, left)


@pytest.mark.parametrize("file", ["step_3.safetensors", "manifest.json"])
def test_a_missing_file_is_named_and_the_state_before_is_used(tmp_path, file):
    fill(tmp_path, range(1, 4))
    (tmp_path / file).unlink()
    with pytest.warns(CheckpointWarning, match=f"{file} is missing; going on from step 2"):
        assert_loads(tmp_path, 2)


def test_damage_to_what_is_not_needed_is_no_concern(tmp_path):
    fill(tmp_path, range(1, 4))
    (tmp_path / "manifest.previous.json").write_bytes(b"{")
    (tmp_path / "step_2.safetensors").unlink()
    assert_loads(tmp_path, 3)


def test_saving_goes_on_after_damage(tmp_path):
    fill(tmp_path, range(1, 4))
    (tmp_path / "step_3.safetensors").write_bytes(b"torn")
    store = CheckpointStore(tmp_path)
    with pytest.warns(CheckpointWarning):
        assert store.load().step == 2
    store.save(3, {"w": torch.full((100,), 3.0)}, {"count": 3})
    assert_loads(tmp_path, 3)
    (tmp_path / "step_3.safetensors").write_bytes(b"torn again")
    with pytest.warns(CheckpointWarning):
        assert_loads(tmp_path, 2)


def test_a_folder_of_a_checkpoint_s_name_stays_and_saving_goes_on(tmp_path):
    fill(tmp_path, range(1, 4))
    (tmp_path / "step_4.safetensors").mkdir()
    for last in (4, 6):
        fill(tmp_path, range(4, last + 1))
        assert_loads(tmp_path, last)
    assert (tmp_path / "step_4.safetensors").is_dir()


def test_nothing_intact_is_an_error_that_names_every_file(tmp_path):
    fill(tmp_path, range(1, 4))
    for step in (2, 3):
        (tmp_path / f"step_{step}.safetensors").write_bytes(b"torn")
    with pytest.raises(
        UserError, match=r"step_3\.safetensors is damaged.*step_2\.safetensors is dam"
    ):
        CheckpointStore(tmp_path).load()


def test_lost_manifests_are_an_error(tmp_path):
    fill(tmp_path, range(1, 4))
    for path in tmp_path.glob("manifest*"):
        path.unlink()
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        CheckpointStore(tmp_path).load()


def test_a_first_save_that_was_killed_counts_as_nothing(tmp_path):
    fill(tmp_path, range(1, 2))
    (tmp_path / "manifest.json").unlink()
    assert CheckpointStore(tmp_path).load() is None


def test_full_disk_keeps_the_earlier_generations(tmp_path):
    fill(tmp_path, range(1, 4))
    store = CheckpointStore(tmp_path)
    store.load()
    with full_disk(2000), pytest.raises(UserError, match=r"cannot write .*step_4\.safetensors"):
        store.save(4, {"w": torch.zeros(10_000)}, {})
    assert_loads(tmp_path, 3)


@pytest.mark.parametrize("crash_at", range(5))
def test_a_crash_between_any_two_files_loses_at_most_one_generation(
    tmp_path, monkeypatch, crash_at
):
    import vlcl_toolkit.files as files

    fill(tmp_path, range(1, 4))
    store = CheckpointStore(tmp_path)
    store.load()
    replace, calls = files.os.replace, []

    def crash(source, target):
        if len(calls) == crash_at:
            raise ZeroDivisionError("crash")
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", crash)
    try:
        store.save(4, {"w": torch.full((100,), 4.0)}, {"count": 4})
        survived = 4
    except ZeroDivisionError:
        survived = 3
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such a state is whole, not damaged
        assert_loads(tmp_path, survived)


def test_the_manifest_holds_a_hash_of_each_file(tmp_path):
    from vlcl_toolkit.files import sha256_of

    fill(tmp_path, range(1, 3))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for entry in manifest["generations"]:
        assert sha256_of(tmp_path / entry["file"]) == entry["sha256"]


# Locks


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with RunLock(tmp_path), pytest.raises(UserError, match="another run is writing to"):
        RunLock(tmp_path).__enter__()
    with RunLock(tmp_path):
        pass
