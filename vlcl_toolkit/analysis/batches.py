"""All domains of a run in test batches of one mix: what deciding together costs or gains each."""

import pandas as pd

from vlcl_toolkit.analysis.decisions import batch_mix
from vlcl_toolkit.probes import Probes


def mixed_batches(
    probes: Probes,
    *,
    mix: float | int,
    threshold: float | int = 1,
    step: int | None = None,
    batches: int = 40,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy on every domain where it is `mix` percent of a test batch; see `batch_mix`.

    Args:
        mix: percent of a batch that is of the domain, in (0, 100]; the rest is of all others.
        threshold: MoE-Adapters: thresholds are this many times the run's own.
        step: None: the last one that there is.
        batches: drawn for each domain. seed: of the draw.

    Returns:
        columns domain, status, mix, threshold, decision ("batch", "sample": each image alone),
        accuracy, right (percent of the domain's images, means over `batches`).

    Raises:
        UserError: a mix outside (0, 100]; the run has no routes or no probes.
    """
    wanted = probes.steps[-1] if step is None else step
    tables = []
    for domain in probes.domains:
        table = batch_mix(
            probes,
            domain,
            step=wanted,
            shares=(mix,),
            batches=batches,
            seed=seed,
            threshold=threshold,
        )
        table.insert(0, "domain", domain)
        table.insert(1, "status", probes.status(wanted, domain))
        table.insert(2, "threshold", float(threshold))
        tables.append(table.rename(columns={"share": "mix"}))
    return pd.concat(tables, ignore_index=True)
