"""Several runs at once, each in a process of its own with its share of the cores.

A run of a small model hardly profits from a second thread, so that two runs side by side finish well before two runs
after each other.
"""

import contextlib
import functools
import math
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cloudpickle
from loky import ProcessPoolExecutor
from tqdm.auto import tqdm

from vlcl_toolkit.errors import DivergedError, UserError, whole_number
from vlcl_toolkit.methods import method_class, register

# torch is imported inside the functions: a worker imports this module before it takes over what is sent to it, and
# until then no other worker is started.
if TYPE_CHECKING:
    from vlcl_toolkit.clip.model import Clip
    from vlcl_toolkit.streams.base import TaskStream
    from vlcl_toolkit.training.results import RunResult

_MOST = 8  # by default; every job holds a model and its gradients


@dataclass(frozen=True)
class Job:
    """One run: the method, the names of the tasks in order, the seed, and settings that override the preset."""

    method: str
    order: tuple[str, ...]
    seed: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole_number("seed", self.seed)  # of all runs before the first begins

    def __str__(self) -> str:
        settings = "".join(f", {name}={value}" for name, value in self.config.items())
        return f"{self.method}, order {','.join(self.order)}, seed {self.seed}{settings}"


Diverged = list[tuple[Job, DivergedError]]
"""Runs of an experiment whose loss became no number, and what they said."""

OnResult = Callable[[Job, "RunResult", Sequence[Job]], None]
"""Called in this process with every run as it ends, its result, and the runs that are still to end."""


def jobs_at_once(clip: "Clip", runs: int, jobs: int | None = None) -> int:
    """How many of `runs` runs to do at once; None: one per CPU thread in use (at most 8), one on a GPU.

    Raises UserError for fewer than one job, or if torchrun started this: its processes share one run.
    """
    import torch

    from vlcl_toolkit.sharding import process_group

    if process_group().world_size > 1:
        raise UserError(
            f"torchrun started {process_group().world_size} processes, which share one run; found {runs} runs "
            "side by side; use vlcl run or vlcl recipe, or start this without torchrun"
        )
    if jobs is None:
        jobs = 1 if clip.device.type == "cuda" else min(torch.get_num_threads(), _MOST)
    if jobs < 1:
        raise UserError(f"jobs must be at least 1; found {jobs}; e.g. --jobs 2")
    return max(1, min(jobs, runs))


def run_jobs(
    jobs: Sequence[Job],
    stream: "TaskStream",
    clip: "Clip",
    *,
    at_once: int = 1,
    progress: bool = True,
    diverged: Diverged | None = None,
    on_result: OnResult | None = None,
) -> "list[RunResult]":
    """Do all runs, `at_once` at a time; results in the order of `jobs`.

    Every run lies in its own default folder: what is finished is read, what was interrupted goes on. A run
    that diverges does not keep the others from their end.

    Args:
        diverged: gets the runs that diverged, which have no result; None: the first of them is raised
            once the others have ended.
        on_result: see `OnResult`.

    Raises:
        UserError: of a run; or a stream or a method that cannot be sent to another process.
    """
    failed: Diverged = []
    results: dict[int, RunResult] = {}
    left = dict(enumerate(jobs))
    with contextlib.closing(_ended(jobs, stream, clip, at_once, progress)) as ended:
        for index, get_result in ended:
            job = left.pop(index)
            with _noting(failed, job):
                results[index] = get_result()
                if on_result is not None:
                    on_result(job, results[index], list(left.values()))
    if failed and (diverged is None or not results):
        job, error = failed[0]
        others = f"; {len(results)} other runs have ended well and are kept" if results else ""
        raise DivergedError(f"{job}: {error}{others}")
    if diverged is not None:
        diverged += failed
    return [results[index] for index in sorted(results)]


@contextlib.contextmanager
def _noting(failed: Diverged, job: Job) -> Iterator[None]:
    try:
        yield
    except DivergedError as error:
        failed.append((job, error))


def _ended(
    jobs: Sequence[Job], stream: "TaskStream", clip: "Clip", at_once: int, progress: bool
) -> "Generator[tuple[int, Callable[[], RunResult]]]":
    # The runs as they end, each with what gives its result or raises its error.
    if at_once == 1:
        for index, job in enumerate(jobs):
            yield index, functools.partial(do_job, job, stream, clip, progress=progress)
        return
    waiting, running = deque(in_good_order(jobs)), dict[Future[Any], int]()
    bar = tqdm(total=len(jobs), desc=f"runs, {at_once} at once", disable=not progress)
    with contextlib.closing(bar), _workers(at_once, jobs, stream, clip) as workers:
        while waiting or running:
            while waiting and len(running) < at_once:  # what is handed over cannot be cancelled
                index = waiting.popleft()
                running[workers.submit(_do_in_worker, jobs[index])] = index
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index = running.pop(future)
                yield index, future.result
                bar.set_postfix_str(f"{jobs[index].method}, seed {jobs[index].seed}")
                bar.update()


def in_good_order(jobs: Sequence[Job]) -> list[int]:
    """Indices of the runs in the order in which to begin them side by side.

    What answers at once comes first, then the longest: else cores idle while the last long run ends.
    """
    costs = [method_class(job.method).relative_cost for job in jobs]
    return sorted(range(len(jobs)), key=lambda index: -costs[index] if costs[index] else -math.inf)


def do_job(job: Job, stream: "TaskStream", clip: "Clip", *, progress: bool = True) -> "RunResult":
    """Do one run here, in its default folder."""
    from vlcl_toolkit.training.loop import run

    ordered = stream.subset(job.order).reorder(job.order)
    return run(
        job.method,
        ordered,
        clip,
        seed=job.seed,
        config=job.config,
        progress=progress,
        **job.options,
    )


@contextlib.contextmanager
def _workers(
    at_once: int, jobs: Sequence[Job], stream: "TaskStream", clip: "Clip"
) -> Iterator[ProcessPoolExecutor]:
    import torch

    threads = max(1, torch.get_num_threads() // at_once)
    environment = {
        "OMP_NUM_THREADS": str(threads),  # read when a worker imports torch
        "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15",  # one run may need more memory than the one before
    }
    methods = [method_class(job.method) for job in jobs]
    try:
        # cloudpickle carries over what a script or a notebook defines, too: a worker does not run the script again.
        # As bytes: tensors would be put into shared memory, and all workers would train one model.
        shared = cloudpickle.dumps((stream, clip, methods))
    except (TypeError, pickle.PicklingError) as error:
        raise UserError(
            f"the stream or a method cannot be sent to another process ({error}); "
            "define it in a module of its own, or use jobs=1"
        ) from error
    arguments = {"initializer": _start_worker, "initargs": (shared, threads, os.getpid())}
    workers = ProcessPoolExecutor(at_once, env=environment, **arguments)
    try:
        yield workers
    finally:
        workers.shutdown()  # when the runs that are going on have ended


# In a worker process.

_own: dict[str, Any] = {}  # a stream and a backbone


def _start_worker(shared: bytes, threads: int, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    _own["stream"], _own["clip"], methods = pickle.loads(shared)
    for method in methods:
        register(method)


def _end_with(parent: int) -> None:
    # Else a run would go on, and hold its folder, after the command that wanted it was killed. It can be resumed.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do_in_worker(job: Job) -> "RunResult":
    try:
        return do_job(job, _own["stream"], _own["clip"], progress=False)
    except KeyboardInterrupt:
        # The run is saved and this process ends: a second Ctrl-C would only print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise
