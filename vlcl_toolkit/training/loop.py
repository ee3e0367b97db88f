"""The continual loop: learn the tasks of a stream in order, test every task after each of them.

`run` prepares and names a run; `learn` is the loop; `train_step` is one step of it.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError, unknown_name, whole_number
from vlcl_toolkit.load import load_clip, load_stream
from vlcl_toolkit.methods import Batch, Method, make_method, method_class
from vlcl_toolkit.methods.presets import choose_settings
from vlcl_toolkit.methods.source import source_fingerprint
from vlcl_toolkit.probes import ProbeConfig
from vlcl_toolkit.probes.recorder import Recorder, missing_stages, recorded
from vlcl_toolkit.seeds import derive_seed, generator, seed_everything
from vlcl_toolkit.streams.base import Task, TaskStream
from vlcl_toolkit.streams.label_space import shared_class_names
from vlcl_toolkit.streams.pictures import data_fingerprint
from vlcl_toolkit.training.devices import Devices
from vlcl_toolkit.training.events import DelayedInterrupt, DoneEvent, Event, ProgressBar, StopRun
from vlcl_toolkit.training.execution import Execution
from vlcl_toolkit.training.folder import RunFolder, default_folder, library_versions
from vlcl_toolkit.training.loader import step_batches
from vlcl_toolkit.training.results import RunResult, repair_table
from vlcl_toolkit.training.session import Session


def run(
    method: str | type[Method],
    stream: str | TaskStream = "mini",
    clip: str | Clip = "mini",
    *,
    seed: int = 0,
    out: str | Path | None = None,
    config: Any = None,
    progress: bool = True,
    callback: Callable[[Event], None] | None = None,
    evaluate_all: bool = True,
    resume: bool = True,
    probes: bool | ProbeConfig = False,
    execution: Execution | None = None,
) -> RunResult:
    """Learn the tasks of `stream` one after another and test all of them after each.

    A run that was interrupted, at whatever moment, goes on where its last checkpoint was and ends
    in the identical result; one that is complete is read from disk. The backbone is left as it was.

    Args:
        method: a registered name or a `Method` class.
        stream, clip: objects, or names for `load_stream` and `load_clip`.
        seed: of data order, augmentation and whatever the method draws.
        out: the run's folder; None: `runs/<stream>/<method>/<order and config hash>`.
        config: an instance of the method's `Config`; or a mapping that overrides settings of the
            backbone's preset; None: the preset (the method's defaults where there is none).
        progress: show a progress bar.
        callback: called with every `StepEvent`, `RowEvent` and `DoneEvent`; a resumed run announces
            the rows that it has already. May raise `StopRun`.
        evaluate_all: False tests only the task just learned (for a search over settings by
            validation accuracy), so that there are no scores.
        resume: False refuses a folder that holds a run already.
        probes: record what happens inside the network after every task (`RunResult.probes`); the
            numbers are those of a run without. Such a run has a default folder of its own.
        execution: devices, micro-batches, minutes between checkpoints, ...; not part of a run's identity.

    Under torchrun every process calls this with the same arguments; the first one writes, shows
    progress and calls `callback`, and all of them return the result.

    Raises:
        UserError: an unknown name, a setting out of range, a folder of another run, a full disk, not
            enough memory or devices.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was saved (press twice not to wait for it).
    """
    if sys.platform == "win32":
        raise UserError("runs need Linux or macOS (locks, atomic files); on Windows, use WSL")
    seed = whole_number("seed", seed)
    stream = load_stream(stream) if isinstance(stream, str) else stream
    cls = method_class(method)
    clip = load_clip(clip) if isinstance(clip, str) else clip
    given = config if isinstance(config, Mapping) else {}
    config, source = choose_settings(cls, clip.name, stream.id, config)
    _check_task_names(config, given, stream)
    learner = make_method(cls, clip, config)
    description = describe(learner, stream, seed, evaluate_all) | {"settings_from": source}
    probed = ProbeConfig() if probes is True else probes or None
    path = Path(out) if out is not None else default_folder(description)
    if out is None and probed and not recorded(path, RunFolder(path, description).rows(), probed):
        path = path.with_name(f"{path.name}-{probed.folder_suffix}")
    devices = Devices(clip, execution, trains_all=learner.trains_all)
    with _opened(RunFolder(path, description, resume=resume), devices, probed) as folder:
        if folder.finished and progress and devices.is_main:
            print(f"read from {path}, finished {RunResult.finished_at(path):%Y-%m-%d %H:%M}")
        if folder.finished and devices.is_main and repair_table(path):
            print(f"{path / 'accuracy.csv'} was lost or damaged; written again from result.json")
        if not folder.finished:
            if stream.left_out and progress and devices.is_main:
                print(f"left out of {stream.id}, no images: {_counted(stream.left_out)}")
            with DelayedInterrupt() as interrupt, devices.computing():
                session = Session(
                    learner,
                    stream,
                    folder,
                    devices,
                    evaluate_all=evaluate_all,
                    interrupt=interrupt,
                )
                session.mend_results()
                with contextlib.suppress(StopRun), _listening(session, progress, callback):
                    learn(session, seed, probed)
        devices.barrier()
        result = RunResult.load(path)
    if callback is not None and devices.is_main and result.complete:
        callback(DoneEvent(result))
    return result


def _check_task_names(config: Any, given: Mapping[str, Any], stream: TaskStream) -> None:
    # Presets name tasks of whole benchmarks; what a user names has to be there.
    for setting in given:
        value = getattr(config, setting)
        for name in value if setting.startswith("task_") and isinstance(value, Mapping) else ():
            if name not in stream.names:
                raise unknown_name(f"task in {setting}", name, stream.names)


def learn(session: Session, seed: int, probes: ProbeConfig | None = None) -> None:
    """The loop over tasks."""
    method, stream, done = session.method, session.stream, session.progress
    probes = probes if session.devices.is_main else None
    recorder = Recorder(method, stream, session.folder.path, probes) if probes else None
    if not done.rows:  # the frozen CLIP, before a method changes it
        session.test(make_method("zero_shot", method.clip), None)
    with method, session.devices.compiled():
        method.enter_stream(stream)
        session.restore_method()
        if recorder and done.task_index < len(stream):
            recorder.check(done.task_index)
        for index in range(len(done.rows)):
            session.announce_row(index)
        for task_index in range(done.task_index, len(stream)):
            task, task_seed = stream[task_index], derive_seed(seed, task_index)
            method.enter_task(task_index, task)
            if done.step == 0:
                seed_everything(task_seed)
                method.begin_task(task_index, task, generator("begin_task", task_seed))
            train(session, task, task_seed)
            method.end_task(task_index, task)
            session.test(method, task)
            if recorder:
                session.probe(recorder)
            session.task_done()
        if recorder:
            recorder.finish()
        session.write_results(complete=True)


def train(session: Session, task: Task, seed: int) -> None:
    """The loop over the steps of one task, from the first or from where a checkpoint was."""
    method, devices = session.method, session.devices
    steps = method.steps(task)
    if steps == 0:
        return
    optimizer = session.start_optimizer(task)
    batches = step_batches(method, devices, task, seed, start=session.progress.step)
    with contextlib.closing(batches):
        for batch in batches:
            terms = train_step(method, optimizer, batch, devices)
            session.step_done(batch.step, steps, terms)


def train_step(
    method: Method, optimizer: torch.optim.Optimizer, batch: Batch, devices: Devices
) -> dict[str, Any]:
    """One optimisation step; returns its learning rate and, still on the device, the terms of its loss."""
    rate = method.learning_rate(batch.step, method.task)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    losses = devices.backward(method, batch)
    devices.precision.unscale_gradients(optimizer)
    method.after_backward(batch.step)
    devices.step(optimizer)
    method.after_step(batch.step)
    return {"learning_rate": rate, **losses}


def describe(method: Method, stream: TaskStream, seed: int, evaluate_all: bool) -> dict[str, Any]:
    """The content of config.json: all that decides a run's result, and the library versions."""
    clip, tasks = method.clip, (*stream.tasks, *stream.held_out)
    return {
        "method": method.name,
        "method_config": asdict(method.config),
        "stream": stream.id,
        "split_id": stream.split_id,
        "order": list(stream.names),
        "held_out": [task.name for task in stream.held_out],
        "templates": {task.name: list(task.templates) for task in tasks},
        "class_names": {task.name: list(task.class_names) for task in tasks},
        "images": {t.name: [len(t.train), len(t.validation), len(t.test)] for t in tasks},
        "label_space": stream.label_space,
        "decision": method.decision,
        "seed": seed,
        "evaluate_all": evaluate_all,
        "backbone": {
            "name": clip.name,
            "pretrained": clip.pretrained,
            "weights_sha256": clip.weights_sha256,
            "activation": clip.activation,
        },
        "device": clip.device.type,
        "precision": clip.precision,
        "versions": library_versions(),
        **({"skipped_images": dict(stream.skipped)} if stream.skipped else {}),
        **({"left_out_files": dict(stream.left_out)} if stream.left_out else {}),
        **_without_task_identity(method, stream),
        **_fingerprints(method, stream),
    }


