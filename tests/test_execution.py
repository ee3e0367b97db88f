"""How a run computes changes no result: loading processes, logging, attention, compilation; and what cannot be had."""

import json
import threading
from dataclasses import replace

import pytest
import torch
from PIL import Image
from small_methods import reference_stream
from tiny import SETTINGS, tiny_clip, tiny_stream

from vlcl_toolkit.cli import main
from vlcl_toolkit.clip import model as clip_module
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.experiments.jobs import jobs_at_once
from vlcl_toolkit.methods.zscl.finetune import Finetune
from vlcl_toolkit.sharding import ProcessGroup
from vlcl_toolkit.streams import Task, TaskStream
from vlcl_toolkit.streams.pictures import FilePictures, PictureData
from vlcl_toolkit.training import backends
from vlcl_toolkit.training import devices as devices_module
from vlcl_toolkit.training.checkpoint import CheckpointStore
from vlcl_toolkit.training.events import StepEvent, StopRun
from vlcl_toolkit.training.execution import Execution
from vlcl_toolkit.training.loader import load_step
from vlcl_toolkit.training.loop import run


def run_tiny(folder, *, method="finetune", stream=None, clip=None, callback=None, **execution):
    return run(
        method,
        stream or tiny_stream(),
        clip or tiny_clip(),
        out=folder,
        config=SETTINGS,
        progress=False,
        callback=callback,
        execution=Execution(**execution),
    )


