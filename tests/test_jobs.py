"""Runs side by side in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.tiny import tiny_clip, tiny_stream
from vlcl_toolkit.cli.tables import LiveScores
from vlcl_toolkit.errors import DivergedError, UserError
from vlcl_toolkit.experiments.compare import compare
from vlcl_toolkit.experiments.jobs import Diverged, Job, in_good_order, jobs_at_once, run_jobs


def test_two_at_once_are_the_runs_one_after_another(tmp_path, monkeypatch):
    stream, clip, tables = tiny_stream(), tiny_clip(), []
    config = {"iterations": 3, "warmup": 1}
    plan = [Job("finetune", order, 1, config) for order in (stream.names, stream.names[::-1])]
    for at_once in (1, 2):
        monkeypatch.chdir(make(tmp_path / str(at_once)))
        monkeypatch.setattr(torch, "get_num_threads", lambda at_once=at_once: at_once)
        told = []
        results = run_jobs(
            plan,
            stream,
            clip,
            at_once=at_once,
            progress=False,
            on_result=lambda job, result, left, told=told: told.append(
                (job, result.metrics, len(left))
            ),
        )
        assert sorted(job.order for job, _, _ in told) == sorted(job.order for job in plan)
        assert all(found == results[plan.index(job)].metrics for job, found, _ in told)
        assert [left for _, _, left in told] == [1, 0]
        assert [tuple(r.order) for r in results] == [job.order for job in plan]
        tables.append([(r.folder / "accuracy.csv").read_bytes() for r in results])
        assert not any(p.is_shared() for p in clip.model.parameters()), "workers need their own"
    assert tables[0] == tables[1]


def test_every_run_is_told_as_it_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told, lines = [], LiveScores()
    plan = [Job("zero_shot", tiny_stream().names, seed) for seed in (0, 1, 2)]

    def tell(job, result, left):
        told.append((job.seed, result.metrics["last"], [other.seed for other in left]))
        lines(job, result, left)

    results = run_jobs(plan, tiny_stream(), tiny_clip(), progress=False, on_result=tell)
    assert [(seed, left) for seed, _, left in told] == [(0, [1, 2]), (1, [2]), (2, [])]
    assert {last for _, last, _ in told} == {results[0].metrics["last"]}
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if "pets" in line]
    assert [row[0] for row in shown] == ["zero_shot"] * 3
    assert {row[4] for row in shown} == {f"{results[0].metrics['last']:.1f}"}
    assert [" ".join(row[6:8]) for row in shown] == ["2 to", "1 to", "all done"]


def test_quick_runs_begin_first_and_then_the_longest():
    methods = ["finetune", "zscl", "rail", "diki", "lwf", "zero_shot"]
    plan = [Job(method, ("pets",)) for method in methods]
    begun = [methods[index] for index in in_good_order(plan)]
    assert begun == ["rail", "zero_shot", "zscl", "lwf", "finetune", "diki"]


def test_the_time_that_is_left_counts_what_a_run_costs(monkeypatch, capsys):
    class Result:
        metrics = dict.fromkeys(("transfer", "average", "last"), 50.0)

    seconds = iter((0, 62, 182))  # begun, and where a time is said
    monkeypatch.setattr("vlcl_toolkit.cli.tables.monotonic", lambda: next(seconds))
    plan = [Job(method, ("pets",)) for method in ("zero_shot", "finetune", "zscl")]
    lines = LiveScores()
    for number, job in enumerate(plan):
        lines(job, Result(), plan[number + 1 :])
    shown = [line.rsplit("pets", 1)[1].split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [" ".join(words) for words in shown] == ["2 to go", "1 to go, 2 min", "all done"]


@pytest.mark.slow
def test_a_mistake_in_one_of_them_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = [Job("finetune", tiny_stream().names, seed, {"rate": 1}) for seed in (0, 1)]
    with pytest.raises(UserError, match="rate"):
        run_jobs(plan, tiny_stream(), tiny_clip(), at_once=2, progress=False)


def test_as_many_as_there_are_threads_or_runs(monkeypatch):
    clip = tiny_clip()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert [jobs_at_once(clip, runs) for runs in (1, 4, 9)] == [1, 4, 6]
    assert jobs_at_once(clip, 9, 2) == 2
    with pytest.raises(UserError, match="--jobs 2"):
        compare(["zero_shot"], tiny_stream(), clip, jobs=0)


@pytest.mark.slow
def test_workers_end_with_a_command_that_is_killed(tmp_path):
    code = (
        "from vlcl_toolkit.experiments.compare import compare\n"
        "from tests.tiny import tiny_clip, tiny_stream\n"
        "config = {'finetune': {'iterations': 100000, 'warmup': 1}}\n"
        "compare(['finetune'], tiny_stream(), tiny_clip(), seeds=[0, 1], configs=config, jobs=2)\n"
    )
    script = tmp_path / "long.py"
    script.write_text(code, encoding="utf-8")
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    ) as parent:
        try:
            wait_until(lambda: len(list(tmp_path.rglob("history.jsonl"))) == 2)
            workers = psutil.Process(parent.pid).children()
            assert len(workers) >= 2
        finally:
            parent.kill()
    wait_until(lambda: not any(worker.is_running() for worker in workers))


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_saves_what_runs_and_begins_nothing_new(times, tmp_path):
    code = (
        "import sys\n"
        "from vlcl_toolkit.experiments.compare import compare\n"
        "from tests.tiny import tiny_clip, tiny_stream\n"
        "config = {'finetune': {'iterations': 100000, 'warmup': 1}}\n"
        "try:\n"
        "    compare(['finetune'], tiny_stream(), tiny_clip(), seeds=range(4), configs=config, jobs=2)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    script = tmp_path / "long.py"
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with (
        (tmp_path / "said.txt").open("w") as said,
        subprocess.Popen(
            [sys.executable, str(script)],
            cwd=tmp_path,
            env=environment,
            stderr=said,
            start_new_session=True,
        ) as command,
    ):
        try:
            wait_until(lambda: len(list(tmp_path.rglob("history.jsonl"))) == 2)
            for _ in range(times):  # as a terminal does: to the command and its workers
                os.killpg(command.pid, signal.SIGINT)
                time.sleep(1)
            assert command.wait(120) == 130
        finally:
            if command.poll() is None:
                os.killpg(command.pid, signal.SIGKILL)
    assert len(list(tmp_path.rglob("history.jsonl"))) == 2
    assert len(list(tmp_path.rglob("manifest.json"))) == 2
    assert "Traceback" not in (tmp_path / "said.txt").read_text(encoding="utf-8")


def wait_until(happened, seconds=300):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def make(folder):
    folder.mkdir()
    return folder


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_run_that_diverges_leaves_the_others_alone(tmp_path, monkeypatch, at_once):
    monkeypatch.chdir(tmp_path)
    stream, clip = tiny_stream(), tiny_clip()
    base = {"iterations": 4, "warmup": 1}
    plan = [
        Job("finetune", stream.names, 0, base | {"learning_rate": rate})
        for rate in (1e-4, 1e30, 3e-4)
    ]
    diverged: Diverged = []
    results = run_jobs(plan, stream, clip, at_once=at_once, progress=False, diverged=diverged)
    assert [result.config["method_config"]["learning_rate"] for result in results] == [1e-4, 3e-4]
    ((job, error),) = diverged
    assert job is plan[1]
    assert "learning_rate=1e+30" in str(job)
    assert "lower the learning rate" in str(error)
    with pytest.raises(DivergedError, match=r"learning_rate=1e\+30.*2 other runs"):
        run_jobs(plan, stream, clip, at_once=1, progress=False)  # the others are read from disk
