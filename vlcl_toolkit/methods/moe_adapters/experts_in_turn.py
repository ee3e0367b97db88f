"""Experts of a mixture one after another, as the official code of MoE-Adapters computes them.

`Mixture` computes the chosen experts in one grouped product. Sums then come in another order, and
what float32 rounds differs: by nothing that matters in a forward pass, but Adam divides a gradient
by its own size, so that an element whose gradient is rounding noise may move by a whole step. For
comparisons with recorded numbers the official order is kept here:

1. for each expert in ascending order: down(h), ReLU, dropout, up(...), times the factor 0.1, over the
   rows that chose it;
2. the outputs of all experts one below the other, times their gates;
3. added into the rows.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def experts_in_turn(
    experts: Iterable[Any],
    h: Float[Tensor, "rows tokens width"],
    chosen: Int64[Tensor, "rows k"],
    weights: Float[Tensor, "rows k"],
    keep: Float[Tensor, "rows k tokens hidden"] | None,
    scale: float | int,
) -> Float[Tensor, "rows tokens width"]:
    """What the experts add to the stream `h`.

    Args:
        experts: modules with the linear layers `down_proj` and `up_proj`.
        chosen, weights: of `Routing`; an expert whose weight vanished does not take part.
        keep: factors of the hidden layer: 0 where dropped, 1 / (1 - p) elsewhere; None: no dropout.
        scale: of every expert's output.
    """
    rows, gates, outputs = [], [], []
    for index, expert in enumerate(experts):
        row, slot = ((chosen == index) & (weights != 0)).nonzero(as_tuple=True)
        if not len(row):  # not part of the graph: it gets no gradient
            continue
        hidden = expert.down_proj(h[row]).relu()
        if keep is not None:
            hidden = hidden * keep[row, slot]
        rows.append(row)
        gates.append(weights[row, slot])
        outputs.append(expert.up_proj(hidden) * scale)
    stacked = torch.cat(outputs).flatten(1) * torch.cat(gates)[:, None]
    total = torch.zeros_like(h).flatten(1).index_add(0, torch.cat(rows), stacked.to(h.dtype))
    return total.view_as(h)
