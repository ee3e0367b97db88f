"""The run player in a notebook."""

import html
from typing import Any

import anywidget
import traitlets

from vlcl_toolkit.analysis.record import run_record
from vlcl_toolkit.plotting.player import SCRIPT, SHEET, player_page, player_payload
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.results import RunResult


class RunPlayer(anywidget.AnyWidget):
    """A run, or two side by side, stage by stage: every view on one slider.

    What a run does not hold (probes, pictures, tasks that are not learned yet) is named below the views.

    Attributes:
        payload: what the page is fed, see docs/player.md.
    """

    _esm = SCRIPT
    _css = SHEET
    payload = traitlets.Dict().tag(sync=True)

    def __init__(self, *results: RunResult, stream: TaskStream | None = None):
        """Show one run or two.

        Args:
            results: of one stream.
            stream: theirs, for small pictures of the images.

        Raises:
            UserError: no run, more than two, or of different streams.
        """
        records = [run_record(result, stream) for result in results]
        super().__init__(payload=player_payload(records))

    def _repr_mimebundle_(self, **options: Any) -> Any:
        # Where there is no kernel, the page plays in a frame: on the site, in a saved notebook.
        bundle = super()._repr_mimebundle_(**options)
        data, *rest = bundle if isinstance(bundle, tuple) else (bundle,)
        frame = (
            f'<iframe title="run player" sandbox="allow-scripts" srcdoc="{html.escape(self.page())}" '
            'style="width: 100%; height: 900px; border: 0"></iframe>'
        )
        data = {**(data or {}), "text/html": frame}
        return (data, *rest) if rest else data

    def page(self) -> str:
        """The same as a web page of its own: HTML that needs no kernel."""
        return player_page(self.payload["records"])
