"""Prefix tuning: prompts are prepended to the tokens, so that both share one softmax.

Papers: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021; as the
contrast to DIKI: Tang et al., ECCV 2024.

1. As many prompts in the same places, the same start, training and task decision as DIKI (diki.py).
2. But attention has one softmax over prompts and tokens,

       attention(x) = softmax([q K^T / sqrt(d) + log w ; q k^T / sqrt(d) + mask]) [V ; v].

   Whatever the prompts get is taken from the tokens. If prompts get a fraction a of attention, it is
   (1 - a) CLIP's own attention + a softmax(q K^T / sqrt(d)) V: even values of 0 change the output.
   That is the interference which DIKI's own softmax avoids.

Deviation: the paper of prefix tuning has no weight w. Here w multiplies the prompts' exponentials,
so that w = 1 is prefix tuning and w = 0 the frozen CLIP, as in DIKI (`calibrate=False`: always 1).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlcl_toolkit.methods.diki.config import PrefixConfig
from vlcl_toolkit.methods.diki.diki import Diki
from vlcl_toolkit.methods.diki.introspection import PromptIntrospection
from vlcl_toolkit.methods.registry import register


def prefix_attention(
    attention: nn.MultiheadAttention,
    plain: Callable[[], Float[Tensor, "n length width"]],
    query: Float[Tensor, "n length width"],
    prompts: Float[Tensor, "2 prompts width"],
    weights: Float[Tensor, " n"] | None,
    mask: Float[Tensor, "length length"] | None,
) -> Float[Tensor, "n length width"]:
    """Step 2; an `Attend` of prompts.py. `plain` is not needed."""
    count, length, _ = query.shape
    split = (attention.num_heads, attention.head_dim)
    projected = F.linear(query, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (part.unflatten(-1, split).transpose(1, 2) for part in projected.chunk(3, dim=-1))
    own = prompts.to(q.dtype).unflatten(-1, split).transpose(1, 2)  # [2, H, P, d]
    k = torch.cat((own[0].expand(count, -1, -1, -1), k), dim=2)
    v = torch.cat((own[1].expand(count, -1, -1, -1), v), dim=2)
    strength = torch.zeros(1, device=query.device) if weights is None else weights.log()
    among_tokens = query.new_zeros(length, length) if mask is None else mask
    to_prompts = strength[:, None, None, None].expand(-1, 1, length, prompts.shape[1])
    to_tokens = among_tokens.expand(len(strength), 1, -1, -1)
    bias = torch.cat((to_prompts.to(q.dtype), to_tokens.to(q.dtype)), dim=-1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def prefix_prompt_attention(
    attention: nn.MultiheadAttention,
    plain: Callable[[], Float[Tensor, "n length width"]],
    query: Float[Tensor, "n length width"],
    prompts: Float[Tensor, "2 prompts width"],
    weights: Float[Tensor, " n"] | None,
    mask: Float[Tensor, "length length"] | None,
) -> Float[Tensor, " n"]:
    """The attention that prompts get, mean over heads, in [0, 1].

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


@register
class PrefixTuning(Diki):
    """Prepended prompts per task, chosen and calibrated as in DIKI."""

    name = "prefix_tuning"
    attend = staticmethod(prefix_attention)

    Config = PrefixConfig

    def text_is_plain(self, task_id: int) -> bool:
        """Prompts take attention even with values of 0, so only their absence is plain."""
        return not self.pool.text_places

    def introspection(self) -> PromptIntrospection:
        """Routes are the prompts of tasks."""
        return PromptIntrospection(self, prefix_prompt_attention)
