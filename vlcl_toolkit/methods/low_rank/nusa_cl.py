"""NuSA-CL: low-rank updates inside the directions that a weight hardly uses, merged after each task.

Paper: Jo and Kim, "NuSA-CL", ICLR 2026. Written from a description of the method alone.

1. Before each task, of every attention weight as it is now: W_m = P S Q^T; k is the smallest number of
   singular values that hold `cutoff` of the squared sum. The null space is what lies behind them: the
   last min(W - k, rank) singular pairs, U [W, r] and V [W, r], padded with zeros.
2. The update is s U M V^T, s = alpha / sqrt(rank); only the core M [r, r] is trained, from 0. In the form
   of branches.py: A = V, C = M^T, B = U^T.
3. Train, merge and classify as LoRA does. Weight decay pulls M to 0, that is, to the model before the task.

No data of earlier tasks is needed: what they changed is in the weights. No recorded numbers exist to
compare with; details: docs/fidelity_low_rank.md.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vlcl_toolkit.methods.low_rank.config import NusaClConfig
from vlcl_toolkit.methods.low_rank.lora import Lora
from vlcl_toolkit.methods.low_rank.subspaces import shares
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.streams.base import Task


@register
class NusaCl(Lora):
    """LoRA within the null space of the weights."""

    name = "nusa_cl"
    trained = ("core",)
    Config = NusaClConfig

    config: NusaClConfig

    @torch.no_grad()
    def begin_task(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """Steps 1 and 2."""
        for branch in self.branches.places.values():
            branch.reset()
            rank = branch.a.shape[2]
            for module, weight in enumerate(branch.stacked_weights()):
                left, right = null_space(weight, self.config.cutoff, rank)
                branch.a[module, :, : right.shape[1]] = right
                branch.b[module, : left.shape[1]] = left.T


def null_space(
    weight: Float[Tensor, "width width"], cutoff: float, rank: int
) -> tuple[Float[Tensor, "width r"], Float[Tensor, "width r"]]:
    """Step 1: left and right singular vectors, r <= rank of them, the largest singular value first."""
    left, values, right = torch.linalg.svd(weight.float())
    used = int((shares(values.square()) < cutoff).sum()) + 1
    count = min(max(0, len(values) - used), rank)
    start = len(values) - count
    return left[:, start:], right[start:].T
