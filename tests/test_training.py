"""The loop: what a run leaves, that it repeats, and that nothing can hurt it."""

import inspect
import json
import multiprocessing
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import killed_run
import numpy as np
import pandas as pd
import pytest
import torch
from test_files import full_disk
from tiny import SETTINGS, ticking_clock, tiny_clip, tiny_stream

from vlcl_toolkit.clip.weights import hash_weights
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.training import session
from vlcl_toolkit.training.checkpoint import CheckpointStore, CheckpointWarning, RunLock
from vlcl_toolkit.training.events import DoneEvent, RowEvent, StepEvent, StopRun
from vlcl_toolkit.training.execution import Execution
from vlcl_toolkit.training.loop import run
from vlcl_toolkit.training.metrics import metrics
from vlcl_toolkit.training.results import RunResult

STEPS = 7  # of each of the two tasks


def run_tiny(folder, method="finetune", **options):
    """The run that every test here repeats, interrupts or damages."""
    defaults = {"config": SETTINGS, "progress": False}
    if method == "zero_shot":
        defaults.pop("config")
    stream, clip = options.pop("stream", tiny_stream()), options.pop("clip", tiny_clip())
    return run(method, stream, clip, out=folder, **(defaults | options))


@pytest.fixture(scope="module", autouse=True)
def checkpoints_after_every_third_step():
    """Of all runs here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "monotonic", ticking_clock())
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing interrupted."""
    return run_tiny(tmp_path_factory.mktemp("finished") / "run")


def assert_identical(folder, finished):
    """The files that must not depend on interruptions, byte for byte, and the other numbers."""
    for name in ("accuracy.csv", "history.jsonl", "config.json"):
        assert (folder / name).read_bytes() == (finished.folder / name).read_bytes(), name
    records = [json.loads((f / "result.json").read_text()) for f in (folder, finished.folder)]
    for record in records:
        del record["seconds"], record["peak_memory_mib"], record["sha256"]
    assert records[0] == records[1]
    weights = [CheckpointStore(f / "checkpoints").load() for f in (folder, finished.folder)]
    assert weights[0].tensors.keys() == weights[1].tensors.keys()
    for name, value in weights[0].tensors.items():
        assert torch.equal(value, weights[1].tensors[name]), name


# What a run leaves


def test_the_folder_is_as_promised(finished):
    names = sorted(path.name for path in finished.folder.iterdir())
    files = ["accuracy.csv", "checkpoints", "config.json", "history.jsonl", "result.json"]
    assert names == [".lock", *files]
    record = json.loads((finished.folder / "result.json").read_text())
    assert record.keys() == {
        *("method", "stream", "order", "seed", "zero_shot", "accuracy", "metrics", "held_out"),
        *("validation", "trainable_parameters", "total_parameters", "seconds"),
        *("metrics_defined_by", "peak_memory_mib", "complete", "files", "sha256"),
    }
    assert record["complete"] is True
    assert record["order"] == ["pets", "food"]
    assert np.shape(record["accuracy"]) == (2, 2)
    assert len(record["zero_shot"]) == len(record["validation"]) == 2
    assert record["held_out"].keys() == {"land"}
    assert len(record["held_out"]["land"]) == 3
    assert record["seconds"].keys() == {"train", "evaluate"}
    assert record["total_parameters"] - record["trainable_parameters"] == 1  # logit_scale


def test_the_config_names_everything_that_decides_a_number(finished):
    config = finished.config
    assert config["label_space"] == "task"
    assert config["decision"] == "sample"
    assert config["split_id"] == "random-1"
    assert config["templates"]["pets"] == ["a photo of a {}.", "art of the {}."]
    assert config["backbone"]["weights_sha256"] == tiny_clip().weights_sha256
    assert config["method_config"]["iterations"] == 6
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_result_reads_back(finished):
    table = pd.read_csv(finished.folder / "accuracy.csv", index_col="step")
    pd.testing.assert_frame_equal(table, finished.accuracy, check_names=False, atol=1e-4)
    assert list(finished.accuracy.index) == ["zero-shot", "after pets", "after food"]
    assert finished.metrics == metrics(finished.accuracy.to_numpy()[1:])
    assert list(finished.history) == ["task", "step", "learning_rate", "loss"]
    assert finished.history.groupby("task").size().to_dict() == {"pets": STEPS, "food": STEPS}
    assert finished.history["learning_rate"].iloc[-1] == 0
    assert finished.held_out.shape == (3, 1)
    assert "finetune on tiny" in repr(finished)


