"""The run player as a page of its own: one file, no kernel, no network."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.plotting.style import domain_colour

SCRIPT, SHEET = (Path(__file__).with_name(name) for name in ("player.js", "player.css"))


def player_payload(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the player is fed: the records and a colour for each domain.

    Args:
        records: of `analysis.run_record`, one, or two of the same stream.

    Raises:
        UserError: none, more than two, or of different streams.
    """
    if not 1 <= len(records) <= 2:
        raise UserError(f"a player shows one run, or two side by side; found {len(records)}")
    first, last = records[0], records[-1]
    for key, what in (("stream", "stream"), ("split_id", "division of the data")):
        if first[key] != last[key]:
            raise UserError(
                f"two runs share one slider only on the same stream; another {what}: "
                f"{first[key]!r} and {last[key]!r}"
            )
    if len(first["order"]) != len(last["order"]):
        raise UserError(
            f"the runs learn {len(first['order'])} and {len(last['order'])} tasks; choose two alike"
        )
    domains = [name for record in records for name in (*record["order"], *record["held_out"])]
    return {"records": list(records), "colours": {name: domain_colour(name) for name in domains}}


def player_page(records: Sequence[Mapping[str, Any]]) -> str:
    """The page, self-contained HTML; names in the records are shown as text, whatever they hold.

    Raises:
        UserError: see `player_payload`.
    """
    # Inside a script element only "</script" and "<!--" mean anything, and both need a "<".
    payload = json.dumps(player_payload(records)).replace("<", "\\u003c")
    title = " | ".join(f"{record['method']} on {record['stream']}" for record in records)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
body {{ margin: 0; }}
{SHEET.read_text("utf-8")}</style>
</head>
<body class="vlcl-page">
<main id="player"></main>
<noscript>The player needs JavaScript.</noscript>
<script type="application/json" id="payload">{payload}</script>
<script type="module">
{SCRIPT.read_text("utf-8")}
const payload = JSON.parse(document.getElementById("payload").textContent);
globalThis.player = mount(document.getElementById("player"), payload, {{ hash: window.parent === window }});
</script>
</body>
</html>
"""
