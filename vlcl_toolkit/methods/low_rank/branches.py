"""The low-rank branch beside every attention of a tower, and how it is merged into the weights.

Of an attention block with query, key, value and output weights W_m [out, in], m = 1 .. 4, each of width W:

    W_m x  becomes  W_m x + s (A_m C_m B_m)^T drop(x),   A [W, r], C [r, r], B [r, W],

x being the input of the attention for the first three and the joined heads for the output. C is left
out where a method does not train it. Merged, the weight is W_m + s (A_m C_m B_m)^T, and the network is a
plain CLIP again. Query, key and value have factors of their own, although their weights are stored as one.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.model import CLIP
from torch import Tensor, nn

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.sharding import local_random

MODULES = ("q", "k", "v", "o")
_QKV, _OUT = slice(0, 3), slice(3, 4)
Plain = Callable[..., tuple[Tensor, Tensor | None]]
Listener = Callable[[str, Tensor, Tensor], None]
"""Is called with the place, the attention's input and its joined heads `[n, length, width]`."""


class Branch:
    """The four products of one attention.

    Attributes:
        attention: open_clip's module; its weights stay where they are.
        a, b, core: the factors `[4, W, r]`, `[4, r, W]`, `[4, r, r]`, in the order of MODULES.
        scaling: s.
    """

    def __init__(
        self, attention: nn.MultiheadAttention, rank: int, scaling: float, has_core: bool = False
    ):
        self.attention, self.scaling = attention, scaling
        width, device = attention.embed_dim, attention.in_proj_weight.device

        def zeros(rows: int, columns: int) -> nn.Parameter:
            empty = torch.zeros(len(MODULES), rows, columns, device=device)
            return nn.Parameter(empty, requires_grad=False)

        self.a, self.b = zeros(width, rank), zeros(rank, width)
        self.core = zeros(rank, rank) if has_core else None

    @property
    def factors(self) -> dict[str, nn.Parameter]:
        """By name: "a", "b" and, where there is one, "core"."""
        found = {"a": self.a, "b": self.b}
        return found if self.core is None else found | {"core": self.core}

    @torch.no_grad()
    def reset(self) -> None:
        """All factors 0."""
        for factor in self.factors.values():
            factor.zero_()

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The attention's own weights, which a product is merged into."""
        output: Any = self.attention.out_proj.weight
        return {"in_proj_weight": self.attention.in_proj_weight, "out_proj.weight": output}

    def stacked_weights(self) -> Float[Tensor, "4 out in"]:
        """A copy of W_m, in the order of MODULES."""
        packed = self.attention.in_proj_weight.detach().unflatten(0, (3, -1))
        return torch.cat((packed, self.attention.out_proj.weight.detach()[None]))

    def stacked_gradients(self) -> Float[Tensor, "4 out in"]:
        """Gradients of W_m."""
        packed, output = (weight.grad for weight in self.weights.values())
        assert packed is not None
        assert output is not None
        return torch.cat((packed.unflatten(0, (3, -1)), output[None]))

    @torch.no_grad()
    def merge(self, sign: int = 1) -> None:
        """Add (-1: subtract) the product to the weights; the factors stay."""
        left = self.a if self.core is None else self.a @ self.core
        product = sign * self.scaling * (left @ self.b).mT
        self.attention.in_proj_weight.add_(product[_QKV].flatten(0, 1))
        self.attention.out_proj.weight.add_(product[3])

    def output(
        self, x: Float[Tensor, "n length width"], which: slice, dropout: float
    ) -> Float[Tensor, "n length out"]:
        """s (A C B)^T drop(x) of some modules, side by side."""
        if dropout:  # one mask for query, key and value
            x = x * (local_random(torch.rand, x) >= dropout) / (1 - dropout)
        a, b = self.a[which], self.b[which] * self.scaling
        if self.core is not None:
            a = a @ self.core[which]
        if len(a) == 1:
            return x @ a[0] @ b[0]
        low = (x @ a.transpose(0, 1).flatten(1)).unflatten(-1, a.shape[::2])
        return torch.einsum("nlmr,mrw->nlmw", low, b).flatten(2)