def test_the_tiny_run_learns(finished):
    assert finished.validation["food"] > finished.accuracy.loc["zero-shot", "food"]


def test_checkpoints_hold_only_what_was_trained(finished):
    tensors = CheckpointStore(finished.folder / "checkpoints").load().tensors
    trained = {name for name in tensors if name.startswith("method.")}
    assert "method.logit_scale" not in tensors
    assert len(trained) == len(list(tiny_clip().model.parameters())) - 1
    others = {name for name in tensors.keys() - trained if not name.startswith("rng.")}
    assert others == set(), "after the last task there is no optimiser to save"


def test_the_backbone_is_left_bit_identical(tmp_path):
    clip = tiny_clip()
    run_tiny(tmp_path, clip=clip)
    assert hash_weights(clip.model) == clip.weights_sha256
    assert clip.holder is None


def test_zero_shot_rows_are_constant(tmp_path, finished):
    result = run_tiny(tmp_path, "zero_shot")
    assert (result.accuracy == result.accuracy.iloc[0]).all(axis=None)
    pd.testing.assert_series_equal(result.accuracy.iloc[0], finished.accuracy.iloc[0])
    assert result.trainable_parameters == 0
    assert len(result.history) == 0


def test_one_task_alone_has_null_scores(tmp_path):
    result = run_tiny(tmp_path, stream=tiny_stream().subset(["food"]))
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["metrics"]["transfer"] is record["metrics"]["forgetting"] is None
    assert np.isnan(result.metrics["transfer"])
    assert result.metrics["last"] == result.metrics["average"]


def test_events_tell_the_whole_run(tmp_path):
    events = []
    result = run_tiny(tmp_path, callback=events.append)
    steps = [event for event in events if isinstance(event, StepEvent)]
    rows = [event for event in events if isinstance(event, RowEvent)]
    assert [(e.task_index, e.step) for e in steps] == [(t, s) for t in (0, 1) for s in range(STEPS)]
    assert {event.steps for event in steps} == {STEPS}
    assert [event.losses["loss"] for event in steps] == result.history["loss"].tolist()
    assert [(row.row_index, row.task_name) for row in rows] == [(0, None), (1, "pets"), (2, "food")]
    assert rows[0].accuracies.keys() == {"pets", "food", "land"}
    assert isinstance(events[-1], DoneEvent)
    assert events[-1].result is result


def test_searching_settings_measures_only_the_task_just_learned(tmp_path, finished):
    result = run_tiny(tmp_path, evaluate_all=False)
    known = result.accuracy.notna().to_numpy()
    assert known.tolist() == [[False, False], [True, False], [False, True]]
    pd.testing.assert_series_equal(result.validation, finished.validation)


def test_a_progress_bar_can_be_shown(tmp_path, capsys):
    run_tiny(tmp_path, progress=True)
    assert "14/14" in capsys.readouterr().err


def test_the_default_folder_tells_orders_and_settings_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [
        run_tiny(None, "zero_shot", stream=stream, seed=seed).folder
        for stream, seed in (
            (tiny_stream(), 0),
            (tiny_stream(), 1),
            (tiny_stream().reorder("1,0"), 0),
        )
    ]
    assert len(set(folders)) == 3
    assert all(folder.parts[:3] == ("runs", "tiny", "zero_shot") for folder in folders)
    order = [folder.name.split("-")[0] for folder in folders]
    assert order[0] == order[1] != order[2]


# Repeating


def test_the_same_call_gives_the_same_bytes(tmp_path, finished):
    np.random.seed(3)  # noqa: NPY002 (what was drawn before must not matter)
    torch.randn(5)
    run_tiny(tmp_path / "again")
    assert_identical(tmp_path / "again", finished)


