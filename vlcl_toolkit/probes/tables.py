"""Probes from inside the network as tidy frames; each has columns step, after, domain, status.

step: 0 is the frozen backbone, k comes after task k. after: that task's name, or "zero-shot".
status: what the domain is at that step ("learned", "current", "unseen", "held-out").
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vlcl_toolkit.probes.files import missing_probe

if TYPE_CHECKING:
    from vlcl_toolkit.probes.reader import Probes

TOWERS = ("image", "text")
POSITIONS = ("class", "rest")
MEASURES = ("relative_norm", "cosine", "cka")


def drift(probes: "Probes") -> pd.DataFrame:
    """How far activations moved from the frozen network's, on the same inputs.

    Columns: step, after, domain, status, tower, block (0 = embedding, k = after block k), position
    ("class": the token that is pooled; "rest": mean over the other tokens), relative_norm (length
    of the change / length before, mean over inputs, >= 0), cosine (mean, -1 .. 1), cka (linear CKA
    over the inputs of the domain, 0 .. 1, 1 = the same geometry; nan where they do not vary).
    Inputs of the image tower are the probe images, those of the text tower the class prompts in the
    first template.

    Source: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited".
    """
    rows = []
    for step, tower, domain, values in _arrays(probes, "drift"):
        for block, position in np.ndindex(*values.shape[:2]):
            place = {"tower": tower, "block": block, "position": POSITIONS[position]}
            measured = dict(zip(MEASURES, values[block, position].tolist(), strict=True))
            rows.append(_where(probes, step, domain) | place | measured)
    return _frame(probes, "drift", rows)


def attention(probes: "Probes") -> pd.DataFrame:
    """What prompts take: columns step, after, domain, status, tower, block (from 1), share.

    Prefix tuning: the mean share of attention that goes to prompts, in [0, 1]; it is lost for the
    tokens. DIKI: length of what the residual branch adds over length of CLIP's own attention
    output, >= 0; that attention itself loses nothing.
    """
    rows = []
    for step, tower, domain, values in _arrays(probes, "attention"):
        for block, share in enumerate(values.tolist(), start=1):
            if not np.isnan(share):
                place = {"tower": tower, "block": block, "share": share}
                rows.append(_where(probes, step, domain) | place)
    return _frame(probes, "attention", rows)


def routing(probes: "Probes") -> pd.DataFrame:
    """Which experts work.

    Columns: step, after, domain, status, tower, block (from 1), expert (from 0), choices (inputs of
    the domain that chose it), gate_mass (sum of its gates over them). Inputs of the frozen route
    choose no expert.
    """
    rows = []
    for step, tower, domain, choices in _arrays(probes, "choices"):
        gates = probes.array(step, f"gate_mass/{tower}/{domain}")
        for block, expert in np.ndindex(*choices.shape):
            place = {"tower": tower, "block": block + 1, "expert": expert}
            use = {
                "choices": int(choices[block, expert]),
                "gate_mass": float(gates[block, expert]),
            }
            rows.append(_where(probes, step, domain) | place | use)
    return _frame(probes, "choices", rows)


def parameter_distance(probes: "Probes") -> pd.DataFrame:
    """L2 distance of what a method changes; what it adds counts from zero.

    Columns: step, after, tower, block (0 = embedding, 1 .. L, L + 1 = head), from_frozen,
    from_previous.
    """
    rows = []
    for step in probes.steps:
        for tower in TOWERS:
            name = f"parameters/{tower}"
            if name not in probes.names(step):
                continue
            for block, (frozen, previous) in enumerate(probes.array(step, name).tolist()):
                place = {"step": step, "after": probes.after(step), "tower": tower, "block": block}
                rows.append(place | {"from_frozen": frozen, "from_previous": previous})
    return _frame(probes, "parameters", rows)


def _arrays(probes: "Probes", kind: str) -> Iterator[tuple[int, str, str, np.ndarray]]:
    for step in probes.steps:
        there = set(probes.names(step))
        for tower in TOWERS:
            for domain in probes.domains:
                name = f"{kind}/{tower}/{domain}"
                if name in there:
                    yield step, tower, domain, probes.array(step, name)


def _where(probes: "Probes", step: int, domain: str) -> dict[str, Any]:
    status = probes.status(step, domain)
    return {"step": step, "after": probes.after(step), "domain": domain, "status": status}


def _frame(probes: "Probes", probe: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    if not rows:
        raise missing_probe(f"the probe {probe!r}", probes.source, probes.method)
    return pd.DataFrame(rows)
