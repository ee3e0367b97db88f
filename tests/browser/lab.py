"""A real JupyterLab, and a notebook in its page, for tests that touch what a reader touches."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

STARTING = 180.0  # seconds until the server answers, on a busy machine
SECONDS = 600.0  # more than a notebook or run of these tests needs on a busy machine

# Of the notebook in front: what was raised, and which code cells have not run to their end.
ERRORS = """() => [...jupyterapp.shell.currentWidget.content.model.cells].flatMap(cell =>
    (cell.toJSON().outputs ?? []).filter(output => output.output_type === "error")
        .map(output => `${output.ename}: ${output.evalue}`))"""
OPEN = """() => { const widget = globalThis.jupyterapp?.shell.currentWidget;
    return widget?.context?.isReady && widget.sessionContext.session?.kernel?.status === "idle"; }"""
UNFINISHED = """() => [...jupyterapp.shell.currentWidget.content.model.cells].filter(cell =>
    cell.type === "code" && cell.executionCount === null && cell.sharedModel.source.trim()).length"""
STEPS = re.compile(r'"(iterations|warmup|epochs)": \d+')
# The picture itself, not its address, which changes without need.
PICTURE = """async image => {
    await image.decode();
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return [...digest].map(byte => byte.toString(16).padStart(2, "0")).join("");
}"""


class LabServer:
    """`jupyter lab` over one folder, with no settings but its own.

    Attributes:
        url: where it answers, without a token.
        folder: where notebooks lie.
        project: where runs are written (VLCL_PROJECT of the kernels).
    """

    def __init__(self, place: Path):
        self.folder, self.project = place / "notebooks", place / "project"
        self.folder.mkdir()
        self.project.mkdir()
        self._log = place / "jupyter.log"
        config = place / "config"
        (config / "labconfig").mkdir(parents=True)
        quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
        (config / "labconfig" / "page_config.json").write_text(json.dumps(quiet))
        own = {
            "VLCL_PROJECT": self.project,
            "JUPYTER_CONFIG_DIR": config,
            "JUPYTERLAB_SETTINGS_DIR": place / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": place / "workspaces",
            "JUPYTER_RUNTIME_DIR": place / "runtime",
        }
        self._environment = dict(os.environ) | {name: str(path) for name, path in own.items()}

    def __enter__(self) -> "LabServer":
        """Start, and wait until it answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
        command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={self.folder}"]
        command += ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it; its kernels end with it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        begun = time.monotonic()
        while time.monotonic() < begun + STARTING and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/api/status", timeout=5).close()
                return
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.2)
        raise RuntimeError(f"JupyterLab does not answer:\n{self._log.read_text()}")

    def copy_shortened(self, notebook: Path) -> None:
        """Copy a notebook whose runs take one or two steps a task: controls need no more.

        The cells at the end that check claims are left out: such runs need not fulfil them, and
        they are checked where notebooks are run whole.
        """
        content = json.loads(notebook.read_text(encoding="utf-8"))
        code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        for cell in code:
            cell["source"] = STEPS.sub(
                lambda found: f'"{found[1]}": {2 if found[1] == "iterations" else 1}',
                "".join(cell["source"]),
            )
        while "assert" in code[-1]["source"]:
            content["cells"].remove(code.pop())
        (self.folder / notebook.name).write_text(json.dumps(content), encoding="utf-8")

    def write(self, name: str, *cells: str) -> None:
        """Write a notebook of code cells."""
        listing = [
            {"cell_type": "code", "execution_count": None, "id": f"cell-{i}", "metadata": {}}
            | {"outputs": [], "source": source}
            for i, source in enumerate(cells)
        ]
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        content: Mapping[str, object] = {
            "cells": listing,
            "metadata": {"kernelspec": kernel},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (self.folder / name).write_text(json.dumps(content), encoding="utf-8")


class NotebookPage:
    """A notebook that is open in the page."""

    def __init__(self, page: Page, server: LabServer, name: str):
        """Open it and wait for its kernel."""
        self.page = page
        page.set_default_timeout(SECONDS * 1000)
        expect.set_options(timeout=SECONDS * 1000)
        page.goto(f"{server.url}/lab/tree/{name}?reset")
        page.wait_for_function(OPEN)
        self.body = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    def run_all(self) -> None:
        """Menu Run, Run All Cells; wait for the end; no cell may show an error."""
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text("Run", exact=True).click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
        done = f"() => ({OPEN})() && (({ERRORS})().length > 0 || ({UNFINISHED})() === 0)"
        self.page.wait_for_function(done)
        assert self.errors() == []
        assert self.page.evaluate(UNFINISHED) == 0

    def cell_kinds(self) -> list[str]:
        """Of every cell: code, markdown or raw."""
        cells = "[...jupyterapp.shell.currentWidget.content.model.cells]"
        return self.page.evaluate(f"() => {cells}.map(cell => cell.type)")

    def chosen_cell(self) -> int:
        """Index of the active cell."""
        return self.page.evaluate("() => jupyterapp.shell.currentWidget.content.activeCellIndex")

    def errors(self) -> list[str]:
        """What cells raised: `Name: message`."""
        return self.page.evaluate(ERRORS)

    def output(self, source: str) -> Locator:
        """The output of the code cell in which `source` occurs, scrolled into view."""
        find = """source => { const notebook = jupyterapp.shell.currentWidget.content;
            const found = notebook.widgets.findIndex(cell =>
                cell.model.type === "code" && cell.model.sharedModel.source.includes(source));
            notebook.activeCellIndex = found;
            return notebook.scrollToItem(found, "start").then(() => found); }"""
        index = self.page.evaluate(find, source)
        assert index >= 0, f"no code cell contains {source!r}"
        # Cells far from the view are taken out of the page, so they are counted by their index.
        output = self.body.locator(
            f'.jp-Cell[data-windowed-list-index="{index}"] .jp-Cell-outputArea'
        )
        output.wait_for()
        return output


def slider_value(root: Locator, name: str) -> int:
    """What the slider with this label reads."""
    return int(slider(root, name).locator(".widget-readout").inner_text())


def slider(root: Locator, name: str) -> Locator:
    """The slider with this label."""
    label = root.page.locator(".widget-label").get_by_text(name, exact=True)
    return root.locator(".widget-slider").filter(has=label)


def press(root: Locator, name: str, key: str) -> None:
    """Put the focus on the slider's handle and press a key, as a reader without a mouse does."""
    handle = slider(root, name).locator(".noUi-handle")
    handle.focus()
    expect(handle).to_be_focused()
    handle.press(key)


def button(root: Locator, label: str) -> Locator:
    """The button with this label (its icon counts as a character of its name)."""
    return root.locator("button.jupyter-button", has_text=re.compile(rf"^\s*{label}\s*$"))


def picture(image: Locator) -> str:
    """SHA-256 of the file that an image shows."""
    return image.evaluate(PICTURE)