def test_another_seed_gives_another_run(tmp_path, finished):
    other = run_tiny(tmp_path, seed=1)
    assert not other.history["loss"].equals(finished.history["loss"])


def test_a_finished_run_is_read_not_repeated(finished):
    events, before = [], (finished.folder / "result.json").stat().st_mtime_ns
    again = run_tiny(finished.folder, callback=events.append)
    assert [type(event) for event in events] == [DoneEvent]
    assert (finished.folder / "result.json").stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(again.accuracy, finished.accuracy)


# Interruptions


def stop_at(number, exception=StopRun):
    """A callback that raises at the event of that number."""
    left = [number]

    def callback(event):
        left[0] -= 1
        if left[0] < 0:
            raise exception

    return callback


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_resumes_identically_too(tmp_path, precision):
    """fp16 scales its gradients; the scale is part of the checkpoint."""
    for name, callback in (("whole", None), ("halves", stop_at(5)), ("halves", None)):
        run_tiny(tmp_path / name, clip=tiny_clip(precision=precision), callback=callback)
    whole = RunResult.load(tmp_path / "whole")
    assert whole.config["precision"] == precision
    assert_identical(tmp_path / "halves", whole)


@pytest.mark.parametrize("event", [0, 1, 3, 4, STEPS, STEPS + 1, STEPS + 2, 2 * STEPS + 1])
def test_stopped_and_resumed_is_identical(tmp_path, finished, event):
    part = run_tiny(tmp_path, callback=stop_at(event))
    assert not part.complete
    assert RunResult.load(tmp_path).accuracy.equals(part.accuracy)
    run_tiny(tmp_path)
    assert_identical(tmp_path, finished)


def test_stopped_many_times_is_identical(tmp_path, finished):
    for _ in range(30):
        # a resumed run first announces the rows that it has
        known = (
            len(RunResult.load(tmp_path).accuracy.dropna())
            if (tmp_path / "result.json").exists()
            else 1
        )
        if run_tiny(tmp_path, callback=stop_at(known + 1)).complete:
            break
    assert_identical(tmp_path, finished)


def test_an_interrupted_run_shows_what_it_has(tmp_path, finished):
    part = run_tiny(tmp_path, callback=stop_at(STEPS + 3))
    pd.testing.assert_frame_equal(part.accuracy.iloc[:2], finished.accuracy.iloc[:2])
    assert part.accuracy.iloc[2].isna().all()
    assert np.isnan(part.metrics["last"])
    assert part.validation.isna().tolist() == [False, True]
    assert "incomplete" in repr(part)


def test_ctrl_c_saves_and_is_raised(tmp_path, finished):
    def press(event):
        if isinstance(event, StepEvent) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    clip = tiny_clip()
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path, callback=press, clip=clip)
    assert signal.getsignal(signal.SIGINT) is handler
    assert hash_weights(clip.model) == clip.weights_sha256
    progress = CheckpointStore(tmp_path / "checkpoints").load().state["progress"]
    assert (progress["task_index"], progress["step"]) == (0, 5)
    run_tiny(tmp_path)
    assert_identical(tmp_path, finished)


def test_a_run_in_a_thread_works(tmp_path, finished):
    errors = []

    def target():
        try:
            run_tiny(tmp_path)
        except Exception as error:  # noqa: BLE001 (handed to the test)
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert errors == []
    assert_identical(tmp_path, finished)


def test_a_crash_goes_on_from_the_last_checkpoint(tmp_path, finished):
    with pytest.raises(ZeroDivisionError):
        run_tiny(tmp_path, callback=stop_at(5, ZeroDivisionError))
    progress = CheckpointStore(tmp_path / "checkpoints").load().state["progress"]
    assert progress["step"] == 3  # see `ticking_clock`
    run_tiny(tmp_path)
    assert_identical(tmp_path, finished)


