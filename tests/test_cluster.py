"""Runs as jobs of a cluster; submitit's own local executor stands in for Slurm."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import submitit

from tests.tiny import tiny_clip, tiny_stream
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.experiments import slurm as cluster
from vlcl_toolkit.experiments.jobs import Job, do_job
from vlcl_toolkit.experiments.slurm import ClusterRun, run_on_cluster

ROOT = Path(__file__).parents[1]
SHORT = {"iterations": 3, "warmup": 1}


@dataclass(frozen=True)
class Sources:
    def __call__(self):
        return tiny_stream(), tiny_clip()


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")


def plan(seeds=(0, 1), **settings):
    return [Job("finetune", tiny_stream().names, seed, SHORT | settings) for seed in seeds]


@pytest.mark.slow
def test_jobs_are_the_runs_one_after_another_and_running_ones_are_joined(tmp_path, monkeypatch):
    first = run_on_cluster(plan([0]), Sources(), "jobs", cluster="local", progress=False)
    written = json.loads(Path("jobs/jobs.json").read_text())
    monkeypatch.setattr(cluster._Submitted, "running", as_if_running)
    results = run_on_cluster(plan(), Sources(), "jobs", cluster="local", progress=False)
    assert [result.seed for result in results] == [0, 1]
    assert results[0].folder == first[0].folder
    joined = json.loads(Path("jobs/jobs.json").read_text())
    assert len(written) == 1
    assert len(joined) == 2
    assert written.items() <= joined.items()
    tables = [(result.folder / "accuracy.csv").read_bytes() for result in results]
    monkeypatch.chdir(make(tmp_path / "here"))
    here = [do_job(job, *Sources()(), progress=False) for job in plan()]
    assert tables == [(result.folder / "accuracy.csv").read_bytes() for result in here]


def as_if_running(submitted, name):
    job = submitted._ids.get(name)
    return job and submitit.LocalJob("jobs", job)


def test_a_requeued_job_is_the_same_run():
    run = ClusterRun(plan()[0], Sources())
    assert run.__submitit_checkpoint__().function == run


@pytest.mark.slow
def test_mistakes_are_told_and_the_others_finish():
    jobs = [*plan([0]), *plan([1], rate=1)]
    with pytest.raises(UserError, match=r"1 of 2 jobs failed.*finetune, seed 1.*rate"):
        run_on_cluster(jobs, Sources(), "jobs", cluster="local", progress=False)
    assert len(list(Path("runs").rglob("accuracy.csv"))) == 1


@pytest.mark.slow
def test_a_job_that_breaks_is_told_with_its_log(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")  # so that the job does not find this module
    with pytest.raises(UserError, match=r"No module named 'test_cluster' \(log: .*err\)"):
        run_on_cluster(plan([0]), Sources(), "jobs", cluster="local", progress=False)


def test_without_slurm_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"srun.*leave --cluster out"):
        run_on_cluster(plan(), Sources(), "jobs")


def test_an_unknown_parameter_is_named():
    with pytest.raises(UserError, match="partitoin"):
        run_on_cluster(plan(), Sources(), "jobs", cluster="local", parameters={"partitoin": "a"})


def make(folder):
    folder.mkdir()
    return folder