def assert_same_bytes(one, other):
    for name in ("accuracy.csv", "history.jsonl", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run that the others are compared with."""
    folder = tmp_path_factory.mktemp("plain")
    run_tiny(folder)
    return folder


# Loading


def picture_stream(folder) -> TaskStream:
    """The tiny stream as files of different sizes, so that crops differ from image to image."""
    tasks = []
    for task in tiny_stream():
        parts = []
        for split in ("train", "validation", "test"):
            data = getattr(task, split)
            names = [f"{task.name}-{split}-{i}.png" for i in range(len(data))]
            for i, name in enumerate(names):
                image = Image.fromarray(data.images[i].permute(1, 2, 0).numpy())
                image.resize((40 + i, 36)).save(folder / name)
            parts.append(PictureData(FilePictures(folder, names), data.labels))
        tasks.append(Task(task.name, task.class_names, task.templates, *parts))
    return TaskStream("tiny-files", tuple(tasks), "random-1")


@pytest.mark.parametrize(("method", "workers"), [("finetune", 1), ("finetune", 2), ("zscl", 1)])
def test_loading_processes_change_no_byte(tmp_path, method, workers):
    stream = replace(picture_stream(tmp_path), reference=reference_stream().reference)
    run_tiny(tmp_path / "here", stream=stream, method=method)
    run_tiny(tmp_path / "ahead", stream=stream, method=method, workers=workers)
    assert_same_bytes(tmp_path / "here", tmp_path / "ahead")


def test_test_images_are_decoded_by_threads(tmp_path, monkeypatch):
    names, original = set(), FilePictures.__getitem__

    def noted(self, index):
        names.add(threading.current_thread().name.split("_")[0])
        return original(self, index)

    monkeypatch.setattr(FilePictures, "__getitem__", noted)
    run_tiny(tmp_path / "run", stream=picture_stream(tmp_path), workers=2)
    assert "MainThread" not in names  # training images were decoded by processes
    assert names


def test_a_run_goes_on_with_another_number_of_loading_processes(tmp_path, plain):
    def stop(event):
        if isinstance(event, StepEvent) and event.step == 4:
            raise StopRun

    assert not run_tiny(tmp_path, callback=stop, workers=2).complete
    run_tiny(tmp_path)
    assert_same_bytes(tmp_path, plain)


def test_an_image_that_cannot_be_read_is_named_from_a_loading_process(tmp_path):
    stream = picture_stream(tmp_path)
    path = tmp_path / "pets-train-3.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"cannot read the image .*pets-train-3\.png") as error:
        run_tiny(tmp_path / "run", stream=stream, workers=2)
    assert "\n" not in str(error.value)


# Logging


@pytest.mark.parametrize("log_every", [2, 5, 100])
def test_looking_at_losses_less_often_changes_no_byte(tmp_path, plain, log_every):
    steps = []
    run_tiny(
        tmp_path,
        log_every=log_every,
        callback=lambda e: steps.append(e.step) if isinstance(e, StepEvent) else None,
    )
    assert_same_bytes(tmp_path, plain)
    assert steps == [*range(7), *range(7)]


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_diverged_loss_is_found_before_it_is_saved(tmp_path):
    settings = SETTINGS | {"learning_rate": 1e30}
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d of 'pets'; lower"):
        run(
            "finetune",
            tiny_stream(),
            tiny_clip(),
            out=tmp_path,
            config=settings,
            progress=False,
            execution=Execution(log_every=100, checkpoint_minutes=0),
        )
    saved = CheckpointStore(tmp_path / "checkpoints").load()
    assert saved is None or all(v.isfinite().all() for v in saved.tensors.values())


def test_a_step_asks_the_device_for_no_number(clip, stream, monkeypatch):
    """Every look at a value (`item`, `float`, `bool`) waits for a GPU."""
    from vlcl_toolkit.methods import make_method
    from vlcl_toolkit.training.devices import Devices
    from vlcl_toolkit.training.loop import train_step

    asked = []
    for name in ("item", "__float__", "__int__", "__bool__", "tolist"):
        original = getattr(torch.Tensor, name)

        def count(self, name=name, original=original):
            asked.append(name)
            return original(self)

        monkeypatch.setattr(torch.Tensor, name, count)
    cases = {
        "finetune": SETTINGS,
        "zscl": SETTINGS | {"average_every": 2},
        "diki": {"shrinkage": "auto", "select_epoch": False},
    }
    for name, settings in cases.items():
        with make_method(name, clip, settings) as method:
            method.enter_stream(reference_stream())
            method.enter_task(0, stream[0])
            method.begin_task(0, stream[0], torch.Generator())
            optimizer = method.optimizer(list(method.trainable().values()))
            for step in range(3):
                batch = load_step(method, stream[0], step, 0)  # crops, on the CPU
                asked.clear()
                terms = train_step(method, optimizer, batch, Devices(clip))
            assert asked == [], name
            assert terms["loss"].ndim == 0


# Attention, compilation


def assert_losses_near(folder, plain):
    found, expected = (
        [json.loads(line)["loss"] for line in (f / "history.jsonl").read_text().splitlines()]
        for f in (folder, plain)
    )
    assert found == pytest.approx(expected, rel=1e-4)


def test_other_attention_agrees(tmp_path, plain):
    run_tiny(tmp_path, attention="math", determinism="strict")
    assert_losses_near(tmp_path, plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at every tensor it meets
def test_compiled_towers_agree(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(backends, "COMPILER", "eager")  # traced, not translated: seconds
    clip = tiny_clip()
    run_tiny(tmp_path, clip=clip, compile=True)
    assert clip.model.visual._compiled_call_impl is None
    assert_losses_near(tmp_path, plain)


# What cannot be had


def test_more_devices_than_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(devices_module.os, "cpu_count", lambda: 8)
    with pytest.raises(UserError, match=r"2 devices need 2 processes; found 1; .*torchrun"):
        run_tiny(tmp_path, devices=2)
    monkeypatch.setattr(devices_module.os, "cpu_count", lambda: 1)
    with pytest.raises(UserError, match="2 devices asked for; this machine has 1 CPU core"):
        run_tiny(tmp_path, devices=2)
    assert not list(tmp_path.iterdir())


def test_two_gpus_asked_for_and_one_there(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    there = devices_module._other_count(2, 1, torch.device("cuda"))
    assert there == "2 devices asked for; this machine has 1 GPU(s); lower --devices"
    monkeypatch.setattr(clip_module, "process_group", lambda: ProcessGroup(1, 2, 1, 2))
    with pytest.raises(UserError, match="2 processes on this machine need as many GPUs; found 1"):
        clip_module.find_device("cuda")


@pytest.mark.parametrize(
    ("precision", "capability", "message"),
    [
        ("bf16", (7, 0), "bf16 needs a GPU of compute capability 8.0 or newer; cuda has 7.0; use"),
        ("fp16", (5, 0), "fp16 needs a GPU of compute capability 5.3 or newer; cuda has 5.0; use"),
        ("bf16", (8, 0), None),
        ("fp16", (7, 0), None),
        ("fp32", (3, 5), None),
    ],
)
def test_a_precision_that_the_gpu_has_not(precision, capability, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if message is None:
        clip_module._check_precision(precision, torch.device("cuda"))
        return
    with pytest.raises(UserError, match=message):
        clip_module._check_precision(precision, torch.device("cuda"))


class Hungry(Finetune):
    """A method that needs more memory than there is."""

    name = "hungry"

    def loss(self, batch):
        if batch.step == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")
        return super().loss(batch)


def test_out_of_memory_says_what_to_lower(tmp_path):
    with pytest.raises(UserError, match=r"ran out of memory .*Tried to allocate 9 GiB") as error:
        run_tiny(tmp_path, method=Hungry, checkpoint_minutes=0)
    message = str(error.value)
    assert "\n" not in message
    for advice in ("--accumulate", "--precision bf16", "batch_size"):
        assert advice in message
    assert error.value.of_one_process
    assert CheckpointStore(tmp_path / "checkpoints").load().state["progress"]["step"] == 4


def test_a_process_that_runs_out_of_memory_alone_tells(monkeypatch, capsys):
    """Of several processes the first one speaks, but not about what only another one knows."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("RANK", "1")
    for alone, spoken in ((True, 1), (False, 0)):

        def fail(alone: bool = alone) -> None:
            raise UserError("no memory", of_one_process=alone)

        monkeypatch.setattr("vlcl_toolkit.cli.commands.COMMANDS", {"fail": fail})
        assert main(["fail"]) == 2
        assert capsys.readouterr().err.count("vlcl: no memory") == spoken


def test_processes_of_torchrun_share_one_run(monkeypatch, clip):
    monkeypatch.setattr("vlcl_toolkit.sharding.process_group", lambda: ProcessGroup(0, 2, 0, 2))
    with pytest.raises(UserError, match="torchrun started 2 processes, which share one run"):
        jobs_at_once(clip, 4)


def test_one_gpu_named_for_several_processes_is_refused(clip, monkeypatch):
    monkeypatch.setattr(devices_module, "process_group", lambda: ProcessGroup(1, 2, 1, 2))
    clip.device = torch.device("cuda:0")
    with pytest.raises(UserError, match="a GPU of its own; found --device cuda:0 for all of them"):
        devices_module.Devices(clip)


def test_a_run_of_another_kind_of_device_or_precision_is_refused(tmp_path, plain):
    config = json.loads((plain / "config.json").read_text())
    del config["sha256"]  # the seal of what the run wrote
    for key, other in (("device", "cuda"), ("precision", "bf16")):
        folder = tmp_path / key
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config | {key: other}))
        message = f"another {key}: '{other}' there, '{config[key]}' here; choose another output"
        with pytest.raises(UserError, match=message):
            run_tiny(folder)
