"""Each notebook is executed in a project folder of its own: no results of earlier runs, no locks.

At the end of the test run a table says what each of them cost.
"""

import contextlib
import os
import tempfile
import threading
import time

import psutil
import pytest

SECONDS, MIB = 90, 3072  # the budget of a notebook, on two quiet cores
_PAUSE = 0.2  # seconds between two looks at the memory


class Cost(threading.Thread):
    """Watches the processes that this one starts from now on.

    Attributes:
        peak: highest sum of their resident memory, in bytes; shared pages count in each.
        cpu: seconds of processor time, by process id.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.cpu = 0, {}
        self._here = psutil.Process()
        self._before = set(self._here.children(recursive=True))
        self._over, self._begun = threading.Event(), time.monotonic()

    def run(self):
        while not self._over.wait(_PAUSE):
            memory = 0
            for process in set(self._here.children(recursive=True)) - self._before:
                with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                    memory += process.memory_info().rss
                    times = process.cpu_times()
                    self.cpu[process.pid] = times.user + times.system
            self.peak = max(self.peak, memory)

    def end(self):
        """Seconds, seconds of processor time, MiB."""
        self._over.set()
        self.join()
        return time.monotonic() - self._begun, sum(self.cpu.values()), self.peak / 2**20


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Name a fresh folder in the environment that the notebook's kernel inherits; measure it."""
    cost = Cost()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VLCL_PROJECT"] = folder
        cost.start()
        try:
            return (yield)
        finally:
            # A property of the report travels from a worker to the process that prints.
            item.user_properties.append(("cost", cost.end()))
            del os.environ["VLCL_PROJECT"]


def pytest_terminal_summary(terminalreporter):
    """The table of costs; it reports and never fails, since seconds depend on the machine."""
    reports = [
        report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)
    ]
    costs = {
        os.path.basename(report.location[0]): dict(report.user_properties)["cost"]
        for report in reports
        if report.when == "call" and "cost" in dict(report.user_properties)
    }
    if costs:
        terminalreporter.section(f"notebooks: at most {SECONDS} seconds and {MIB} MiB each")
        terminalreporter.write_line(f"{'notebook':<36}{'seconds':>8}{'of CPU':>8}{'peak MiB':>10}")
        for name in sorted(costs):
            terminalreporter.write_line(row(name, *costs[name]))


def row(name, seconds, cpu, mib):
    """A line of the table."""
    over = "  over" if seconds > SECONDS or mib > MIB else ""
    return f"{name:<36}{seconds:>8.1f}{cpu:>8.1f}{mib:>10.0f}{over}"
