"""Runs as jobs of a Slurm cluster, through submitit: an array of one job per run, requeued when it is preempted.

A run resumes itself, so a job that was preempted, timed out or killed goes on where its last checkpoint was. Which job
does which run is written down: the same command, given again, joins the jobs that are still there and submits the rest.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import submitit
from submitit.helpers import DelayedSubmission, as_completed
from tqdm.auto import tqdm

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.experiments.jobs import Job, do_job
from vlcl_toolkit.files import make_folder, write_atomic
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.results import RunResult

Cluster = Literal["slurm", "local"]
_JOBS: dict[str, type[submitit.Job]] = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}
_MINUTES, _TIMEOUTS = 720, 20  # a job that runs into its limit is requeued, and its run goes on


@dataclass(frozen=True)
class ClusterRun:
    """What a job of the cluster does: one run, with stream and backbone loaded where it runs.

    Attributes:
        job: the run.
        load: picklable; returns the stream and the backbone.
    """

    job: Job
    load: Callable[[], tuple[TaskStream, Clip]]

    def __call__(self) -> dict[str, str]:
        """The run's folder, or the user's mistake that stopped it."""
        try:
            result = do_job(self.job, *self.load(), progress=False)
        except UserError as mistake:
            return {"mistake": str(mistake)}
        return {"folder": str(Path(str(result.folder)).resolve())}

    def __submitit_checkpoint__(self) -> DelayedSubmission:
        """The job to put back into the queue: the same, since the run knows how far it is."""
        return DelayedSubmission(self)


def run_on_cluster(
    jobs: Sequence[Job],
    load: Callable[[], tuple[TaskStream, Clip]],
    folder: str | Path,
    *,
    cluster: Cluster = "slurm",
    parameters: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[RunResult]:
    """Submit the runs, wait for all of them; results in the order of `jobs`.

    Ctrl-C leaves the jobs in the queue. The runs lie in their default folders under the working directory, which all
    nodes must see.

    Args:
        load: picklable; called in every job, returns the stream and the backbone.
        folder: for submitit's files: logs, and jobs.json with the job of each run.
        cluster: "local" starts the same jobs as processes of this machine, to try it out.
        parameters: of submitit, e.g. timeout_min (720; a run that needs longer is requeued and goes on), gpus_per_node,
            slurm_partition, slurm_array_parallelism (the most jobs at once).

    Raises:
        UserError: there is no Slurm here, an unknown parameter, or jobs that failed (the others have finished).
    """
    folder = make_folder(Path(folder))
    executor = _executor(folder, cluster, dict(parameters or {}))
    runs = {_name(job, load): ClusterRun(job, load) for job in jobs}
    known = _Submitted(folder / "jobs.json", _JOBS[cluster])
    waiting = {name: found for name in runs if (found := known.running(name))}
    fresh = [name for name in runs if name not in waiting]
    submitted = executor.submit_array([runs[name] for name in fresh])
    waiting |= dict(zip(fresh, submitted, strict=True))
    known.add({name: job.job_id for name, job in waiting.items()})
    for _ in tqdm(
        as_completed(list(waiting.values()), poll_frequency=1),
        total=len(waiting),
        desc=f"jobs of {cluster}",
        disable=not progress,
    ):
        pass
    failed = {name: fault for name, job in waiting.items() if (fault := _fault(job))}
    if failed:
        name, fault = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(jobs)} jobs failed, the others have finished; the first is "
            f"{runs[name].job.method}, seed {runs[name].job.seed}: {fault}; "
            "put it right and give the same command again"
        )
    return [RunResult.load(waiting[_name(job, load)].result()["folder"]) for job in jobs]


class _Submitted:
    """The file that says which job does which run."""

    def __init__(self, path: Path, job_class: type[submitit.Job]):
        self.path, self._job_class = path, job_class
        self._ids: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}

    def running(self, name: str) -> submitit.Job | None:
        """The job that was submitted for this run, if it has not ended."""
        if name not in self._ids:
            return None
        job = self._job_class(self.path.parent, self._ids[name])
        return None if job.done(force_check=True) else job

    def add(self, ids: Mapping[str, str]) -> None:
        self._ids |= ids
        write_atomic(self.path, json.dumps(self._ids, indent=1).encode())


def _executor(folder: Path, cluster: Cluster, parameters: dict[str, Any]) -> submitit.AutoExecutor:
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=_TIMEOUTS)
        executor.update_parameters(**{"name": "vlcl", "timeout_min": _MINUTES, **parameters})
    except (RuntimeError, NameError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"submitit cannot use {cluster!r} with {parameters}: {reason}; "
            "submit on a node that has sbatch, or leave --cluster out to run here"
        ) from error
    return executor


def _name(job: Job, load: Callable[[], tuple[TaskStream, Clip]]) -> str:
    text = json.dumps([asdict(job), repr(load), os.getcwd()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fault(job: submitit.Job) -> str:
    """Why a job has no result; empty if it has one."""
    error = job.exception()
    if error is None:
        return job.result().get("mistake", "")
    log = (job.stderr() or str(error)).strip().splitlines()
    return f"{log[-1]} (log: {job.paths.stderr})"
