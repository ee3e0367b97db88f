"""How predictions break: flips and confusions, from the recorded logits of probe images.

Frames with a row per stage have the columns stage (0 = the frozen CLIP, k = after the k-th task),
after (a task or "zero-shot"), domain, status ("learned", "current", "unseen", "held-out").
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlcl_toolkit.analysis.points import chosen_domains, logits
from vlcl_toolkit.probes import Probes


def flips(probes: Probes, domains: Sequence[str] | None = None) -> pd.DataFrame:
    """How many predictions differ from the frozen CLIP's, for better and for worse.

    Accuracy shows only repaired minus broken; the same accuracy can hide many of both.

    Columns: stage, after, domain, status; accuracy, changed (another class is predicted), broken
    (right before, wrong now: the negative flips of Yan et al. 2021), repaired (wrong before, right
    now); percent of the probe images.
    """
    rows = []
    for domain in chosen_domains(probes, domains):
        labels = probes.labels(domain)
        frozen = logits(probes, 0, domain).argmax(axis=1)
        for stage in probes.stages:
            now = logits(probes, stage, domain).argmax(axis=1)
            shares = {
                "accuracy": now == labels,
                "changed": now != frozen,
                "broken": (frozen == labels) & (now != labels),
                "repaired": (frozen != labels) & (now == labels),
            }
            percent = {name: 100 * float(hit.mean()) for name, hit in shares.items()}
            rows.append(probes.where(stage, domain) | percent)
    return pd.DataFrame(rows)


def confusion(probes: Probes, stage: int, domain: str) -> pd.DataFrame:
    """Percent of each true class (rows) put into each class (columns); rows without images are nan."""
    words, labels = _words(probes, domain), probes.labels(domain)
    found = logits(probes, stage, domain)
    counts = np.zeros((found.shape[1],) * 2)
    np.add.at(counts, (labels, found.argmax(axis=1)), 1)
    images = counts.sum(axis=1, keepdims=True)
    share = np.divide(100 * counts, images, out=np.full_like(counts, np.nan), where=images > 0)
    return pd.DataFrame(
        share, index=pd.Index(words, name="true"), columns=pd.Index(words, name="predicted")
    )


def confusion_drift(probes: Probes, stage: int, domain: str) -> pd.DataFrame:
    """`confusion` now minus that of the frozen CLIP, in points; every row sums to 0.

    On the diagonal, what each class lost; beside it, where its images went.
    """
    return confusion(probes, stage, domain) - confusion(probes, 0, domain)


def _words(probes: Probes, domain: str) -> np.ndarray:
    words = probes.class_names(domain)
    if not words:
        words = [str(label) for label in range(probes.logits(probes.stages[0], domain).shape[1])]
    return np.array(words, dtype=object)
