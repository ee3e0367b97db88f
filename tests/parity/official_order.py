"""MoE-Adapters in the order of products and sums of its official code, for recorded numbers.

The library computes the chosen experts in one grouped product and texts up to their last end. Sums
then come in another order, and what float32 rounds differs: by nothing that matters in a forward
pass, but Adam divides a gradient by its own size, so that an element whose gradient is rounding noise
may move by a whole step. Here:

1. attention runs sequence first, texts over all positions, and every prompt is routed;
2. for each expert in ascending order: down(h), ReLU, dropout, up(...), times the factor, over the
   rows that chose it;
3. the outputs of all experts one below the other, times their gates, are added into the rows.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from vlcl_toolkit.methods.moe_adapters.experts import NO_ROUTER, Mixture, Routing
from vlcl_toolkit.methods.moe_adapters.moe_adapters import MoEAdapters
from vlcl_toolkit.methods.moe_adapters.towers import ExpertTowers


def experts_in_turn(mixture: Mixture, h: Tensor, routing: Routing) -> Tensor:
    """Steps 2 and 3, in place of `Mixture.apply_experts`."""
    keep = None
    if mixture.mode.training and mixture.dropout:
        like = h.detach().new_empty(*routing.chosen.shape, h.shape[1], mixture.bottleneck)
        keep = mixture.mode.sampler.keep(mixture.place, like, mixture.dropout)
        keep = keep / (1 - mixture.dropout)
    rows, gates, outputs = [], [], []
    for index, expert in enumerate(mixture.adaptmlp_list):
        chose = (routing.chosen == index) & (routing.weights != 0)
        row, slot = chose.nonzero(as_tuple=True)
        if not len(row):  # not part of the graph: it gets no gradient
            continue
        hidden = expert.down_proj(h[row]).relu()
        if keep is not None:
            hidden = hidden * keep[row, slot]
        rows.append(row)
        gates.append(routing.weights[row, slot])
        outputs.append(expert.up_proj(hidden) * mixture.scale)
    stacked = torch.cat(outputs).flatten(1) * torch.cat(gates)[:, None]
    total = torch.zeros_like(h).flatten(1).index_add(0, torch.cat(rows), stacked.to(h.dtype))
    return total.view_as(h)


def run_in_turn(mixture: Mixture) -> None:
    """Make a mixture compute its experts one after another."""
    mixture.apply_experts = partial(experts_in_turn, mixture)


def block_forward(
    block: Any, mixture: Mixture, x: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """Step 1 in a block."""
    in_sequence = block.ln_1(x).transpose(0, 1).contiguous()
    attended = block.attention(in_sequence, attn_mask=attn_mask).transpose(0, 1)
    h = x + block.ls_1(attended)
    out = h + block.ls_2(block.mlp(block.ln_2(h)))
    return out if mixture.mode.router == NO_ROUTER else out + mixture(h)


class OfficialTowers(ExpertTowers):
    """Towers that compute in the official order."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        for block, mixture in zip(self._blocks, self.mixtures.values(), strict=True):
            run_in_turn(mixture)
            block.forward = partial(block_forward, block, mixture)
            block.attn.batch_first = False

    def detach(self) -> None:
        super().detach()
        for block in self._blocks:
            block.attn.batch_first = True

    @contextlib.contextmanager
    def routed(self, router: int, **options: Any) -> Iterator[list[Tensor]]:
        with super().routed(router, **options) as terms:
            self.mode.one_choice = False
            yield terms


class OfficialOrder(MoEAdapters):
    """MoE-Adapters on such towers; texts run over all positions wherever it is attached."""

    def on_attach(self) -> None:
        with mock.patch(
            "vlcl_toolkit.methods.moe_adapters.moe_adapters.ExpertTowers", OfficialTowers
        ):
            super().on_attach()
        self._whole_texts = mock.patch(
            "vlcl_toolkit.clip.model.text_length", lambda tokens: tokens.shape[1]
        )
        self._whole_texts.start()

    def on_detach(self) -> None:
        self._whole_texts.stop()
        super().on_detach()