@pytest.fixture(scope="module")
def processes():
    """Fresh processes that share their imports: starting one takes milliseconds, not seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vlcl_toolkit.training.loop"])
    return context


@pytest.fixture(scope="module")
def moments(tmp_path_factory):
    """Number of moments of an uninterrupted run at which it can be killed."""
    count, replace = [0], killed_run.files.os.replace

    def reached():
        count[0] += 1

    callback = killed_run.count_moments(reached)
    run_tiny(tmp_path_factory.mktemp("counted") / "run", callback=callback)
    killed_run.files.os.replace = replace
    return count[0]


def kill_at(processes, folder, moment):
    process = processes.Process(target=killed_run.run_until_killed, args=(str(folder), moment))
    process.start()
    process.join()
    return process.exitcode


def test_killed_anywhere_and_resumed_is_identical(tmp_path, finished, processes, moments):
    """SIGKILL during saves, steps and evaluations; every sixth of all moments."""
    for moment in range(0, moments - 1, 6):
        folder = tmp_path / str(moment)
        assert kill_at(processes, folder, moment) == -signal.SIGKILL
        run_tiny(folder)
        assert_identical(folder, finished)
        assert not list(folder.rglob(".*.tmp"))


def test_killed_again_and_again_is_identical(tmp_path, finished, processes):
    kills = 0
    while kill_at(processes, tmp_path, 11 + kills) == -signal.SIGKILL:
        kills += 1
    assert kills > 2
    assert_identical(tmp_path, finished)


def test_a_damaged_checkpoint_costs_steps_not_the_result(tmp_path, finished):
    run_tiny(tmp_path, callback=stop_at(8))
    newest = max(
        (tmp_path / "checkpoints").glob("step_*"), key=lambda path: path.stat().st_mtime_ns
    )
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(CheckpointWarning, match=f"{newest.name} is damaged"):
        run_tiny(tmp_path)
    assert_identical(tmp_path, finished)


def test_a_damaged_history_is_named(tmp_path):
    run_tiny(tmp_path, callback=stop_at(8))
    history = tmp_path / "history.jsonl"
    history.write_bytes(b"x" + history.read_bytes()[1:])
    with pytest.raises(UserError, match=r"history\.jsonl is damaged"):
        run_tiny(tmp_path)


@pytest.mark.parametrize(
    ("minutes", "positions"),
    [
        (0, [*range(2, 9), 9, *range(10, 17), 17]),
        (5, [4, 7, 9, 12, 15, 17]),  # after every third step, and after each task
        (1e6, [9, 17]),
    ],
)
def test_checkpoints_are_saved_by_time_and_after_each_task(
    tmp_path, finished, monkeypatch, minutes, positions
):
    saved, save = [], CheckpointStore.save

    def noted(self, step, tensors, state):
        saved.append(step)
        save(self, step, tensors, state)

    monkeypatch.setattr(CheckpointStore, "save", noted)
    run_tiny(tmp_path, execution=Execution(checkpoint_minutes=minutes))
    assert_identical(tmp_path, finished)
    assert saved == positions


# Mistakes


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"config": SETTINGS | {"learning_rate": 0.5}}, "method_config.learning_rate: 0.001 there"),
        ({"clip": tiny_clip(seed=1)}, "backbone.weights_sha256"),
        ({"stream": tiny_stream().reorder([1, 0])}, "order"),
        ({"stream": replace(tiny_stream(), split_id="other")}, "split_id"),
        ({"clip": tiny_clip(precision="bf16")}, "precision"),
    ],
)
def test_a_folder_of_another_run_is_refused(finished, change, key):
    before = {path: path.read_bytes() for path in finished.folder.glob("*.*")}
    with pytest.raises(UserError, match=f"belongs to a run with another {key}"):
        run_tiny(finished.folder, **change)
    assert {path: path.read_bytes() for path in finished.folder.glob("*.*")} == before


@pytest.mark.parametrize("seed", [None, "abc", float("nan"), 1.0, True, [1]])
def test_a_seed_that_is_no_whole_number_is_refused(tmp_path, seed):
    with pytest.raises(UserError, match="seed must be a whole number; found"):
        inspect.unwrap(run)("finetune", tiny_stream(), tiny_clip(), seed=seed, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_seed_of_numpy_is_the_same_seed(finished):
    call = inspect.unwrap(run)  # without the tests' own check of types
    again = call(
        "finetune",
        tiny_stream(),
        tiny_clip(),
        seed=np.int64(0),
        out=finished.folder,
        config=SETTINGS,
    )
    assert again.accuracy.equals(finished.accuracy)


def test_other_library_versions_do_not_make_another_run(tmp_path):
    run_tiny(tmp_path, callback=stop_at(2))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sha256"]  # the seal of what the run wrote
    config["versions"]["torch"] = "1.0"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run_tiny(tmp_path).complete


def test_a_held_folder_can_be_refused(finished):
    with pytest.raises(UserError, match="holds a run already"):
        run_tiny(finished.folder, resume=False)


def test_a_folder_with_foreign_results_is_refused(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"has a result\.json but no config\.json"):
        run_tiny(tmp_path)
    assert (tmp_path / "result.json").read_text() == "{}"


def test_a_folder_in_use_is_refused(tmp_path):
    with RunLock(tmp_path), pytest.raises(UserError, match="another run is writing to"):
        run_tiny(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot write /proc/run"):
        run_tiny("/proc/run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        run_tiny(tmp_path / "file" / "run")


def test_a_full_disk_is_named_and_the_run_goes_on_later(tmp_path, finished):
    with full_disk(10_000), pytest.raises(UserError, match=r"cannot write .*: File too large"):
        run_tiny(tmp_path)
    run_tiny(tmp_path)
    assert_identical(tmp_path, finished)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full disk")
def test_a_disk_that_is_full_for_the_history_is_named_once(tmp_path, finished):
    def fill(event):
        links = Path("/proc/self/fd").iterdir()
        (history,) = [
            link.name for link in links if os.path.realpath(link).endswith("history.jsonl")
        ]
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), int(history))

    with pytest.raises(UserError, match=r"cannot write .*history\.jsonl: No space left on device"):
        run_tiny(tmp_path, callback=fill)
    run_tiny(tmp_path)
    assert_identical(tmp_path, finished)


def test_a_task_without_training_images_is_named(tmp_path):
    stream = tiny_stream()
    nothing = stream[0].train.subset([])
    empty = replace(stream, tasks=(replace(stream[0], train=nothing), stream[1]))
    with pytest.raises(UserError, match="'pets' has no training image"):
        run_tiny(tmp_path, stream=empty)
    assert run_tiny(tmp_path / "zero", "zero_shot", stream=empty).complete


@pytest.mark.filterwarnings("ignore:overflow")
def test_divergence_is_named(tmp_path):
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d of 'pets'; lower"):
        run_tiny(tmp_path, config=SETTINGS | {"learning_rate": 1e30})


def test_names_are_looked_up(tmp_path):
    with pytest.raises(UserError, match="unknown stream"):
        run("zero_shot", "nini", tiny_clip(), out=tmp_path)
    with pytest.raises(UserError, match="unknown method"):
        run("zeroshot", tiny_stream(), tiny_clip(), out=tmp_path)
    with pytest.raises(UserError, match="unknown backbone"):
        run("zero_shot", tiny_stream(), "ViT", out=tmp_path)
    assert not list(tmp_path.iterdir())


# Reading results


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, r"no run in .*: config\.json is missing"),
        ("result.json", None, r"no run in .*: result\.json is missing"),
        ("history.jsonl", None, r"history\.jsonl is missing"),
        ("result.json", "{", r"result\.json is damaged"),
        ("result.json", "[]", "does not hold a JSON object"),
        ("result.json", "{}", "is not a run's result"),
        ("history.jsonl", "{", r"history\.jsonl is damaged"),
    ],
)
def test_damaged_results_are_named(tmp_path, finished, name, content, message):
    for file in ("config.json", "result.json", "history.jsonl"):
        (tmp_path / file).write_bytes((finished.folder / file).read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        RunResult.load(tmp_path)
