"""Several runs at once, each in a process of its own with its share of the cores.

A run of a small model hardly profits from a second thread, so that two runs side by side finish well before two runs
after each other.
"""

import contextlib
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.sharding import process_group
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.loop import run
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


def jobs_at_once(clip: Clip, runs: int, jobs: int | None = None) -> int:
    """How many of `runs` runs to do at once; None: one per CPU thread in use (at most 8), one on a GPU.

    Raises UserError for fewer than one job, or if torchrun started this: its processes share one run.
    """
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
    jobs: Sequence[Job], stream: TaskStream, clip: Clip, *, at_once: int = 1, progress: bool = True
) -> list[RunResult]:
    """Do all runs, `at_once` at a time; results in the order of `jobs`.

    Every run lies in its own default folder: what is finished is read, what was interrupted goes on.
    """
    if at_once == 1:
        return [do_job(job, stream, clip, progress=progress) for job in jobs]
    results: dict[int, RunResult] = {}
    with _pool(at_once, stream, clip) as pool:
        futures = {pool.submit(_do_in_worker, job): index for index, job in enumerate(jobs)}
        bar = tqdm(total=len(jobs), desc=f"runs, {at_once} at once", disable=not progress)
        with contextlib.closing(bar):
            for future in as_completed(futures):
                result = future.result()
                results[futures[future]] = result
                bar.set_postfix_str(f"{result.method}, seed {result.seed}")
                bar.update()
    return [results[index] for index in range(len(jobs))]


def do_job(job: Job, stream: TaskStream, clip: Clip, *, progress: bool = True) -> RunResult:
    """Do one run here, in its default folder."""
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


# In a worker process.

_own: dict[str, Any] = {}  # a stream and a backbone


@contextlib.contextmanager
def _pool(at_once: int, stream: TaskStream, clip: Clip) -> Iterator[ProcessPoolExecutor]:
    threads = max(1, torch.get_num_threads() // at_once)
    context = multiprocessing.get_context(
        "spawn"
    )  # a fork would inherit the state of torch's thread pool
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when a worker imports torch
    # As plain bytes: multiprocessing would put the tensors into shared memory, and all workers would train one model.
    shared = pickle.dumps({"stream": stream, "clip": clip})
    pool = ProcessPoolExecutor(at_once, context, _start_worker, (shared, threads))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _start_worker(shared: bytes, threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _own.update(pickle.loads(shared))


def _end_with_parent() -> None:
    # Else a run would go on, and hold its folder, after the command that wanted it was killed. It can be resumed.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do_in_worker(job: Job) -> RunResult:
    return do_job(job, _own["stream"], _own["clip"], progress=False)
