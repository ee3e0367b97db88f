"""Which experts work for which domain, and what freezing protects (MoE-Adapters).

Everything is computed from probes (`RunResult.probes`). A choice is one input choosing one expert;
an image chooses k experts in every block, class prompts count once per image compared with them.
Source: Yu et al. CVPR 2024, section 3.2.
"""

import itertools

import numpy as np
import pandas as pd

from vlcl_toolkit.analysis.points import chosen_stage
from vlcl_toolkit.probes import Probes


def expert_use(probes: Probes, *, stage: int | None = None, tower: str = "image") -> pd.DataFrame:
    """Share of choices and of gate mass that each expert gets.

    Args:
        stage: None: the last one that there is. tower: "image" or "text".

    Returns:
        columns domain, status, block, expert, choices, share, gate_share (both sum to 1 over the
        experts of a block; nan for a domain whose images all take the frozen CLIP).

    Raises:
        UserError: the run has no experts, or no probes.
    """
    table = probes.routing()
    wanted = chosen_stage(probes, stage)
    rows = table[(table["stage"] == wanted) & (table["tower"] == tower)].copy()
    groups = rows.groupby(["domain", "block"], sort=False)
    rows["share"] = rows["choices"] / groups["choices"].transform("sum")
    rows["gate_share"] = rows["gate_mass"] / groups["gate_mass"].transform("sum")
    columns = ["domain", "status", "block", "expert", "choices", "share", "gate_share"]
    return rows[columns].reset_index(drop=True)


def expert_overlap(
    probes: Probes, *, stage: int | None = None, tower: str = "image"
) -> pd.DataFrame:
    """How much two domains share experts: sum over experts of the smaller of their shares.

    Returns:
        columns domain, other, block, overlap (0 = no expert in common, 1 = the same use).
    """
    use = expert_use(probes, stage=stage, tower=tower)
    tables = use.pivot(index="expert", columns=["domain", "block"], values="share")
    rows = []
    for block in sorted(use["block"].unique()):
        for domain, other in itertools.product(use["domain"].unique(), repeat=2):
            smaller = np.minimum(tables[domain, block], tables[other, block])
            overlap = smaller.sum(skipna=False)
            rows.append({"domain": domain, "other": other, "block": block, "overlap": overlap})
    return pd.DataFrame(rows)


def freezing_protects(
    probes: Probes, *, stage: int | None = None, tower: str = "image"
) -> pd.DataFrame:
    """What later tasks did to the experts that a learned task relies on.

    Returns:
        one row per learned task and block: columns domain, block, changed (share in 0 .. 1 of the
        task's test-time choices that fall on experts whose weights moved after it was learned), and
        protected (1 - changed). The task learned last is protected by being the last.
    """
    wanted = chosen_stage(probes, stage)
    use = expert_use(probes, stage=wanted, tower=tower)
    rows = []
    for number, domain in enumerate(probes.order[:wanted], start=1):
        later = [s for s in probes.stages if number < s <= wanted]
        moved = [probes.array(s, f"expert_change/{tower}") > 0 for s in later]
        own = use[use["domain"] == domain]
        for block, choices in own.groupby("block"):
            shares = choices.sort_values("expert")["share"].to_numpy()
            hit = np.any([m[int(block) - 1] for m in moved], axis=0) if moved else shares < 0
            changed = float(shares[hit].sum()) if np.isfinite(shares).all() else float("nan")
            rows.append(
                {"domain": domain, "block": block, "changed": changed, "protected": 1 - changed}
            )
    return pd.DataFrame(rows)
