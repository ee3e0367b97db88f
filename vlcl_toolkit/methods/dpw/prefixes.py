"""DPW's prompts at one attention: how a token weighs them, which are cut off, and the adapter.

1. Every prompt of every head gets a score, an affine map of the token x (the block's input),
   s = x G + b, with b per position.
2. Conditional normalisation: z = sigmoid(s); g = z / max(sum z, 1): a token may take less than 1 in
   all, where a softmax always takes 1.
3. Residual weighting: what exceeds 1, rho = max(sum z, 1) - 1, is the weight of an adapter
   a(x) = 0.05 (dropout(x D) U^T + u) with a fixed D.
4. Cut-off, with sequence weights (at test time) where they are low: an image's prompt stays where
   g > 1 - sigmoid(log density of the class token's score under the task's scores), a text's where
   g > 1 - w.
5. The branch sum_p g_p V_p + rho a(x), heads side by side, times the sequence's weight, goes through
   CLIP's output projection and is added to CLIP's own attention, as in DIKI.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlcl_toolkit.methods.dpw.config import Activation
from vlcl_toolkit.sharding import local_random

ADAPTER_SCALE = 0.05
_LEAST_VARIANCE = 1e-6


@dataclass
class Prefixes:
    """What a task has at one attention, and how it is used.

    Attributes:
        values: V, one row per prompt; head j owns the j-th share of the channels.
        score_weight: G, `[heads, W, P]`, or `[heads, W / heads, P]` (light), or with query-key scores the
            keys `[1, P, W]`.
        score_bias: b; None with query-key scores.
        down, up, up_bias: D, U, u of the adapter; down None: no adapter.
        score_mean, score_variance: of the class token's scores over the task's training images.
        image_tower: False: the text tower.
        dropout: share of the adapter's inner values to drop now.
        cut: which sequences are cut off; None: none.
    """

    values: Float[Tensor, "p width"]
    score_weight: Float[Tensor, "heads a b"]
    score_bias: Float[Tensor, "heads positions p"] | None
    down: Float[Tensor, "width rank"] | None
    up: Float[Tensor, "width rank"] | None
    up_bias: Float[Tensor, " width"] | None
    score_mean: Float[Tensor, "scored p"]
    score_variance: Float[Tensor, "scored p"]
    image_tower: bool
    activation: Activation = "normalised"
    dropout: float = 0.0
    cut: Bool[Tensor, " n"] | None = None

    def scores(
        self, attention: nn.MultiheadAttention, x: Float[Tensor, "n length width"]
    ) -> Float[Tensor, "n length heads p"]:
        """Step 1."""
        if self.score_bias is None:
            split, width = (attention.num_heads, attention.head_dim), attention.embed_dim
            weight, bias = attention.in_proj_weight[:width], attention.in_proj_bias[:width]
            query = F.linear(x, weight, bias).unflatten(-1, split)
            keys = self.score_weight[0].unflatten(-1, split) / attention.head_dim**0.5
            return torch.einsum("nlhd,phd->nlhp", query, keys)
        heads, channels, prompts = self.score_weight.shape
        if channels == x.shape[-1]:
            flat = self.score_weight.transpose(1, 2).flatten(0, 1)  # [heads P, W]
            scores = F.linear(x, flat).unflatten(-1, (heads, prompts))
        else:
            own = x.unflatten(-1, (heads, channels))
            scores = torch.einsum("nlhc,hcp->nlhp", own, self.score_weight)
        return scores + self.score_bias[:, : x.shape[1]].transpose(0, 1)  # texts end early

    def weights(
        self, scores: Float[Tensor, "n length heads p"]
    ) -> tuple[Float[Tensor, "n length heads p"], Float[Tensor, "n length heads"]]:
        """Step 2 and the adapter's weight (step 3)."""
        if self.activation == "softmax":
            weights = scores.softmax(dim=-1)
            return weights, torch.zeros_like(weights[..., 0])
        each = scores.sigmoid()
        total = each.sum(dim=-1).clamp(min=1)
        normalised = self.activation == "normalised"
        return each / total[..., None] if normalised else each, total - 1

    def kept(
        self,
        scores: Float[Tensor, "n length heads p"],
        weights: Float[Tensor, "n length heads p"],
        strength: Float[Tensor, " n"],
    ) -> Float[Tensor, "n length heads p"]:
        """Step 4: the weights with those of cut-off prompts 0."""
        if self.cut is None or not self.cut.any():
            return weights
        if self.image_tower:
            variance = self.score_variance.clamp(min=_LEAST_VARIANCE)
            distance = (scores[:, 0].float() - self.score_mean).square() / variance
            log_density = -0.5 * (distance + variance.log() + math.log(2 * math.pi))
            bound = 1 - log_density.sigmoid()[:, None]  # [n, 1, heads, P]
        else:
            bound = 1 - strength[:, None, None, None]
        keep = (weights > bound) | ~self.cut[:, None, None, None]
        return weights * keep

    def adapted(self, x: Float[Tensor, "n length width"]) -> Float[Tensor, "n length width"]:
        """a(x) of step 3."""
        assert self.down is not None
        assert self.up is not None
        inner = x @ self.down
        if self.dropout:
            keep = local_random(torch.rand, inner) >= self.dropout
            inner = inner * keep / (1 - self.dropout)
        return ADAPTER_SCALE * F.linear(inner, self.up, self.up_bias)


def add_weighted_branch(
    attention: nn.MultiheadAttention,
    plain: Callable[[], Float[Tensor, "n length width"]],
    query: Float[Tensor, "n length width"],
    prompts: Prefixes,
    weights: Float[Tensor, " n"] | None,
    mask: Float[Tensor, "length length"] | None,
) -> Float[Tensor, "n length width"]:
    """Step 5; DPW's `Attend` of diki/prompts.py. No mask concerns the branch."""
    branch = F.linear(
        weighted_branch(attention, query, prompts, weights), attention.out_proj.weight
    )
    return plain() + branch


def weighted_branch(
    attention: nn.MultiheadAttention,
    query: Float[Tensor, "n length width"],
    prompts: Prefixes,
    strength: Float[Tensor, " n"] | None,
) -> Float[Tensor, "n length width"]:
    """The branch before the output projection."""
    scores = prompts.scores(attention, query)
    weights, residual = prompts.weights(scores)
    if strength is not None:
        weights = prompts.kept(scores, weights, strength)
    heads = scores.shape[2]
    values = prompts.values.unflatten(-1, (heads, -1))  # [P, heads, W / heads]
    branch = torch.einsum("nlhp,phc->nlhc", weights, values)
    if prompts.down is not None:
        branch = branch + residual[..., None] * prompts.adapted(query).unflatten(-1, (heads, -1))
    joined = branch.flatten(-2)
    return joined if strength is None else joined * strength[:, None, None].to(joined.dtype)


def weighted_prompt_attention(
    attention: nn.MultiheadAttention,
    plain: Callable[[], Float[Tensor, "n length width"]],
    query: Float[Tensor, "n length width"],
    prompts: Prefixes,
    weights: Float[Tensor, " n"] | None,
    mask: Float[Tensor, "length length"] | None,
) -> Float[Tensor, " n"]:
    """Length of the branch's output over length of CLIP's own attention output, >= 0 (see diki)."""
    branch = weighted_branch(attention, query, prompts, weights)
    output = F.linear(branch, attention.out_proj.weight)
    return (output.norm(dim=-1) / plain().norm(dim=-1)).mean(dim=1).float()