def _counted(files: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(files.items()))


def _without_task_identity(method: Method, stream: TaskStream) -> dict[str, Any]:
    if stream.label_space == "task":
        return {}
    return {
        "task_found_by": method.task_found_by,
        "shared_class_names": shared_class_names(stream),
        "merge_shared_names": stream.merge_shared_names,
    }


def _fingerprints(method: Method, stream: TaskStream) -> dict[str, Any]:
    # What the names above do not tell: pictures, captions and code can be exchanged under the same name.
    from vlcl_toolkit.mini.stream import SPLIT_ID, mini_reference

    found: dict[str, Any] = {}
    if stream.split_id != SPLIT_ID:  # which pictures are drawn follows from its name
        sets = {task.name: [task.train, task.validation, task.test] for task in stream}
        sets |= {task.name: [task.test] for task in stream.held_out}
        found["pictures"] = {name: data_fingerprint(parts)[:16] for name, parts in sets.items()}
    if method.uses_reference and stream.reference not in (None, mini_reference):
        found["reference"] = stream.reference().fingerprint()[:16]
    source = source_fingerprint(type(method))
    return found | ({"method_source": source} if source else {})


@contextlib.contextmanager
def _opened(folder: RunFolder, devices: Devices, probed: ProbeConfig | None) -> Iterator[RunFolder]:
    # The first process opens the folder and writes; the others wait for it and read.
    if not devices.is_main:
        problem = devices.broadcast(None)
        if problem is not None:
            raise UserError(problem)
        folder.follow()
        yield folder
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder)
            if probed and not recorded(folder.path, folder.rows(), probed):
                lost = missing_stages(folder.path, folder.rows())
                reason = f"{', '.join(lost)} missing" if lost else "recorded with other settings"
                raise UserError(
                    f"{folder.path} holds a run without these probes ({reason}); they are recorded "
                    "while a run goes on: choose another output folder"
                )
        except UserError as error:
            devices.broadcast(str(error))
            raise
        devices.broadcast(None)
        yield folder


@contextlib.contextmanager
def _listening(
    session: Session, progress: bool, callback: Callable[[Event], None] | None
) -> Iterator[None]:
    if not session.devices.is_main:
        yield
        return
    if callback is not None:
        session.listeners.append(callback)
    if not progress:
        yield
        return
    steps, done = [session.method.steps(task) for task in session.stream], session.progress
    position = sum(steps[: done.task_index]) + done.step
    print(f"settings of {session.method.name}: {session.folder.config['settings_from']}")
    bar = ProgressBar(list(session.stream.names), sum(steps), position)
    session.listeners.insert(0, bar)
    try:
        yield
    finally:
        bar.close()
