"""Mixtures of experts beside every block of a CLIP, attached from outside and detached again."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.moe_adapters.experts import NO_ROUTER, Expert, Mixture, Mode, Place, Tower


class ExpertTowers:
    """The mixtures of one model, by the name of their block.

    Attributes:
        mixtures: "visual.transformer.resblocks.0" -> its mixture, and so on, image tower first.
        mode: what they do in the next forward passes; see `routed`.
    """

    def __init__(self, model: CLIP, *, text: bool, route_by_end: bool, **settings: Any):
        """Create the mixtures, all zero, on the model's device, and put them into its blocks.

        Args:
            text: whether the text tower gets experts too.
            route_by_end: prompts are routed by their end-of-text token, not by the first one.
            settings: experts, top_k, bottleneck, dropout, scale.
        """
        self.mode = Mode()
        self.route_by_end = route_by_end
        self.text = text
        self.mixtures: dict[str, Mixture] = {}
        self._blocks: list[Any] = []
        towers: dict[Tower, tuple[str, Any]]
        towers = {"image": ("visual.transformer", model.visual.transformer)}
        if text:
            towers["text"] = ("transformer", model.transformer)
        for tower, (path, transformer) in towers.items():
            if not transformer.batch_first:
                raise UserError(
                    f"MoE-Adapters needs a {tower} tower that works batch first; found one that "
                    "does not; build the model with batch_first=True"
                )
            for layer, block in enumerate(transformer.resblocks):
                width = block.ln_2.normalized_shape[0]
                mixture = Mixture(Place(tower, layer), width, self.mode, **settings)
                mixture.to(model.positional_embedding.device)
                self.mixtures[f"{path}.resblocks.{layer}"] = mixture
                block.forward = partial(_forward, block, mixture)
                self._blocks.append(block)
        self._hook = model.token_embedding.register_forward_hook(self._note_ends)

    def detach(self) -> None:
        """Give the blocks their own forward back."""
        for block in self._blocks:
            del block.forward
        self._hook.remove()

    @contextlib.contextmanager
    def routed(
        self, router: int, *, training: bool = False, noise: bool = False, balance: bool = False
    ) -> Iterator[list[Tensor]]:
        """Context in which the towers run with router `router`, or plainly with NO_ROUTER.

        Args:
            training: dropout acts, choices are counted, gradients are kept per row.
            noise: routers are noisy.
            balance: gather the load-balance term of every block in the list that is yielded.

        Raises:
            UserError: there is no such router.
        """
        known = self.routers
        if not NO_ROUTER <= router < known:
            raise UserError(
                f"routers are 0..{known - 1} ({known} learned), or -1 for the plain model; "
                f"found {router}; choose one of them"
            )
        mode, terms = self.mode, list[Tensor]()
        mode.router, mode.training, mode.noise = router, training, noise
        mode.one_choice = not (training or noise or self.route_by_end)
        mode.balance = terms if balance else None
        try:
            yield terms
        finally:
            mode.router, mode.training, mode.noise = NO_ROUTER, False, False
            mode.balance, mode.ends = None, None

    @property
    def routers(self) -> int:
        """How many routers there are."""
        return len(next(iter(self.mixtures.values())).router_list)

    def add_routers(self, total: int) -> None:
        """Grow to `total` routers per block; new ones are zero."""
        for mixture in self.mixtures.values():
            while len(mixture.router_list) < total:
                mixture.add_router()

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Initial weights of all experts."""
        for mixture in self.mixtures.values():
            for expert in mixture.adaptmlp_list:
                assert isinstance(expert, Expert)
                expert.reset_parameters(generator)

    def freeze_most_chosen(self, top: int) -> None:
        """Freeze the `top` experts of each block that were chosen most; ties: the lower index."""
        for mixture in self.mixtures.values():
            order = mixture.count.sort(descending=True, stable=True).indices
            mixture.frozen[order[:top]] = True

    def reset_counts(self) -> None:
        """Forget by how many rows experts were chosen."""
        for mixture in self.mixtures.values():
            mixture.count.zero_()

    def named(self) -> dict[str, Tensor]:
        """All parameters, counters and frozen flags by their full names."""
        return {
            f"{path}.{name}": value
            for path, mixture in self.mixtures.items()
            for name, value in mixture.state_dict(keep_vars=True).items()
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy what `named` gave into these mixtures; there are as many routers afterwards.

        Raises:
            UserError: other blocks, widths or numbers of experts.
        """
        numbers = [int(name.rsplit(".", 1)[1]) for name in state if ".router_list." in name]
        total = max(numbers, default=-1) + 1
        self.add_routers(total)
        for mixture in self.mixtures.values():
            mixture.router_list = mixture.router_list[:total]
            mixture.w_noise_list = mixture.w_noise_list[:total]
        own = self.named()
        wrong = sorted(
            name
            for name in own.keys() | state.keys()
            if name not in own or name not in state or own[name].shape != state[name].shape
        )
        if wrong:
            raise UserError(
                f"this checkpoint of moe_adapters does not fit; {len(wrong)} entries differ, e.g. "
                f"{wrong[0]!r}; use the backbone and the settings it was trained with"
            )
        for name, value in own.items():
            value.copy_(state[name])

    def trainable(self, router: int) -> dict[str, nn.Parameter]:
        """Experts that are not frozen, and the router in use, of every block."""
        found: dict[str, nn.Parameter] = {}
        for path, mixture in self.mixtures.items():
            for index, frozen in enumerate(mixture.frozen.tolist()):
                if not frozen:
                    expert = mixture.adaptmlp_list[index]
                    prefix = f"{path}.adaptmlp_list.{index}"
                    found |= {f"{prefix}.{name}": p for name, p in expert.named_parameters()}
            found[f"{path}.router_list.{router}"] = mixture.router_list[router]
            found[f"{path}.w_noise_list.{router}"] = mixture.w_noise_list[router]
        return found

    def _note_ends(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self.route_by_end:
            self.mode.ends = inputs[0].argmax(dim=-1)


def _forward(
    block: Any,
    mixture: Mixture,
    x: Tensor,
    k_x: Tensor | None = None,
    v_x: Tensor | None = None,
    attn_mask: Tensor | None = None,
) -> Tensor:
    # The forward of open_clip's block with one term more.
    normed = block.ln_1(x)
    h = x + block.ls_1(block.attention(normed, k_x, v_x, attn_mask=attn_mask))
    out = h + block.ls_2(block.mlp(block.ln_2(h)))
    return out if mixture.mode.router == NO_ROUTER else out + mixture(h)
