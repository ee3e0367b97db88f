"""Prompts inside the attention of a CLIP: one pair of keys and values per task, block and tower.

1. The first blocks of each tower get a place. A task's prompts at a place are one parameter
   [2, P, W]: keys (0) and values (1) at P prompt positions, in the tower's width W. They enter
   attention as they are: no projection, no bias, no LayerNorm, no position.
2. Keys start uniform in [-1, 1), values start at 0, when their task begins.
3. While a task is in use (`use`), the attention at every place goes through `attend`, which knows
   the task's prompts; otherwise it is CLIP's own. Detaching restores CLIP's own for good.

How prompts act on attention is up to `attend`, where DIKI and prefix tuning differ.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from open_clip.model import CLIP
from torch import Tensor, nn

from vlcl_toolkit.errors import UserError

Attend = Callable[..., Tensor]
"""How prompts act on one attention: `attend(attention, plain, query, prompts, weights, mask)` gives
its output `[n, length, width]` after the output projection.

attention: CLIP's own `nn.MultiheadAttention`, for its weights. plain: runs that attention. query:
the block's input after its LayerNorm, `[n, length, width]`. prompts: `[2, P, width]`. weights:
strength of the prompts in each of the n sequences; None: 1. mask: added to the scores among tokens,
`[length, length]`, or None.
"""


class _InUse(NamedTuple):
    task: int
    weights: Tensor | None


class PromptPool:
    """The prompts of all tasks learned so far, and their places in a model.

    Attributes:
        places: attention modules by name ("visual.transformer.resblocks.0", ...,
            "transformer.resblocks.0", ...).
        tasks: per task, one parameter `[2, P, W]` for each place.
        listener: is given the name of a place and the arguments of `attend`, if it is not None.
    """

    def __init__(
        self,
        model: CLIP,
        attend: Attend,
        *,
        depth_vision: int,
        depth_text: int,
        length_vision: int,
        length_text: int,
    ):
        """Find the places: the first `depth` blocks of a tower, or all if it has fewer."""
        self.attend = attend
        self.places: dict[str, nn.MultiheadAttention] = {}
        self._lengths: dict[str, int] = {}
        towers = (
            ("visual.transformer", model.visual.transformer, depth_vision, length_vision),
            ("transformer", model.transformer, depth_text, length_text),
        )
        for name, tower, depth, length in towers:
            for index, block in enumerate(tower.resblocks[:depth]):
                self.places[f"{name}.resblocks.{index}"] = block.attn
                self._lengths[f"{name}.resblocks.{index}"] = length
        self.tasks: list[dict[str, nn.Parameter]] = []
        self.listener: Callable[..., None] | None = None
        self._in_use: _InUse | None = None
        self._attached = False

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """Shape `[2, P, W]` of one task's prompts at each place."""
        return {name: (2, self._lengths[name], at.embed_dim) for name, at in self.places.items()}

    # Attaching.

    def attach(self) -> None:
        """Lead the attention at every place through this pool."""
        for name, attention in self.places.items():
            through_pool = partial(self._forward, name, attention, attention.forward)
            attention.forward = through_pool  # type: ignore[method-assign]
        self._attached = True

    def detach(self) -> None:
        """Give every place its own attention back."""
        for attention in self.places.values():
            del attention.forward  # uncovers the method of the class
        self._attached = False

    @contextlib.contextmanager
    def use(self, task: int, weights: Float[Tensor, " n"] | None = None) -> Iterator[None]:
        """Context: the towers run with the prompts of `task`.

        Args:
            weights: one strength per sequence of the tower that runs; None: 1.

        Raises:
            UserError: the pool is not attached, or there is no such task.
        """
        if not self._attached:
            raise UserError("prompts act on an attached method only; call attach() first")
        self.check_task(task)
        before, self._in_use = self._in_use, _InUse(task, weights)
        try:
            yield
        finally:
            self._in_use = before

    def _forward(
        self,
        name: str,
        attention: nn.MultiheadAttention,
        plain: Callable[..., tuple[Tensor, Tensor | None]],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        def run_plain() -> Tensor:
            return plain(query, key, value, attn_mask=attn_mask, **options)[0]

        if self._in_use is None:
            return run_plain(), None
        prompts = self.prompts_at(self._in_use.task, name, self._in_use.weights)
        arguments = (attention, run_plain, query, prompts, self._in_use.weights, attn_mask)
        if self.listener is not None:
            self.listener(name, *arguments)
        return self.attend(*arguments), None

    # Prompts of tasks.

    def prompts_at(self, task: int, name: str, weights: Float[Tensor, " n"] | None) -> Any:
        """What `attend` gets: the prompts of a task at a place, for sequences of these weights."""
        return self.tasks[task][name]

    def grow(self, generator: torch.Generator) -> None:
        """Add the prompts of the next task.

        Args:
            generator: a CPU generator for the keys.
        """
        prompts = {}
        for name, attention in self.places.items():
            start = torch.zeros(self.shapes[name])
            start[0].uniform_(-1, 1, generator=generator)
            prompts[name] = nn.Parameter(start.to(attention.in_proj_weight.device))
        self.tasks.append(prompts)

    def check_task(self, task: int) -> None:
        """Raises UserError unless `task` has prompts."""
        if not self.tasks:
            raise UserError("no task was learned yet; train a task or load a checkpoint first")
        if not 0 <= task < len(self):
            raise UserError(f"task ids run from 0 to {len(self) - 1}; found {task}; choose one")

    @property
    def text_places(self) -> list[str]:
        """Names of the places in the text tower."""
        return [name for name in self.places if not name.startswith("visual.")]

    # Saving.

    def state_dict(self) -> dict[str, Tensor]:
        """Prompts by "<task>.<place>"."""
        return {
            f"{task}.{name}": value.detach()
            for task, prompts in enumerate(self.tasks)
            for name, value in prompts.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            UserError: the prompts belong to another backbone or other settings.
        """
        count = len({key.split(".", 1)[0] for key in state})
        expected: dict[str, tuple[int, ...]] = {
            f"{t}.{name}": shape for t in range(count) for name, shape in self.shapes.items()
        }
        self._check_shapes({key: tuple(value.shape) for key, value in state.items()}, expected)
        self.tasks = [
            {
                name: nn.Parameter(state[f"{task}.{name}"].to(at.in_proj_weight).clone())
                for name, at in self.places.items()
            }
            for task in range(count)
        ]

    @staticmethod
    def _check_shapes(
        found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
    ) -> None:
        if found != expected:
            wrong = sorted(
                key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)
            )
            key = wrong[0]
            raise UserError(
                f"these prompts belong to another backbone or depth; {len(wrong)} differ, e.g. {key}: "
                f"found {found.get(key)}, expected {expected.get(key)}; use the settings they come from"
            )


def add_residual_branch(
    attention: nn.MultiheadAttention,
    plain: Callable[[], Float[Tensor, "n length width"]],
    query: Float[Tensor, "n length width"],
    prompts: Float[Tensor, "2 prompts width"],
    weights: Float[Tensor, " n"] | None,
    mask: Float[Tensor, "length length"] | None,
) -> Float[Tensor, "n length width"]:
    """DIKI's `Attend`: CLIP's own attention plus the branch, which no mask concerns."""
    return plain() + residual_branch(attention, query, prompts, weights)


def residual_branch(
    attention: nn.MultiheadAttention,
    query: Float[Tensor, "n length width"],
    prompts: Float[Tensor, "2 prompts width"],
    weights: Float[Tensor, " n"] | None,
) -> Float[Tensor, "n length width"]:
    """Attention of every token to the prompts alone, after the output projection without its bias.

        softmax(q K^T / sqrt(d)) V Wo^T,  q = query Wq^T + bq,  times the sequence's weight

    with a softmax of its own and no mask. Computed in another order of products: the few keys are
    carried through the query projection and the few values through the output projection, so that
    a token costs 2 P H W products instead of 2 W^2 (H heads). Values of 0 give exactly 0.

    Source: DIKI (Tang et al., ECCV 2024), the "interference-free" branch.
    """
    heads = (attention.num_heads, attention.head_dim)
    width = attention.embed_dim
    keys, values = prompts[0].unflatten(-1, heads), prompts[1].unflatten(-1, heads)  # [P, H, d]
    keys = keys / attention.head_dim**0.5
    to_query = attention.in_proj_weight[:width].unflatten(0, heads)  # [H, d, W]
    query_bias = attention.in_proj_bias[:width].unflatten(0, heads)
    to_scores = torch.einsum("phd,hdw->hpw", keys, to_query).flatten(0, 1)
    score_bias = torch.einsum("phd,hd->hp", keys, query_bias).flatten()
    to_output = attention.out_proj.weight.unflatten(1, heads)  # [W, H, d]
    from_attention = torch.einsum("whd,phd->whp", to_output, values).flatten(1)

    scores = nn.functional.linear(query, to_scores, score_bias)
    among_prompts = scores.unflatten(-1, (attention.num_heads, -1)).softmax(dim=-1).flatten(-2)
    output = nn.functional.linear(among_prompts, from_attention)
    return output if weights is None else output * weights[:, None, None].to(output.dtype)
