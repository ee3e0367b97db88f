"""Runs that rounding in float32 is measured by."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from distributed_runs import main
from tiny import tiny_clip
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SAMPLED = (torch.rand, torch.randn)
_SAMPLED_IN_PLACE = (torch.Tensor.uniform_, torch.Tensor.normal_)


class InFloat64(TorchFunctionMode):
    """Context: what is written for float32 is computed in float64, from the same random numbers.

    The weights of the model are float64 already.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.float:
            return args[0].double()
        if function in _SAMPLED:  # float64 would be another sequence of numbers
            return function(*args, **kwargs | {"dtype": torch.float32}).double()
        if function in _SAMPLED_IN_PLACE:
            numbers = function(torch.empty(args[0].shape), *args[1:], **kwargs)
            with torch.no_grad():
                return args[0].copy_(numbers)
        if function is torch._grouped_mm:  # has no float64
            ends = [0, *kwargs["offs"].tolist()]
            groups = zip(ends, ends[1:], args[1], strict=False)
            return torch.cat([args[0][start:stop] @ weight for start, stop, weight in groups])
        found = function(*args, **kwargs)
        if function in (torch.Tensor.grad.__get__, torch.Tensor.data.__get__):
            return found
        is_result = isinstance(found, Tensor) and not isinstance(found, torch.nn.Parameter)
        return found.double() if is_result and found.dtype == torch.float32 else found


def run_in_float64(folder: Path, cases: list[str]) -> None:
    """As `main`, by one process."""
    clip = tiny_clip()
    clip.model.double()
    with InFloat64():
        main(folder, cases, {}, clip)


def run_rounded(folder: Path, cases: list[str], seed: int) -> None:
    """As `main`, by one process in float32, from weights that another rounding might have given."""
    clip, generator = tiny_clip(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in clip.model.parameters():
            away = 2 * torch.rand(value.shape, generator=generator) - 1
            value.mul_(1 + torch.finfo(torch.float32).eps * away)
    main(folder, cases, {}, clip)