class Branches:
    """The branches of a model.

    Attributes:
        places: "visual.transformer.resblocks.0" -> its branch, and so on, image tower first.
        active: whether they act; otherwise the towers are the plain ones.
        dropout: share of a branch's inputs that is set to 0 now.
    """

    def __init__(
        self,
        model: CLIP,
        ranks: dict[str, int],
        scaling: Callable[[int], float],
        has_core: bool = False,
    ):
        """Make the branches, all 0.

        Args:
            ranks: of each tower that has branches, "image" and "text".
            scaling: s of a rank.

        Raises:
            UserError: a rank above the width of its tower.
        """
        towers: dict[str, tuple[str, Any]] = {
            "image": ("visual.transformer", model.visual.transformer),
            "text": ("transformer", model.transformer),
        }
        self.places: dict[str, Branch] = {}
        for tower, rank in ranks.items():
            name, transformer = towers[tower]
            for index, block in enumerate(transformer.resblocks):
                width = block.attn.embed_dim
                if rank > width:
                    raise UserError(
                        f"rank must be at most the width of the {tower} tower, {width}; found {rank}; "
                        "lower rank"
                    )
                branch = Branch(block.attn, rank, scaling(rank), has_core)
                self.places[f"{name}.resblocks.{index}"] = branch
        self.active, self.dropout = False, 0.0
        self._listener: Listener | None = None

    def attach(self) -> None:
        """Lead every attention past its branch."""
        self._stored = [
            [weight.detach().clone() for weight in branch.weights.values()]
            for branch in self.places.values()
        ]
        for place, branch in self.places.items():
            beside = partial(self._forward, place, branch, branch.attention.forward)
            branch.attention.forward = beside  # type: ignore[method-assign]

    @torch.no_grad()
    def detach(self) -> None:
        """Give every attention its own forward and the very weights it had before `attach`."""
        for branch, stored in zip(self.places.values(), self._stored, strict=True):
            del branch.attention.forward  # uncovers the method of the class
            for weight, value in zip(branch.weights.values(), stored, strict=True):
                weight.copy_(value)

    @contextlib.contextmanager
    def training(self, dropout: float) -> Iterator[None]:
        """Context of a loss."""
        self.dropout = dropout
        try:
            yield
        finally:
            self.dropout = 0.0

    @contextlib.contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Context in which every attention tells `listener` what its weights are applied to."""
        self._listener = listener
        try:
            yield
        finally:
            self._listener = None

    def _forward(
        self,
        place: str,
        branch: Branch,
        plain: Plain,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if not self.active and self._listener is None:
            return plain(query, key, value, attn_mask=attn_mask, **options)
        attention = branch.attention
        packed = F.linear(query, attention.in_proj_weight, attention.in_proj_bias)
        if self.active:
            packed = packed + branch.output(query, _QKV, self.dropout)
        q, k, v = packed.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = attn_mask if attn_mask is None else attn_mask.to(packed.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        joined = mixed.transpose(1, 2).flatten(2)
        output = F.linear(joined, attention.out_proj.weight, attention.out_proj.bias)
        if self.active:
            output = output + branch.output(joined, _OUT, self.dropout)
        if self._listener is not None:
            self._listener(place, query, joined)
        return output, None

    def state_dict(self) -> dict[str, Tensor]:
        """Factors and attention weights, by "<place>.<name>"."""
        return {
            f"{place}.{name}": value.detach()
            for place, branch in self.places.items()
            for name, value in (branch.factors | branch.weights).items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        for place, branch in self.places.items():
            for name, value in (branch.factors | branch.weights).items():
                value.copy_(state[f"{place}.{name}"])
