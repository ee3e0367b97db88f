"""Adds up what happens inside the blocks while one domain goes through them."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from torch import Tensor


@dataclass
class Tally:
    """A `Watcher` that adds up what it hears.

    Attributes:
        shares: sum over rows and number of rows, by tower and block.
        choices, gates: per expert, by tower and block.
        weight: what a row of texts counts for (images that take the route).
    """

    shares: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    choices: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    gates: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    weight: int = 1

    def prompts(self, tower: str, block: int, share: Float[Tensor, " rows"]) -> None:
        """Add shares."""
        total, count = self.shares.get((tower, block), (0.0, 0))
        self.shares[tower, block] = (total + float(share.sum()), count + len(share))

    def experts(self, tower: str, block: int, gates: Float[Tensor, "rows experts"]) -> None:
        """Add gates; texts count once for every image that is compared with them."""
        rows = gates.double().cpu().numpy()
        if tower == "text":
            rows = rows.mean(axis=0, keepdims=True).repeat(self.weight, axis=0)
        key = (tower, block)
        self.choices[key] = self.choices.get(key, 0) + (rows > 0).sum(axis=0)
        self.gates[key] = self.gates.get(key, 0.0) + rows.sum(axis=0)

    def arrays(self, domain: str, blocks: dict[str, int]) -> dict[str, np.ndarray]:
        """As in files.py."""
        found = {}
        for tower, count in blocks.items():
            shares = np.full(count, np.nan, dtype=np.float32)
            for block in range(count):
                if (tower, block) in self.shares:
                    total, rows = self.shares[tower, block]
                    shares[block] = total / rows
            if not np.isnan(shares).all():
                found[f"attention/{tower}/{domain}"] = shares
            for kind, heard in (("choices", self.choices), ("gate_mass", self.gates)):
                per_block = [
                    heard[tower, block] for block in range(count) if (tower, block) in heard
                ]
                if per_block:
                    found[f"{kind}/{tower}/{domain}"] = np.stack(per_block)
        return found
