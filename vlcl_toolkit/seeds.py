"""Randomness: seeds derived from names and numbers, and the state of every generator in use."""

import hashlib
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) from any numbers and names, the same on every machine.

    Stateless: the seed of task 3, epoch 2 does not depend on what was drawn before, so that a
    resumed run needs no history to find it.
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries that use the global state follow)
    torch.manual_seed(seed)


class local_seed:
    """Context: torch's global CPU generator is seeded inside and untouched afterwards.

    Args:
        seed: the seed, or None to leave the generator alone.
    """

    def __init__(self, seed: int | None):
        self.seed = seed

    def __enter__(self) -> None:
        if self.seed is not None:
            self.state = torch.get_rng_state()
            torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *exception: object) -> None:
        if self.seed is not None:
            torch.set_rng_state(self.state)


def rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of the generators of torch (CPU, the current GPU), NumPy and Python.

    Returns:
        tensors (uint8) and values that JSON can hold.
    """
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda.0"] = torch.cuda.get_rng_state()  # asking the others would occupy them
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    numpy_state = [name, np.asarray(keys).tolist(), position, has_gauss, gauss]
    return tensors, {"numpy": numpy_state, "python": [version, list(internal), gauss_next]}


def set_rng_state(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Inverse of `rng_state`, on the GPU that is current now, if there is one."""
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available() and "cuda.0" in tensors:
        torch.cuda.set_rng_state(tensors["cuda.0"])
    name, keys, position, has_gauss, gauss = values["numpy"]
    state = (name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss)
    np.random.set_state(state)  # noqa: NPY002
    version, internal, gauss_next = values["python"]
    random.setstate((version, tuple(internal), gauss_next))
