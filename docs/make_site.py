"""Execute every notebook and write a static site: a page per notebook, the gallery, an index.

    python docs/make_site.py [FOLDER]

Pages show every figure without a kernel, and run players play. Where a notebook has other controls the page
says so; the figure that each of them also draws stands below.
"""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from html import escape
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
NOTEBOOKS, FIGURES = ROOT / "notebooks", ROOT / "figures"
SECONDS = 600  # for one cell
WIDGET = "application/vnd.jupyter.widget-view+json"
CONTROLS = "<p><em>Here are controls: run <code>make lab</code> to use them.</em></p>"
STYLE = """body{font-family:system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}
figure{margin:2em 0}img{max-width:100%}figcaption{color:#555}li{margin:.6em 0}"""


async def execute(path: Path, turn: asyncio.Semaphore) -> NotebookNode:
    """A notebook with its outputs, run in a project folder of its own.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    async with turn:
        with tempfile.TemporaryDirectory() as folder:
            client = NotebookClient(notebook, timeout=SECONDS, store_widget_state=False)
            environment = dict(os.environ) | {"VLCL_PROJECT": folder}
            await client.async_execute(cwd=str(path.parent), env=environment)
    return notebook


async def execute_all(paths: list[Path]) -> dict[str, NotebookNode]:
    """Notebooks with their outputs by name, two at a time."""
    turn = asyncio.Semaphore(2)
    notebooks = await asyncio.gather(*(execute(path, turn) for path in paths))
    return dict(zip([path.stem for path in paths], notebooks, strict=True))


def for_readers(notebook: NotebookNode) -> NotebookNode:
    """Links between notebooks lead to pages; controls that are dead without a kernel become a remark."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.html)", cell.source)
        elif cell.cell_type == "code":
            # What a cell returns is a panel; what it displays on the way is a progress bar.
            kept = [o for o in cell.outputs if not _is_widget(o) or o.output_type != "display_data"]
            for output in filter(_is_widget, kept):
                output.data = NotebookNode({"text/html": output.data.get("text/html", CONTROLS)})
            cell.outputs = kept
    return notebook


def _is_widget(output: NotebookNode) -> bool:
    return WIDGET in output.get("data", {})


def page(notebook: NotebookNode, name: str, names: list[str]) -> str:
    """A notebook as HTML, with links to its neighbours."""
    exporter = HTMLExporter(mermaid_js_url="", require_js_url="")
    body, _ = exporter.from_notebook_node(for_readers(notebook), {"metadata": {"name": name}})
    place = names.index(name)
    links = ["<a href='index.html'>All notebooks</a>"]
    links += [f"<a href='{n}.html'>← {n}</a>" for n in names[max(0, place - 1) : place]]
    links += [f"<a href='{n}.html'>{n} →</a>" for n in names[place + 1 : place + 2]]
    bar = f"<nav style='padding:.7em 2em;font-family:sans-serif'>{' · '.join(links)}</nav>"
    return re.sub(r"<body[^>]*>", lambda tag: tag[0] + bar, body, count=1)


def title_and_question(notebook: NotebookNode) -> tuple[str, str]:
    """The first heading, and the sentence after "The question."."""
    text = notebook.cells[0].source
    question = re.search(r"\*\*The question\.\*\* (.+)", text)
    return text.splitlines()[0].lstrip("# "), question[1].replace("*", "") if question else ""


def index(notebooks: dict[str, NotebookNode], results: str) -> str:
    """The first page: notebooks with their questions, and the figures of docs/results.md with captions."""
    entries = []
    for name, notebook in notebooks.items():
        title, question = map(escape, title_and_question(notebook))
        entries.append(f"<li><a href='{name}.html'>{name[:2]} {title}</a><br>{question}</li>")
    figures = [
        f"<figure><img src='figures/{file}' alt=''><figcaption>{escape(caption)}</figcaption></figure>"
        for caption, file in re.findall(r"!\[([^]]*)\]\(\.\./figures/([^)]+)\)", results)
    ]
    head = f"<meta charset='utf-8'><title>vlcl-toolkit</title><style>{STYLE}</style>"
    parts = ["<h1>Continual learning of CLIP models, to look at and to try</h1>"]
    parts += ["<p>Every page is an executed notebook. <code>make lab</code> opens them live.</p>"]
    parts += [f"<ul>{''.join(entries)}</ul>", "<h2>Gallery</h2>", *figures]
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def write_site(folder: Path, paths: list[Path]) -> None:
    """Execute the notebooks and write the site; an older one is replaced."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "index.html").is_file():
        sys.exit(f"{folder} holds something else than a site; name another folder")
    notebooks = asyncio.run(execute_all(paths))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(FIGURES, folder / "figures")
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (folder / "index.html").write_text(index(notebooks, results), encoding="utf-8")
    for name, notebook in notebooks.items():
        html = page(notebook, name, list(notebooks))
        (folder / f"{name}.html").write_text(html, encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site")
    write_site(target, sorted(NOTEBOOKS.glob("*.ipynb")))
    print(f"{target / 'index.html'}")
