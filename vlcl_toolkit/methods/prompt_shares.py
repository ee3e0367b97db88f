"""What prompts take of attention (prefix tuning) or add to it (DIKI), for probes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlcl_toolkit.methods.prompts import residual_branch

Share = Callable[..., Tensor]
"""`share(attention, plain, query, prompts, weights, mask)`, arguments as of `Attend`: one number
per sequence, the mean over its tokens."""


def residual_share(
    attention: nn.MultiheadAttention,
    plain: Callable[[], Float[Tensor, "n length width"]],
    query: Float[Tensor, "n length width"],
    prompts: Float[Tensor, "2 prompts width"],
    weights: Float[Tensor, " n"] | None,
    mask: Float[Tensor, "length length"] | None,
) -> Float[Tensor, " n"]:
    """DIKI: length of the branch's output over length of CLIP's own attention output, >= 0.

    0 means that nothing was added. CLIP's own attention is whole at any value.
    """
    branch = residual_branch(attention, query, prompts, weights)
    return (branch.norm(dim=-1) / plain().norm(dim=-1)).mean(dim=1).float()


def prefix_share(
    attention: nn.MultiheadAttention,
    plain: Callable[[], Float[Tensor, "n length width"]],
    query: Float[Tensor, "n length width"],
    prompts: Float[Tensor, "2 prompts width"],
    weights: Float[Tensor, " n"] | None,
    mask: Float[Tensor, "length length"] | None,
) -> Float[Tensor, " n"]:
    """Prefix tuning: the attention that prompts get, mean over heads, in [0, 1].

    The tokens of CLIP keep 1 minus this.
    """
    split, width = (attention.num_heads, attention.head_dim), attention.embed_dim
    weight, bias = attention.in_proj_weight[: 2 * width], attention.in_proj_bias[: 2 * width]
    projected = F.linear(query, weight, bias)
    q, k = (part.unflatten(-1, split).transpose(1, 2).float() for part in projected.chunk(2, -1))
    own = prompts[0].float().unflatten(-1, split).transpose(0, 1)  # [H, P, d]
    scale = attention.head_dim**-0.5
    to_prompts = scale * q @ own.transpose(-1, -2)
    if weights is not None:
        to_prompts = to_prompts + weights.float().log()[:, None, None, None]
    to_tokens = scale * q @ k.transpose(-1, -2)
    if mask is not None:
        to_tokens = to_tokens + mask
    attention_map = torch.cat((to_prompts, to_tokens), dim=-1).softmax(dim=-1)
    return attention_map[..., : prompts.shape[1]].sum(dim=-1).mean(dim=(1, 2))
